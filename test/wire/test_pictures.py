"""Pictures as cameras send them: planes of colours, depth on a colour topic, a JPEG whose end was lost."""

from __future__ import annotations

from types import SimpleNamespace as Message
from typing import Any

import cv2
import numpy as np
import pytest

from ecovla_ros import wire
from ecovla_ros.errors import ObservationError

HEIGHT, WIDTH = 48, 64
RGB = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
RGB[:, :32], RGB[:24, 32:], RGB[24:, 32:] = (200, 40, 30), (20, 90, 210), (120, 130, 140)
NOISE = cv2.resize(np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8), (320, 240))


def planes(encoding: str, pad: int) -> Message:
    """The picture as a driver publishes it, each row of a plane padded."""
    i420 = cv2.cvtColor(RGB, cv2.COLOR_RGB2YUV_I420)
    bright, u, v = i420[:HEIGHT], i420[HEIGHT : HEIGHT * 5 // 4], i420[HEIGHT * 5 // 4 :]
    u, v = u.reshape(HEIGHT // 2, WIDTH // 2), v.reshape(HEIGHT // 2, WIDTH // 2)
    if encoding == "nv24":
        u, v = (np.repeat(np.repeat(c, 2, 0), 2, 1) for c in (u, v))

    def rows(plane: np.ndarray, by: int) -> bytes:
        return np.hstack([plane, np.full((len(plane), by), 7, np.uint8)]).tobytes()

    if encoding.startswith("nv"):
        pair = np.stack([v, u] if encoding == "nv21" else [u, v], -1).reshape(len(u), -1)
        colours = rows(pair, 2 * pad if encoding == "nv24" else pad)
    else:
        first, second = (v, u) if encoding == "yv12" else (u, v)
        colours = rows(first, pad // 2) + rows(second, pad // 2)
    return Message(encoding=encoding, height=HEIGHT, width=WIDTH, step=WIDTH + pad, data=rows(bright, pad) + colours)


@pytest.mark.reads("image encoding", "{encoding}")
@pytest.mark.parametrize("pad", [0, 16])
@pytest.mark.parametrize("encoding", ["nv12", "nv21", "nv24", "yuv420", "i420", "yv12"])
def test_planes_of_brightness_and_colour_give_the_picture(encoding: str, pad: int) -> None:
    decoded = wire.decode_image(planes(encoding, pad)).astype(int)
    assert decoded.shape == RGB.shape and np.abs(decoded - RGB)[2:-2, 2:-2].mean() < 4


@pytest.mark.parametrize("encoding", ["nv12", "nv24", "yuv420"])
def test_planes_that_are_short_or_odd_are_refused(encoding: str) -> None:
    for changes in ({"data": planes(encoding, 0).data[:-1]}, {"step": 62}, {"height": 0}, {"height": 10_000}):
        with pytest.raises(ObservationError):
            wire.decode_image(Message(**{**vars(planes(encoding, 0)), **changes}))


def compressed(data: bytes, kind: str = "jpeg") -> Message:
    return Message(format=kind, data=np.frombuffer(data, np.uint8))


def png(pixels: np.ndarray) -> bytes:
    return bytes(cv2.imencode(".png", pixels)[1])


@pytest.mark.reads("refused as a picture", "depth, raw or compressed")
@pytest.mark.parametrize(
    "message",
    [
        compressed(png(np.full((48, 64), 800, np.uint16)), "16UC1; png compressed "),
        compressed(png(np.full((48, 64), 800, np.uint16)), "png"),
        compressed(bytes(12) + png(np.full((48, 64), 800, np.uint16)), "16UC1; compressedDepth png"),
        compressed(bytes(12) + png(np.full((48, 64), 800, np.uint16)), "32FC1; compressedDepth"),
        Message(encoding="16UC1", height=2, width=2, step=4, data=bytes(8)),
        Message(encoding="32FC1", height=2, width=2, step=8, data=bytes(16)),
    ],
)
def test_depth_on_a_colour_topic_is_called_depth(message: Any) -> None:
    with pytest.raises(ObservationError, match="depth picture") as raised:
        wire.decode_image(message, "wrist")
    assert "Did you mean" not in str(raised.value)


@pytest.mark.reads("image encoding", "JPEG and PNG, whatever `format` says")
def test_bytes_are_read_whatever_the_format_says() -> None:
    for kind in ("", "jpeg", "rgb8; jpeg compressed bgr8", "MJPG"):
        assert wire.decode_image(compressed(bytes(cv2.imencode(".jpg", NOISE)[1]), kind)).shape == NOISE.shape


OPTIONS: dict[str, list[int]] = {
    "plain": [], "optimised": [cv2.IMWRITE_JPEG_OPTIMIZE, 1], "restarts": [cv2.IMWRITE_JPEG_RST_INTERVAL, 4],
    "poor": [cv2.IMWRITE_JPEG_QUALITY, 30], "no subsampling": [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, 0x111111],
}  # fmt: skip


@pytest.mark.reads("refused as a picture", "a JPEG whose end was lost")
@pytest.mark.parametrize("how", OPTIONS)
@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_a_jpeg_that_lost_its_end_is_refused_though_it_ends_with_its_marker(how: str, share: float) -> None:
    whole = bytes(cv2.imencode(".jpg", NOISE, OPTIONS[how])[1])
    assert wire.decode_image(compressed(whole)).shape == NOISE.shape
    for end in (b"\xff\xd9", b"", bytes(100)):
        with pytest.raises(ObservationError, match="the JPEG was cut"):
            wire.decode_image(compressed(whole[: int(share * len(whole))] + end))


PROGRESSIVE = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]


@pytest.mark.reads("refused as a picture", "a progressive JPEG that lacks scans or restart markers")
@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("restarts", [0, 7])
def test_a_progressive_jpeg_that_lacks_scans_is_refused_and_a_whole_one_is_not(restarts: int, grey: bool) -> None:
    """Cut anywhere: without its end marker always; with one added, wherever a scan is missing or lost its markers."""
    options = [*PROGRESSIVE, *([cv2.IMWRITE_JPEG_RST_INTERVAL, restarts] if restarts else [])]
    for picture in (NOISE, NOISE[:-3, :-5], NOISE[:16, :16]):
        whole = bytes(cv2.imencode(".jpg", picture[..., 0] if grey else picture, options)[1])
        assert wire.decode_image(compressed(whole)).shape == picture.shape
        assert wire.decode_image(compressed(whole + bytes(64))).shape == picture.shape, "filled up behind its end"
        scans = [at for at in range(len(whole)) if whole[at : at + 2] == b"\xff\xda"]
        for at in scans[1:]:
            for cut in (whole[:at] + b"\xff\xd9", whole[: at - 3] + b"\xff\xd9", whole[:at]):
                with pytest.raises(ObservationError, match="the JPEG was cut"):
                    wire.decode_image(compressed(cut))
        with pytest.raises(ObservationError, match="do not come to its end: the JPEG was cut"):
            wire.decode_image(compressed(whole[:-2]))


@pytest.mark.reads("refused as a picture", "a JPEG cut within its last scan, with a thumbnail or without")
@pytest.mark.parametrize("options", [[], PROGRESSIVE, [*PROGRESSIVE, cv2.IMWRITE_JPEG_RST_INTERVAL, 7]])
def test_a_jpeg_is_cut_wherever_its_data_end_before_the_picture(options: list[int]) -> None:
    """With an end marker added, so that no marker tells: baseline, and within the last scan of a progressive one."""
    whole = bytes(cv2.imencode(".jpg", NOISE, options)[1])
    small = bytes(cv2.imencode(".jpg", NOISE[::8, ::8])[1])
    exif = b"\xff\xe1" + (8 + len(small)).to_bytes(2, "big") + b"Exif\0\0" + small
    begin = whole.rindex(b"\xff\xda") + 12
    for raw in (whole, whole[:2] + exif + whole[2:]):
        assert wire.decode_image(compressed(raw)).shape == NOISE.shape
        for at in np.linspace(begin + len(raw) - len(whole), len(raw) - 4, 25).astype(int):
            with pytest.raises(ObservationError, match="the JPEG was cut"):
                wire.decode_image(compressed(raw[:at] + b"\xff\xd9"))


def test_bytes_that_cameras_put_behind_a_jpegs_data_are_no_damage() -> None:
    whole = bytes(cv2.imencode(".jpg", NOISE)[1])
    plain = wire.decode_image(compressed(whole))
    for padded in (whole[:-2] + b"\x12\x34\x00" + whole[-2:], whole[:-2] + bytes(500) + whole[-2:], whole + b"junk"):
        assert np.array_equal(wire.decode_image(compressed(padded)), plain)
    with pytest.raises(ObservationError, match="extraneous bytes"):
        wire.decode_image(compressed(whole[:-2] + NOISE[:1].tobytes().replace(b"\xff", b"") + whole[-2:]))


def mosaic(picture: np.ndarray) -> np.ndarray:
    out = picture[..., 1].copy()
    out[::2, ::2], out[1::2, 1::2] = picture[::2, ::2, 0], picture[1::2, 1::2, 2]
    return out


@pytest.mark.reads("image encoding", "a mosaic in a JPEG or PNG, as image_transport packs it")
@pytest.mark.parametrize("ending", [".jpg", ".png"])
def test_a_mosaic_that_was_packed_gets_its_colours(ending: str) -> None:
    data = bytes(cv2.imencode(ending, mosaic(RGB))[1])
    found = wire.decode_image(compressed(data, "bayer_rggb8; jpeg compressed ")).astype(int)
    assert np.median(np.abs(found - RGB)) < 8
    colour = bytes(cv2.imencode(ending, RGB[..., ::-1])[1])
    found = wire.decode_image(compressed(colour, "bayer_rggb8; jpeg compressed bgr8")).astype(int)
    assert np.median(np.abs(found - RGB)) < 8, "in colour already"


@pytest.mark.reads("image encoding", "PNG of 16 bits, of one channel where `format` says mono16")
def test_sixteen_bits_are_colours_or_brightness_where_they_are_called_so() -> None:
    wide = np.full((48, 64), 0x7F33, np.uint16)
    assert (wire.decode_image(compressed(png(wide), "mono16; png compressed ")) == 0x7F).all()
    assert (wire.decode_image(compressed(png(cv2.merge([wide] * 3)), "png")) == 0x7F).all()


@pytest.mark.reads("image encoding", "JPEG with an EXIF orientation: as it lies in the file, in LeRobot data turned")
def test_an_orientation_turns_only_where_it_is_asked_for() -> None:
    plain = bytes(cv2.imencode(".jpg", NOISE[..., ::-1])[1])
    tiff = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    turned = plain[:2] + b"\xff\xe1" + (8 + len(tiff)).to_bytes(2, "big") + b"Exif\0\0" + tiff + plain[2:]
    upright = wire.compressed.decode(turned, "x", upright=True)
    assert np.array_equal(wire.decode_image(compressed(turned)), wire.decode_image(compressed(plain)))
    assert np.array_equal(upright, np.rot90(wire.decode_image(compressed(plain)), -1))


def test_a_jpeg_for_printing_is_called_so() -> None:
    whole = bytearray(cv2.imencode(".jpg", NOISE)[1])
    whole[whole.index(b"\xff\xc0") + 9] = 4
    with pytest.raises(ObservationError, match="CMYK|valid: a whole JPEG"):
        wire.decode_image(compressed(bytes(whole)))


def test_lost_restart_intervals_in_the_middle_are_told() -> None:
    whole = bytes(cv2.imencode(".jpg", NOISE, [cv2.IMWRITE_JPEG_RST_INTERVAL, 4])[1])
    third = whole.index(b"\xff\xd2", 2000)
    fourth = whole.index(b"\xff\xd3", third)
    with pytest.raises(ObservationError, match="of .* restart markers of a scan are in its"):
        wire.decode_image(compressed(whole[:third] + whole[fourth:]))


@pytest.mark.reads("refused as a picture", "a PNG that was cut")
@pytest.mark.parametrize("share", [0.05, 0.5, 0.95, 0.9999])
def test_a_png_that_was_cut_is_refused(share: float) -> None:
    whole = png(NOISE)
    with pytest.raises(ObservationError, match="valid: a whole JPEG or PNG"):
        wire.decode_image(compressed(whole[: int(share * len(whole))], "png"))


@pytest.mark.parametrize("how", OPTIONS)
@pytest.mark.parametrize("colour", [(0, 0, 0), (128, 128, 128), (255, 255, 255), (13, 90, 200)])
def test_a_picture_that_is_of_one_colour_below_is_whole(how: str, colour: tuple[int, int, int]) -> None:
    for rows in (240, 200, 120, 40):
        picture = NOISE.copy()
        picture[-rows:] = colour
        wire.decode_image(compressed(bytes(cv2.imencode(".jpg", picture, OPTIONS[how])[1])))


def test_a_picture_of_nothing_is_called_empty() -> None:
    with pytest.raises(ObservationError, match="wrist: an empty picture, 0 x 0 px"):
        wire.decode_image(Message(encoding="", height=0, width=0, step=0, data=b""), "wrist")
