"""Quality of service for each kind of topic, by what it costs to lose a message or to get an old one."""

from __future__ import annotations

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

SENSOR = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
"""Images and joint states: an old one is worth nothing. Matches reliable and best-effort publishers."""

CHUNKS = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=20, reliability=ReliabilityPolicy.RELIABLE)
"""Chunks where they are taken: the owner's must be found among what others send."""

STATES = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=128, reliability=ReliabilityPolicy.BEST_EFFORT)
"""Joint states between two frames at 1 kHz, to find the one that was true when a picture was taken."""

SHARED = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=64, reliability=ReliabilityPolicy.BEST_EFFORT)
"""Joint states between two ticks of the guard: others publish theirs on the same topic, and must not push ours out."""

COMMAND = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=1, reliability=ReliabilityPolicy.RELIABLE)
"""Chunks, trajectories: must arrive, and a queued old one is worse than none."""

LATCHED = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
"""Status, instruction, success: whoever joins late sees the last one."""

FAULTS = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=20,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
"""The arm's faults where they are heard: what was said before, and every one since the last look."""

REPORT = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=10, reliability=ReliabilityPolicy.RELIABLE)
"""Latency and pruning of every frame, diagnostics; who asks to go on moving."""
