"""Checks that pictures are recent, and says what is wrong when they do not come."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ecovla_ros.errors import ObservationError
from ecovla_ros.nodes.ros.mailbox import Mailbox
from ecovla_ros.wire import causes

PACKED = "/compressed"
"""What image_transport puts behind the name of a raw topic."""


def check_age(stamp_ns: int, now_ns: int, valid_s: float) -> None:
    """Raises ObservationError for a picture that is too old, stamped in the future, or not at all."""
    if stamp_ns == 0:
        raise ObservationError(causes.unstamped("the newest image"))
    age_s = (now_ns - stamp_ns) / 1e9
    if age_s > valid_s:
        raise ObservationError(causes.old(age_s, valid_s))
    if age_s < -valid_s:
        raise ObservationError(causes.future("the newest image", -age_s))


def check_silence(
    mailbox: Mailbox,
    topics: Mapping[str, str],
    publishers: Callable[[str], int],
    times_ns: tuple[int, int],
    valid_s: float,
) -> None:
    """Raises ObservationError when no frame is due because a camera says nothing, or nothing that fits the others.

    `topics`: camera -> topic. `publishers` counts those of a topic. `times_ns`: when listening began, and now.
    """
    since_ns, now_ns = times_ns
    if now_ns == 0:
        raise ObservationError("the clock stands at zero; valid: use_sim_time and a publisher on /clock, or neither")
    age_ns = round(valid_s * 1e9)
    silent = mailbox.silent(now_ns, age_ns)
    if not silent and mailbox.apart:
        raise ObservationError(mailbox.apart)
    if not silent or 0 <= now_ns - since_ns < age_ns:
        return
    for topic in (topics[camera] for camera in silent):
        if not publishers(topic) and publishers(f"{topic}{PACKED}"):
            raise ObservationError(causes.packed(topic, f"{topic}{PACKED}"))
    missing = [f"{topics[camera]} ({publishers(topics[camera])} publishers)" for camera in silent]
    raise ObservationError(
        f"{causes.silent(valid_s, missing)}; valid: an image on every one of "
        f"{', '.join(topics.values())}, remap where yours are named otherwise"
    )
