"""A film from any bag: as long as the bag, with whatever cameras it has."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from support.small_bag import STILL, Busy, answered, written

from ecovla_ros import cli
from ecovla_ros.bags import film
from ecovla_ros.bags.sample import Sample
from ecovla_ros.errors import BagError

SHORT = Sample(seconds=2.0, size=64)


def seen(path: Path) -> tuple[int, float, list[np.ndarray]]:
    """Pictures, pictures a second, and the pictures."""
    reader = cv2.VideoCapture(str(path))
    pictures = []
    while True:
        good, picture = reader.read()
        if not good:
            return len(pictures), reader.get(cv2.CAP_PROP_FPS), pictures
        pictures.append(picture)


def test_a_second_of_the_bag_is_a_second_of_the_film(tmp_path: Path) -> None:
    bag = written(tmp_path, list(SHORT.events()))
    assert film.make(bag, tmp_path / "a.mp4") == 20
    with pytest.raises(BagError, match="ends in '.avi'; valid: .mp4, .webp, .gif"):
        film.make(bag, tmp_path / "a.avi")
    count, rate, pictures = seen(tmp_path / "a.mp4")
    assert (
        count == 20
        and rate == pytest.approx(10.0)
        and pictures[0].shape == (film.HEIGHT + film.STRIP, 2 * film.HEIGHT, 3)
    )
    assert np.abs(pictures[0].astype(int) - pictures[-1]).mean() > 5, "the scene changes in the middle"
    assert film.make(bag, tmp_path / "b.mp4", 20.0) == pytest.approx(39, abs=1)
    gone = [
        e
        for e in SHORT.events()
        if "image" not in e.topic or not 0.45 < (e.time_ns - 1_700_000_000 * 10**9) / 1e9 < 1.05
    ]
    assert film.make(written(tmp_path, gone, "gap"), tmp_path / "c.mp4") == 20, "a gap is a still, not a cut"


def test_a_moving_picture_is_the_film_for_a_web_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bag = written(tmp_path, list(SHORT.events()))
    assert cli.main(["film", str(bag), str(tmp_path / "a.webp")]) == 0
    read, animation = cv2.imreadanimation(str(tmp_path / "a.webp"))
    assert read and len(animation.frames) == 20 and set(animation.durations) == {100}
    assert animation.frames[0].shape[:2] == (film.HEIGHT + film.STRIP, 2 * film.HEIGHT)
    monkeypatch.setattr(film, "MOST_PICTURES", 10)
    with pytest.raises(BagError, match="more than 10 pictures; valid: fewer with --rate, or .mp4"):
        film.make(bag, tmp_path / "b.webp")


def test_any_cameras_in_any_number_and_order(tmp_path: Path) -> None:
    names = {"/third_person/image/compressed": "/head/rgb", "/wrist/image/compressed": "/hand/rgb"}
    events = [e._replace(topic=names.get(e.topic, e.topic)) for e in SHORT.events() if "joint" not in e.topic]
    bag = written(tmp_path, events)
    film.make(bag, tmp_path / "both.mp4")
    film.make(bag, tmp_path / "turned.mp4", cameras=["/head/rgb", "/hand/rgb"])
    film.make(bag, tmp_path / "one.mp4", cameras=["/hand/rgb"])
    both, turned, one = (seen(tmp_path / f"{n}.mp4")[2][0] for n in ("both", "turned", "one"))
    half = film.HEIGHT
    assert one.shape[1] == half
    np.testing.assert_allclose(both[:half, :half].mean(), one[:half].mean(), atol=3)
    np.testing.assert_allclose(both[:half, :half].mean(), turned[:half, half:].mean(), atol=3)


def test_what_holds_no_film_says_so_and_a_damaged_bag_gives_what_it_has(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blind = written(tmp_path, [e for e in SHORT.events() if "image" not in e.topic], "blind")
    with pytest.raises(BagError, match="no topic holds pictures"):
        film.make(blind, tmp_path / "x.mp4")
    bag = written(tmp_path, list(Sample(seconds=4.0, size=128, encoding="rgb8").events()))
    with pytest.raises(BagError, match="/joint_states holds pictures; valid: /third_person/image, /wrist/image"):
        film.make(bag, tmp_path / "x.mp4", cameras=["/joint_states"])
    file = next(bag.glob("*.mcap"))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert cli.main(["film", str(bag), str(tmp_path / "cut.mp4")]) == 2
    error = capsys.readouterr().err
    assert "is damaged" in error and "pictures of what came before" in error
    assert 5 < seen(tmp_path / "cut.mp4")[0] < 35


def test_the_command_films_a_replayed_bag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bag = answered(written(tmp_path, list(STILL.events())), tmp_path / "answered", Busy())
    assert cli.main(["film", str(bag)]) == 0 and (tmp_path / "answered.mp4").is_file()
    assert "40 pictures" in capsys.readouterr().out
    assert cli.main(["film", str(bag), "--rate", "1000"]) == 2 and "valid: 1 to 60" in capsys.readouterr().err
