"""One cause, one sentence: what is said of a fault that several of our programs can meet, live or in a bag.

`ecovla replay` reads a bag, `ecovla doctor` listens, and the nodes publish diagnostics and status. Whoever looks for
one sentence of theirs finds the same fault under the same words. A sentence ends with what would be valid.
"""

from __future__ import annotations

from collections.abc import Collection


def degrees(joint: str, value: float) -> str:
    """A joint position that cannot be radians."""
    return f"{joint} is at {value:.4g}, more than two turns; are these degrees? valid: rad"


def old(age_s: float, most_s: float) -> str:
    """Pictures come, and their stamps stand still or are of another clock."""
    return f"the newest image is {age_s:.3f} s old; valid: up to {most_s:.3f} s (a frozen camera, or another clock)"


def future(what: str, ahead_s: float) -> str:
    """A stamp that lies ahead of the clock. `what`: "the newest image", "its observation"."""
    return f"{what} is stamped {ahead_s:.3f} s in the future; valid: one clock for all (use_sim_time, NTP)"


def unstamped(what: str) -> str:
    """A stamp of zero, as of a driver that sets none. `what`: "the newest image", "joint_states"."""
    return f"{what} has no stamp (zero): its driver sets none; valid: the time at which it was taken"


def apart(camera: str, behind_s: float, most_s: float) -> str:
    """A camera whose stamps never come near those of the others."""
    return f"{camera} is {behind_s:.3f} s behind the other cameras; valid: stamps up to {most_s:.3f} s apart"


def away(name: str, away_s: float, most_s: float) -> str:
    """An input of one frame that is of another time than its newest picture."""
    return f"{name} is {away_s:.3f} s away from the newest image; valid: up to {most_s:.3f} s"


def frozen(camera: str, moved_rad: float) -> str:
    """The same picture under new stamps, while the arm moves."""
    return (
        f"{camera} shows the same picture, byte for byte, though a joint moved by {moved_rad:.2f} rad: the camera is "
        "frozen; valid: a new picture with every stamp"
    )


def silent(seconds: float, topics: Collection[str]) -> str:
    """Nothing comes from a camera."""
    return f"no image for {seconds:.1f} s on {', '.join(topics)}"


def packed(topic: str, there: str) -> str:
    """The raw topic is asked for, and only the compressed one is there."""
    return f"no raw pictures on {topic}, while {there} is there; valid: compressed:=true, or --map in a replay"


def crowded(topic: str, who: Collection[str]) -> str:
    """Several publishers take turns on the topic of one camera. `who`: nodes, or the frames of their pictures."""
    return f"{len(who)} publishers on {topic}: {', '.join(sorted(who))}; valid: one, as their pictures take turns"
