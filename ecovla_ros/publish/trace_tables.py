"""Table of episodes frame by frame: what happens after the last refresh."""

from __future__ import annotations

import numpy as np

from ecovla_ros.publish.markdown import Document, command_line, markdown, source

TRACE_DEFAULTS = {
    "task": "bottle",
    "environment": "shift",
    "method": "ecovla",
    "refresh": "probe",
    "ratio": 0.25,
    "seed": 1000,
    "json": "",
}
"""What `python -m ecovla_ros.bench.success.trace` does without being told; test_shipped holds it against that."""


def waiting(*documents: Document) -> str:
    """One row an episode: when the last refresh came, how still it was after it, and what the gripper was told.

    A chunk tells the gripper something now (its first target) and in a while (its last).
    """
    rows = []
    for document in documents:
        frames, outcome = document["rows"], document["outcome"]
        last = max(i for i, frame in enumerate(frames) if frame["kind"] == "refresh")
        after = frames[last + 1 :] or frames[last:]
        now, later = (float(np.median([f[key] for f in after])) for key in ("gripper_first", "gripper_last"))
        rows.append(
            [
                ", ".join(document["settings"]["set"]) or "as shipped",
                f"{'solved' if outcome['success'] else 'not solved'}, {outcome['seconds']:.1f} s",
                f"{frames[last]['seconds']:.1f} s",
                f"{len(frames) - 1 - last}",
                f"{np.median([f['similarity'] for f in after]):.4f}",
                f"{after[-1]['threshold']:.4f}",
                f"{now:.2f} / {later:.2f}",
            ]
        )
    head = ("setting", "episode", "last refresh", "frames after it", "similarity in them, p50", "threshold",
            "gripper told: now / at the chunk's end")  # fmt: skip
    command = command_line("python -m ecovla_ros.bench.success.trace", TRACE_DEFAULTS, documents[0]["settings"])
    return markdown(head, rows, source(documents[0], command))


def reaction(document: Document) -> str:
    """How soon a command answers a changed scene, with and without waiting for a turn."""
    rows = [
        [
            row["where"],
            f"{row['react_s']:g}" if row["react_s"] else "0: at its turn",
            f"{row['n']}",
            f"{row['not_answered']}",
            f"{row['p50_s']:.2f} / {row['p95_s']:.2f}",
            f"{row['solved']}/{row['episodes']}" if "solved" in row else "not measured",
        ]
        for row in document["rows"]
    ]
    head = ("where", "control.react_s", "changes answered", "not answered", "s, p50 / p95", "solved")
    settings = document["settings"]
    more = f" --episodes {settings['episodes']} --seed {settings['seed']} --ros {settings['ros']}"
    more += " --whole" if settings["whole"] else ""
    return markdown(head, rows, source(document, f"python -m ecovla_ros.stage.reaction{more}"))
