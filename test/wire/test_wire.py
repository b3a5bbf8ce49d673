"""Wire: messages by field name to values and back; every bad input gets one error that says what would be valid."""

from __future__ import annotations

import math
from types import SimpleNamespace as Message

import cv2
import numpy as np
import pytest

from ecovla_ros import wire
from ecovla_ros.errors import ControlError, ObservationError
from ecovla_ros.types import CAMERAS, GRIPPER_CLOSED_RAD, GRIPPER_JOINT, JOINTS, ActionChunk, FrameReport, Trajectory


def header(ns: int = 5_000_000_000) -> Message:
    return Message(stamp=Message(sec=ns // 10**9, nanosec=ns % 10**9), frame_id="")


def image(pixels: np.ndarray, encoding: str = "rgb8", pad: int = 0, ns: int = 5_000_000_000) -> Message:
    height, width = pixels.shape[:2]
    rows = pixels.reshape(height, -1)
    rows = np.hstack([rows, np.full((height, pad), 77, np.uint8)])
    return Message(
        header=header(ns),
        encoding=encoding,
        height=height,
        width=width,
        step=rows.shape[1],
        is_bigendian=0,
        data=rows.tobytes(),
    )


def joint_state(order: list[str] | None = None, ns: int = 5_000_000_000, **changes: float) -> Message:
    values = {name: 0.1 * i for i, name in enumerate(JOINTS)} | {GRIPPER_JOINT: 0.4, "other": math.nan} | changes
    names = order or list(values)
    return Message(
        header=header(ns),
        name=names,
        position=[values[n] for n in names],
        velocity=[0.0 if n == "other" else 0.01 for n in names],
        effort=[],
    )


RGB = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
ALPHA = np.full((6, 5, 1), 9, np.uint8)


@pytest.mark.reads("image encoding", "{encoding}")
@pytest.mark.parametrize("pad", [0, 7])
@pytest.mark.parametrize(
    "encoding, pixels",
    [
        ("rgb8", RGB),
        ("bgr8", RGB[..., ::-1]),
        ("rgba8", np.dstack([RGB, ALPHA])),
        ("bgra8", np.dstack([RGB[..., ::-1], ALPHA])),
        ("8UC3", RGB[..., ::-1]),
        ("8UC4", np.dstack([RGB[..., ::-1], ALPHA])),
        ("rgb16", (RGB.astype("<u2") * np.uint16(256) + np.uint16(7)).astype("<u2").view(np.uint8)),
        ("bgr16", (RGB[..., ::-1].astype("<u2") * np.uint16(256)).astype("<u2").view(np.uint8)),
    ],
)
def test_every_colour_encoding_gives_the_same_rgb(encoding: str, pixels: np.ndarray, pad: int) -> None:
    decoded = wire.decode_image(image(np.ascontiguousarray(pixels), encoding, pad))
    np.testing.assert_array_equal(decoded, RGB)
    assert decoded.dtype == np.uint8 and decoded.flags.c_contiguous and decoded.flags.writeable


@pytest.mark.reads("image encoding", "{encoding}")
@pytest.mark.parametrize("encoding", ["bayer_rggb8", "bayer_bggr8", "bayer_gbrg8", "bayer_grbg8"])
def test_a_mosaic_of_one_colour_gives_that_colour(encoding: str) -> None:
    colour = dict(zip("rgb", (200, 90, 30)))
    tile = np.array([colour[c] for c in encoding[6:10]], np.uint8).reshape(2, 2)
    decoded = wire.decode_image(image(np.tile(tile, (4, 5))[..., None].copy(), encoding, pad=3))
    np.testing.assert_array_equal(decoded[2:-2, 2:-2], np.broadcast_to((200, 90, 30), (4, 6, 3)))


@pytest.mark.parametrize("encoding, order", [("yuv422", (1, 0, 3, 2)), ("yuv422_yuy2", (0, 1, 2, 3))])
def test_luminance_and_chrominance_give_colours(encoding: str, order: tuple[int, ...]) -> None:
    """BT.601, studio swing: red is Y 82, U 90, V 240. Two pixels: Y U Y V."""
    red = np.array([82, 90, 82, 240], np.uint8)[list(order)].reshape(2, 2)
    decoded = wire.decode_image(image(np.tile(red, (2, 3, 1)).reshape(2, 6, 2).copy(), encoding))
    assert np.abs(decoded.astype(int) - (255, 0, 0)).max() <= 2
    with pytest.raises(ObservationError, match="valid: even sides"):
        wire.decode_image(image(np.zeros((2, 5, 2), np.uint8), encoding))


def test_sixteen_bits_in_either_byte_order_are_the_upper_eight() -> None:
    grey = RGB[..., :1]
    for order, big in (("<u2", 0), (">u2", 1)):
        msg = image((grey.astype("u2") * 256 + 3).astype(order).view(np.uint8).reshape(6, 5, 2), "mono16")
        msg.is_bigendian = big
        np.testing.assert_array_equal(wire.decode_image(msg), np.repeat(grey, 3, 2))


def test_mono_is_grey_and_png_is_exact() -> None:
    np.testing.assert_array_equal(wire.decode_image(image(RGB[..., :1].copy(), "mono8")), np.repeat(RGB[..., :1], 3, 2))
    png = Message(header=header(), format="rgb8; png compressed bgr8", data=cv2.imencode(".png", RGB[..., ::-1])[1])
    np.testing.assert_array_equal(wire.decode_image(png), RGB)


@pytest.mark.parametrize(
    "change, says",
    [
        ({"encoding": "rgb88"}, "unknown image encoding 'rgb88'.*bgr8.*mono8.*Did you mean 'rgb8'"),
        ({"encoding": "16UC1"}, "16UC1 is a depth picture; valid: .*bgr8, bgra16, bgra8, i420, mono16, mono8"),
        ({"data": b"123"}, "3 bytes with step 15 are not 5 x 6 px of rgb8"),
        ({"step": 14}, "step 14.*at least 15"),
        ({"height": 0}, "5 x 0 px; valid: 1 to"),
        ({"width": 10**9, "step": 3 * 10**9}, "valid: 1 to"),
    ],
)
def test_a_bad_image_says_what_is_valid(change: dict, says: str) -> None:
    msg = image(RGB)
    vars(msg).update(change)
    with pytest.raises(ObservationError, match="wrist: .*" + says):
        wire.decode_image(msg, "wrist")


@pytest.mark.parametrize(
    "format_, data, says",
    [
        ("jpeg", b"", "'jpeg'.*0 bytes do not decode"),
        ("jpeg", b"not a picture", "do not decode"),
        ("h264", b"123", "'h264'.*valid: a whole JPEG or PNG"),
    ],
)
def test_a_bad_compressed_image_says_what_is_valid(format_: str, data: bytes, says: str) -> None:
    with pytest.raises(ObservationError, match=says):
        wire.decode_image(Message(header=header(), format=format_, data=data))


def test_images_survive_the_wire_with_their_stamp() -> None:
    empty = Message(header=header(0), data=np.zeros(0, np.uint8))
    msg = wire.fill_image(empty, RGB, 1_234_567_890_123, "wrist_optical_frame")
    np.testing.assert_array_equal(wire.decode_image(msg), RGB)
    assert wire.stamp_ns(msg.header.stamp) == 1_234_567_890_123


def test_joints_are_mapped_by_name_whatever_their_order() -> None:
    expected = wire.arm_state(joint_state())
    names = [*reversed(JOINTS), "other", GRIPPER_JOINT]
    shuffled = wire.arm_state(joint_state(names))
    np.testing.assert_array_equal(shuffled.joints, expected.joints)
    np.testing.assert_allclose(expected.joints, 0.1 * np.arange(7))
    assert shuffled.gripper == pytest.approx(0.4 / GRIPPER_CLOSED_RAD)


def test_joint_states_without_velocities_are_at_rest_and_a_slack_gripper_is_clipped() -> None:
    msg = joint_state(**{GRIPPER_JOINT: GRIPPER_CLOSED_RAD + 0.01})
    msg.velocity = []
    state = wire.arm_state(msg)
    assert state.gripper == 1.0 and not state.velocity.any()


@pytest.mark.parametrize(
    "msg, says",
    [
        (joint_state([*JOINTS[:3], *JOINTS[4:], GRIPPER_JOINT]), "lacks joint_4; it holds: joint_1, "),
        (joint_state(list(JOINTS)), f"lacks {GRIPPER_JOINT}"),
        (joint_state(["other"]), "lacks joint_1, .*it holds: other"),
        (joint_state([*JOINTS, GRIPPER_JOINT, "joint_2"]), "names joint_2 more than once"),
        (joint_state(joint_6=math.nan), "not finite for joint_6"),
        (joint_state(joint_1=math.inf), "not finite for joint_1"),
    ],
)
def test_bad_joint_states_name_the_joint(msg: Message, says: str) -> None:
    with pytest.raises(ObservationError, match=says):
        wire.arm_state(msg)


def test_joint_states_of_unequal_lengths_are_refused() -> None:
    msg = joint_state()
    msg.position = msg.position[:-1]
    with pytest.raises(ObservationError, match="9 names, 8 positions and 9 velocities"):
        wire.arm_state(msg)


def test_an_observation_is_stamped_as_its_newest_image() -> None:
    images = {"third_person": image(RGB, ns=10**9), "wrist": image(RGB, ns=10**9 + 30_000_000)}
    seen = wire.observation(images, wire.arm_state(joint_state(ns=10**9)), "place the apple in the basket", 0.05)
    assert seen.stamp_ns == 10**9 + 30_000_000 and set(seen.images) == set(CAMERAS)


@pytest.mark.parametrize(
    "wrist_ns, joints_ns, text, says",
    [
        (10**9, 2 * 10**9, "go", "joint_states is 1.000 s away from the newest image; valid: up to 0.050 s"),
        (10**9 - 60_000_000, 10**9, "go", "wrist is 0.060 s away"),
        (10**9, 10**9, "  ", "no instruction yet"),
    ],
)
def test_an_observation_that_does_not_fit_together_is_refused(
    wrist_ns: int, joints_ns: int, text: str, says: str
) -> None:
    images = {"third_person": image(RGB, ns=10**9), "wrist": image(RGB, ns=wrist_ns)}
    with pytest.raises(ObservationError, match=says):
        wire.observation(images, wire.arm_state(joint_state(ns=joints_ns)), text, 0.05)


def chunk_message() -> Message:
    return Message(header=header(0), period=0.0, horizon=0, joint_names=[], positions=[], gripper=[])


def a_chunk() -> ActionChunk:
    rng = np.random.default_rng(1)
    return ActionChunk(7_000_000_001, 0.1, rng.normal(size=(4, 7)), rng.uniform(size=4))


def test_a_chunk_survives_the_wire_and_keeps_the_observation_stamp() -> None:
    sent = a_chunk()
    got = wire.chunk(wire.fill_chunk(chunk_message(), sent))
    assert (got.stamp_ns, got.period_s) == (sent.stamp_ns, sent.period_s)
    np.testing.assert_array_equal(got.joints, sent.joints)
    np.testing.assert_array_equal(got.gripper, sent.gripper)


def test_chunk_columns_are_mapped_by_name() -> None:
    msg = wire.fill_chunk(chunk_message(), a_chunk())
    msg.joint_names = list(reversed(msg.joint_names))
    np.testing.assert_array_equal(wire.chunk(msg).joints, a_chunk().joints[:, ::-1])


@pytest.mark.parametrize(
    "change, says",
    [
        ({"joint_names": ["a"] * 7}, "not the arm's; valid: joint_1"),
        ({"horizon": 3}, "horizon 3 with 28 positions"),
        ({"horizon": 0}, "at least 1"),
        ({"gripper": [0.0]}, "1 gripper targets"),
        ({"period": 0.0}, "positive number"),
        ({"period": math.nan}, "positive number"),
    ],
)
def test_a_bad_chunk_says_what_is_valid(change: dict, says: str) -> None:
    msg = wire.fill_chunk(chunk_message(), a_chunk())
    vars(msg).update(change)
    with pytest.raises(ControlError, match=says):
        wire.chunk(msg)


def point() -> Message:
    return Message(positions=[], velocities=[], accelerations=[], time_from_start=Message(sec=0, nanosec=0))


@pytest.mark.parametrize("moving", [False, True])
def test_a_trajectory_survives_the_wire(moving: bool) -> None:
    positions = np.random.default_rng(2).normal(size=(3, 7))
    sent = Trajectory(np.array([0.1, 0.25, 1.5]), positions, np.zeros((3, 7)) if moving else None)
    got = wire.trajectory(wire.fill_trajectory(Message(header=header(0), points=[]), sent, point))
    np.testing.assert_allclose(got.times_s, sent.times_s, atol=1e-9)
    np.testing.assert_array_equal(got.positions, positions)
    assert (got.velocities is not None) == moving


def test_a_ragged_or_empty_trajectory_is_refused() -> None:
    msg = wire.fill_trajectory(Message(header=header(0)), Trajectory(np.array([0.1]), np.zeros((1, 7))), point)
    msg.points[0].velocities = [0.0]
    with pytest.raises(ControlError, match=r"7 joint names and velocities of \[1\]"):
        wire.trajectory(msg)
    msg.points = []
    with pytest.raises(ControlError, match="without points"):
        wire.trajectory(msg)


def test_a_gripper_target_survives_the_wire_and_a_foreign_joint_is_refused() -> None:
    msg = wire.fill_gripper(Message(header=header(0)), 0.75, 0.2, point)
    assert wire.gripper(msg) == pytest.approx(0.75)
    msg.points[0].positions = [1.2]
    with pytest.raises(ControlError, match="1.2 rad; valid: 0"):
        wire.gripper(msg)
    msg.joint_names = ["finger"]
    with pytest.raises(ControlError, match=GRIPPER_JOINT):
        wire.gripper(msg)


def test_a_deadline_is_missed_by_the_policy_call_alone() -> None:
    report = FrameReport(stamp_ns=3, stages_ms={"encode": 4.0, "prefill": 50.0}, total_ms=90.0)
    for deadline, missed in ((100.0, False), (80.0, True)):
        msg = wire.fill_latency(Message(header=header(0)), report, 12, 2, 130.0, deadline)
        assert msg.deadline_missed is missed
    assert (msg.encode_ms, msg.act_ms, msg.camera_to_chunk_ms, msg.frames_dropped) == (4.0, 0.0, 130.0, 2)
