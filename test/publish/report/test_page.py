"""The report: it reads what was recorded, draws what it read, and is one file that needs no other."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from support.small_bag import STILL, Busy, answered, shifted, written

from ecovla_ros import cli
from ecovla_ros.bags import read, sample
from ecovla_ros.bags.sample import Sample
from ecovla_ros.bench import document
from ecovla_ros.control import limits
from ecovla_ros.errors import BagError
from ecovla_ros.publish.report import charts, from_bag, from_document, motion, page, timeline
from ecovla_ros.publish.report.story import STAGES, SentTrajectory, Story

LIMITS = limits.load("normal")


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    return answered(written(folder, list(STILL.events())), folder / "answered", Busy())


@pytest.fixture(scope="module")
def story(bag: Path) -> Story:
    return from_bag.read(bag)


def test_a_story_holds_what_the_bag_holds(bag: Path, story: Story) -> None:
    latency = [m.value for m in read.messages(bag, ["/latency"])]
    pruning = [m.value for m in read.messages(bag, ["/pruning"])]
    assert story.frames == len(latency) == 40
    np.testing.assert_allclose(story.columns["policy_ms"], [m.policy_ms for m in latency])
    np.testing.assert_allclose(story.columns["similarity"], [m.similarity for m in pruning])
    assert story.columns["triggered"].tolist() == [m.triggered for m in pruning]
    assert (
        story.columns["deadline_missed"].tolist() == [m.deadline_missed for m in latency]
        and story.columns["deadline_missed"].any()
    )
    assert story.instructions[0][1] == STILL.instruction
    assert [c.state for c in story.changes][0] == "DISARMED" and {"ARMED", "RUNNING"} <= {
        c.state for c in story.changes
    }
    commands = list(read.messages(bag, ["/joint_trajectory"]))
    assert len(story.commands) == len(commands) > 3
    for name in ("third_person", "wrist"):
        times = [t for t, _ in story.pictures[f"/{name}/image"]]
        assert len(times) == from_bag.PICTURES and times == sorted(times) and np.diff(times).max() < 0.3


def test_histogram_counts_every_frame_and_lines_keep_their_extremes(story: Story) -> None:
    values = story.columns["act_ms"]
    figure = charts.histogram(values, "act")
    assert figure is not None and sum(figure.data[0].y) == len(values)
    assert charts.histogram(np.zeros(5), "act") is None
    t = np.arange(100_000.0)
    y = np.sin(t / 500)
    y[[777, 54_321]] = 9.0, -9.0
    few_t, few = charts.thin(t, y)
    assert len(few) <= charts.POINTS and few.max() == 9.0 and few.min() == -9.0
    assert (np.diff(few_t) > 0).all() and few_t[few.argmax()] == 777
    y[5000:9000] = np.nan
    assert charts.thin(t, y)[1].shape[0] <= charts.POINTS


def test_the_timeline_draws_a_refresh_frame_stage_by_stage_and_its_side_stream(story: Story) -> None:
    made = timeline.timeline(story)
    assert made is not None
    figure, caption = made
    i = int(caption.split()[1])
    assert story.columns["kind"][i] == "refresh" and story.columns["triggered"][i]
    main = [bar for bar in figure.data if bar.y[0] == "main"]
    first = sorted((bar for bar in main), key=lambda bar: bar.base[0])[
        : sum(story.columns[f"{s}_ms"][i] > 0 for s in STAGES)
    ]
    assert sum(bar.x[0] for bar in first) == pytest.approx(sum(story.columns[f"{s}_ms"][i] for s in STAGES))
    for a, b in zip(first, first[1:]):
        assert b.base[0] == pytest.approx(a.base[0] + a.x[0]), "no gap and no overlap"
    (side,) = [bar for bar in figure.data if bar.y[0] == "side"]
    assert side.x[0] == pytest.approx(story.columns["refresh_ms"][i + 1])
    begin_of_act = next(bar.base[0] for bar in first if bar.name == "act")
    assert side.base[0] == pytest.approx(begin_of_act)


def test_commands_are_measured_against_the_limits(bag: Path, story: Story) -> None:
    fast = SentTrajectory(0.0, np.array([0.1, 0.2]), np.zeros((2, 7)), np.tile(2.0 * LIMITS.velocity, (2, 1)))
    unnamed = SentTrajectory(
        1.0, np.array([0.1, 0.2]), np.array([np.zeros(7), 0.05 * LIMITS.velocity]), np.full((2, 7), np.nan)
    )
    figure = motion.speeds(Story("x", commands=[fast, unnamed]), LIMITS)
    assert figure is not None
    assert figure.data[0].y == pytest.approx([200.0, 50.0])
    joint = motion.joint(story, 1, LIMITS)
    assert joint is not None and sorted(shape.y0 for shape in joint.layout.shapes) == pytest.approx([-2.24, 2.24])
    assert motion.joint(Story("nothing"), 1, LIMITS) is None


class Addresses(HTMLParser):
    """What a page asks a browser to fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [v for k, v in attrs if k in ("src", "href", "srcset", "data", "poster", "action") and v]


def test_the_page_is_one_file_and_says_what_was_measured(story: Story, tmp_path: Path) -> None:
    out = tmp_path / "new" / "report.html"
    size = page.write(story, out, LIMITS)
    text = out.read_text(encoding="utf-8")
    assert size == out.stat().st_size < 8e6
    parser = Addresses()
    parser.feed(text)
    assert parser.found and all(address.startswith("data:") for address in parser.found)
    css = text.partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in css and "@import" not in css
    p50, p95, p99 = (f"{np.percentile(story.columns['policy_ms'], q):.1f} ms" for q in (50, 95, 99))
    for heading in (
        "One frame, two streams",
        "Stages",
        "Latency",
        "What the cameras saw",
        "When the scene changes",
        "Pattern age",
        "states",
        "Commands against limits",
    ):
        assert heading in text
    for words in (p50, p95, p99, STILL.instruction, "RUNNING", "4 (10.0 %)"):
        assert words in text, words


def test_what_people_write_cannot_break_out_of_the_page(bag: Path) -> None:
    evil = "<script>alert(1)</script>"
    told = Story(
        evil,
        instructions=[(0.0, evil)],
        notes=[evil],
        facts={evil: evil},
        tables={evil: [{evil: evil}]},
        held=[(0.0, evil)],
    )
    assert evil not in page.page(told, LIMITS).replace("</head>", "", 1)


def test_a_document_of_replay_tells_the_same_frames(bag: Path, story: Story, tmp_path: Path) -> None:
    rows = [
        {"time_ns": 10**9 + i * 10**8, "stamp_ns": 10**9 + i * 10**8, **{k: v for k, v in frame.items() if k != "t"}}
        for i, frame in enumerate(
            {k: (c[i].item() if hasattr(c[i], "item") else c[i]) for k, c in story.columns.items()}
            for i in range(story.frames)
        )
    ]
    rows = [{k: None if isinstance(v, float) and np.isnan(v) else v for k, v in row.items()} for row in rows]
    document.write(
        tmp_path / "rows.json",
        [*rows, {"time_ns": 9 * 10**9, "stamp_ns": 0, "held": "no image for 0.3 s"}],
        {"bag": "x"},
    )
    told = from_document.read(tmp_path / "rows.json")
    for name in ("policy_ms", "similarity", "pattern_age", "triggered", "kind"):
        np.testing.assert_array_equal(told.columns[name], story.columns[name])
    assert told.held == [(8.0, "no image for 0.3 s")] and "cores" in told.facts["machine"]
    assert "no image for 0.3 s" in page.page(told, LIMITS)


def test_other_documents_become_tables(tmp_path: Path) -> None:
    rows = [
        {
            "method": "ecovla",
            "ratio": 0.25,
            "scope": "policy",
            "frames": "all",
            "p50_ms": 36.0,
            "p95_ms": 51.0,
            "p99_ms": 57.0,
        }
    ]
    document.write(tmp_path / "bench.json", rows, {})
    text = page.page(from_document.read(tmp_path / "bench.json"), LIMITS)
    assert "ecovla" in text and "<td>36</td>" in text
    for bad in ("[]", "{}", "not json", '{"rows": 3}', '{"rows": []}'):
        (tmp_path / "bad.json").write_text(bad)
        with pytest.raises(BagError, match="bad.json"):
            from_document.read(tmp_path / "bad.json")


def test_a_damaged_bag_is_reported_as_far_as_it_goes_and_says_so(bag: Path, tmp_path: Path) -> None:
    file = next(bag.glob("*.mcap"))
    (tmp_path / "cut.mcap").write_bytes(file.read_bytes()[: int(file.stat().st_size * 0.99)])
    told = from_bag.read(tmp_path / "cut.mcap")
    assert told.frames > 0 or len(told.measured)
    assert "is damaged" in told.damage and told.damage in told.notes and "is damaged" in page.page(told, LIMITS)


def test_a_bag_of_pictures_alone_is_a_story_and_an_empty_one_is_none(tmp_path: Path) -> None:
    events = [e for e in Sample(seconds=1.0, size=32).events() if "image" in e.topic]
    told = from_bag.read(written(tmp_path, events))
    assert all(told.pictures.values()) and any("not recorded: latency" in note for note in told.notes)
    assert "What the cameras saw" in page.page(told, LIMITS)
    with pytest.raises(BagError, match="tells nothing"):
        from_bag.read(written(tmp_path, [e for e in Sample(seconds=1.0).events() if "instruction" in e.topic], "quiet"))
    sample.write(tmp_path / "none", [])
    with pytest.raises(BagError, match="is empty"):
        from_bag.read(tmp_path / "none")


def test_frames_are_joined_by_stamp_whatever_their_order(tmp_path: Path) -> None:
    events = list(STILL.events())
    shuffled = [shifted(e, 0.05) if "image" in e.topic else e for e in events]
    bag = answered(written(tmp_path, shuffled), tmp_path / "late", Busy())
    told = from_bag.read(bag)
    assert (
        told.frames == 40
        and np.isfinite(told.columns["policy_ms"]).all()
        and (told.columns["method"] == "ecovla").all()
    )


def test_the_command_reports_bags_and_documents(bag: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "r.html"
    assert cli.main(["report", str(bag), "--out", str(out), "--json", str(tmp_path / "r.json")]) == 0
    row = json.loads((tmp_path / "r.json").read_text())["rows"][0]
    assert row["frames"] == 40 and row["bytes"] == out.stat().st_size and "40 frames" in capsys.readouterr().out
    assert cli.main(["report", str(tmp_path / "r.json"), "--out", str(tmp_path / "again.html")]) == 0
    capsys.readouterr()
    for wrong, says in (
        (["none"], "nothing at 'none'"),
        ([str(bag), "--out", "/proc/no/r.html"], "cannot write"),
        ([str(tmp_path / "live"), "--live", "0"], "valid: 0.5 to 86400"),
    ):
        assert cli.main(["report", *wrong]) == 2 and says in capsys.readouterr().err
