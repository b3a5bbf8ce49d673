"""Tables of several arms, several replicas, and a policy on another machine."""

from __future__ import annotations

from typing import Any

from ecovla_ros.publish.markdown import Document, command_line, markdown, number, percent, source


def sessions(document: Document) -> str:
    """Ways to hold several arms on one engine."""
    rows = [
        [f"{r['sessions']}", r["way"], number(r["turn_p50_ms"]), number(r["frame_p50_ms"]), number(r["mean_ms"]),
         f"{r['speedup']:.2f}x", f"{r['rows_moved']:.0f}", _milli(r)]
        for r in document["rows"]
    ]  # fmt: skip
    head = ("arms", "way", "change of turns, p50, ms", "frame, p50, ms", "both, mean, ms", "speed, dense = 1",
            "rows moved at a change", "error of the actions, rms, mrad (95 %)")  # fmt: skip
    settings = document["settings"]
    command = command_line(f"ecovla bench --sessions {settings['sessions']}", {"frames": 300}, settings)
    return markdown(head, rows, source(document, command))


def _milli(row: Any) -> str:
    rms, low, high = (row[key] for key in ("rms_rad", "rms_low_rad", "rms_high_rad"))
    return f"{1e3 * rms:.2f}" + (f" ({1e3 * low:.2f} to {1e3 * high:.2f})" if low is not None and rms else "")


def serve(*documents: Document) -> str:
    """What several clients saw of a server, from several files."""
    rows = [[_question(r), _found(r), "yes" if r["reached"] else "no"] for d in documents for r in d["rows"]]
    lines = []
    for document in documents:
        settings = document["settings"]
        known = {"clients": 8, "replicas": 1, "frames": 300, "requests": 50_000}
        lines.append(source(document, command_line(f"ecovla bench --serve {settings['serve']}", known, settings)))
    return markdown(("question", "found", "reached"), rows, "<br>\n".join(lines))


def _question(row: Any) -> str:
    clients, replicas = row["clients"], row["replicas"]
    where = f"{replicas} replica{'s' if replicas > 1 else ''}"
    if row["question"] == "memory":
        asked = f"{row['requests']} messages of {clients} clients ({row['frames']:.0f} frames)"
        return f"{where}, {asked}: does memory stay within 5 %?"
    if row["question"] == "a replica killed":
        return f"{where}, {clients} clients, one replica killed: answered again within 5 s, others undisturbed?"
    return (
        f"{where}, {clients} clients at once: worst p99 at most 1.5 of the mean, throughput at least 0.9 of one after "
        "the other?"
    )


def _found(row: Any) -> str:
    if row["question"] == "memory":
        return (
            f"{percent(row['growth'], 1)} from {row['memory_after_tenth_mb']:.0f} to {row['memory_last_mb']:.0f} MB; "
            f"{row['errors']} errors, {row['wrong']} wrong answers"
        )
    if row["question"] == "a replica killed":
        again = row["answered_again_s"]
        return (
            f"{row['sessions_hit']} sessions hit, told once: {'yes' if row['told_once'] else 'no'}, answered again "
            f"after {'-' if again is None else f'{again:.1f} s'}; the other {row['others']} waited "
            f"{row['others_longest_ms']:.0f} ms at most ({row['others_longest_before_ms']:.0f} ms before); "
            f"{row['wrong']} wrong answers of {row['answers']}"
        )
    return (
        f"{row['worst_over_mean_p99']:.2f} and {row['throughput_over_alone']:.2f}; p50 {row['p50_ms']:.0f} ms, worst "
        f"p99 {row['worst_p99_ms']:.0f} ms (alone p50 {row['alone_p50_ms']:.0f} ms); {row['wrong']} wrong answers of "
        f"{row['answers']}"
    )


def shards(document: Document) -> str:
    """vla-eval's shards of real LIBERO tasks against replicas of the server."""
    rows = [
        [f"{r['replicas']}", f"{r['shards']}", number(r["actions_hz"]), f"{r['over_first']:.2f}",
         f"{r['requests']:.0f}", f"{r['frames']:.0f}", f"{r['errors']:.0f}", "yes" if r["reached"] else "no"]
        for r in document["rows"]
    ]  # fmt: skip
    head = ("replicas", "shards", "actions a second, all shards", "of the first row", "messages", "frames", "errors",
            "every step answered")  # fmt: skip
    settings = document["settings"]
    command = f"python tools/libero_shards.py --pairs {settings['pairs']} --steps {settings['steps']}"
    return markdown(head, rows, source(document, command))


def link(document: Document) -> str:
    """A policy on another machine, and a cable that is unplugged."""
    rows = []
    for r in document["rows"]:
        if r["trial"] == "unplugged":
            rest = "did not rest" if r["rest_s"] is None else f"at rest after {r['rest_s']:.2f} s"
            again = "not" if r["running_again_s"] is None else f"{r['running_again_s']:.1f} s later"
            told = f"guard: {', '.join(r['states']) or 'RUNNING'}; {rest}; runs again {again}"
            outside = ", ".join(r["violations"]) or "nothing"
            rows.append([f"unplugged for {r['cut_s']:g} s", told, outside])
        else:
            told = (
                f"picture to command {number(r['camera_to_command_p50_ms'])} ms (p50), "
                f"{number(r['camera_to_command_p99_ms'])} ms (p99); picture to chunk beside the policy's call "
                f"{number(r['beside_policy_p50_ms'])} ms"
            )
            if r["to_policy_mbit_s"] is not None:
                told += f"; {r['to_policy_mbit_s']:.2f} Mbit/s to the policy, {r['to_arm_mbit_s']:.2f} back"
            rows.append([f"{r['trial']}, {r['pictures']}", told, "-"])
    settings = document["settings"]
    command = f"ecovla trial --link --repeat {settings['repeat']}"
    return markdown(("trial", "found", "outside limits"), rows, source(document, command))
