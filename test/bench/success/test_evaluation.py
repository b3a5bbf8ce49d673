"""Evaluation: the same scenes for all, what an interruption leaves, and what a table counts."""

from __future__ import annotations

import dataclasses
import json

import pytest

from ecovla_ros import build, cli, config
from ecovla_ros.bench.success import compatibility as fitness
from ecovla_ros.bench.success import environments, journal, trials
from ecovla_ros.bench.success import evaluation as success
from ecovla_ros.bench.success import workers as spread
from ecovla_ros.bench.success.journal import Journal, trial_of
from ecovla_ros.bench.success.trials import Trial
from ecovla_ros.bench.variants import Variant
from ecovla_ros.engine.engine import Engine
from ecovla_ros.engine.streams import Inline
from ecovla_ros.errors import CheckpointError, ConfigError, EcovlaError
from ecovla_ros.models.base import PolicySpec
from ecovla_ros.publish import success_tables as report_success
from ecovla_ros.sim import events

BOTH = trials.compared(["dense", "ecovla", "static"], ["probe", "dense"], [0.25, 0.4])


def test_a_variant_is_method_refresh_and_ratio():
    assert BOTH[0] == Variant("dense", "none", 0.0) and len(BOTH) == 1 + 4 + 2
    assert {v.refresh for v in BOTH if v.method == "ecovla"} == {"probe", "dense"}
    assert {v.refresh for v in BOTH if v.method == "static"} == {"none"}
    for variant in BOTH:
        trial = Trial(variant.method, variant.refresh, variant.ratio, "apple", "calm", 1)
        prune = config.override(config.Config(), **trial.overrides()).prune
        assert (prune.method, prune.ratio) == (variant.method, variant.ratio)
        assert variant.refresh in ("none", prune.refresh)


def test_every_variant_meets_the_same_scenes():
    todo = trials.trials(BOTH, ["apple", "banana"], ["calm", "shift"], 3, 1000)
    scenes = {}
    for t in todo:
        scenes.setdefault(t.variant, set()).add((t.task, t.environment, t.seed))
    assert set(scenes) == set(BOTH)
    assert len({frozenset(v) for v in scenes.values()}) == 1 and len(next(iter(scenes.values()))) == 12


def test_what_happens_in_an_episode_depends_on_its_seed_alone():
    assert environments.schedule("shift", 7, "apple") == environments.schedule("shift", 7, "apple")
    assert environments.schedule("shift", 7, "apple") != environments.schedule("shift", 8, "apple")
    assert environments.schedule("calm", 7, "apple") == []
    for event in environments.schedule("shift", 7, "bottle"):
        events.check(event)


@pytest.mark.parametrize(
    ("methods", "refreshes", "tasks", "places", "match"),
    [
        (["ecolva"], ["probe"], ["apple"], ["calm"], "ecovla"),
        (["dense"], ["prove"], ["apple"], ["calm"], "probe"),
        (["dense"], ["probe"], ["appel"], ["calm"], "apple"),
        (["dense"], ["probe"], ["apple"], ["clam"], "calm"),
        (["dense", "dense"], ["probe"], ["apple"], ["calm"], "once each"),
    ],
)
def test_unknown_names_list_the_valid_ones(methods, refreshes, tasks, places, match):
    with pytest.raises(EcovlaError, match=match):
        trials.trials(trials.compared(methods, refreshes, [0.25]), tasks, places, 1, 0)


def episode(method, seed, solved, environment="calm", task="apple"):
    adaptive = method == "ecovla"
    return {
        "method": method,
        "refresh": "probe" if adaptive else "none",
        "ratio": 0.25 if adaptive else 0.0,
        "task": task,
        "environment": environment,
        "seed": seed,
        "success": solved,
        "steps": 50 + seed,
        "seconds": 5.0 + seed / 10,
        "path_m": 1.0,
        "jerk": 2.0,
        "frames": 10,
        "triggered": 2,
    }


def test_the_table_counts_pairs():
    episodes = [episode("dense", i, i < 8) for i in range(10)]
    episodes += [episode("ecovla", i, i in range(2, 9)) for i in range(10)]
    rows = {(r["method"], r["task"]): r for r in success.table(episodes, 0.1)}
    dense, pruned = rows[("dense", "all")], rows[("ecovla", "all")]
    assert (dense["successes"], pruned["successes"]) == (8, 7)
    assert (pruned["only_dense"], pruned["only_this"]) == (2, 1) and dense["mcnemar_p"] is None
    assert dense["low"] < 0.8 < dense["high"] and pruned["trigger_rate"] == 0.2
    assert pruned["verdict"].startswith("open: needs about") and pruned["difference_low"] < -0.1
    assert dense["steps_p50"] == 53.5 and dense["seconds_p50"] == pytest.approx(5.35)


def test_too_few_episodes_for_a_margin_are_refused_with_the_number_needed(capsys):
    with pytest.raises(ConfigError, match=r"at least 133 .* about 773"):
        success.check_size(60, 0.02)
    success.check_size(133, 0.02)
    assert cli.main(["eval", "--episodes", "20", "--margin", "0.02"]) == 2
    assert "60 paired episodes cannot show" in capsys.readouterr().err


def play(calls, stop_after=None):
    """A stand-in for the simulator: yields rows, and is interrupted after some."""

    def spread_(settings, delays, todo):
        assert settings.policy.threads == 1
        for i, trial in enumerate(todo):
            if i == stop_after:
                raise KeyboardInterrupt
            calls.append(trial)
            yield {**episode(trial.method, trial.seed, True), **dataclasses.asdict(trial)}

    return spread_


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path):
    todo = trials.trials(BOTH[:2], ["apple"], ["calm"], 4, 10)
    path, head, calls = tmp_path / "a.episodes.jsonl", {"checkpoint": "x", "config": {"prune": {"p": 0.05}}}, []
    book = Journal(path, head, resume=False)
    with pytest.raises(KeyboardInterrupt):
        success.run(config.Config(), todo, play(calls, 3), lambda row: None, None, book)
    book.close()
    path.write_text(path.read_text()[:-20])  # the last line was cut short by the interruption
    again = Journal(path, head, resume=True)
    assert len(again.rows) == 2
    rows = success.run(config.Config(), todo, play(calls), lambda row: None, None, again)
    again.close()
    assert [trial_of(r) for r in rows] == todo and len(calls) == 3 + 6
    assert len(Journal(path, head, resume=True).rows) == 8
    with pytest.raises(ConfigError, match=r"config.prune.p \(0.05 there, 0.1 now\)"):
        Journal(path, {"checkpoint": "x", "config": {"prune": {"p": 0.1}}}, resume=True)
    assert Journal(path, head, resume=False).rows == []


def test_episodes_are_reused_where_no_setting_that_their_method_reads_differs(tmp_path):
    path, other = tmp_path / "a.episodes.jsonl", tmp_path / "b.episodes.jsonl"
    old = {"checkpoint": "x", "config": {"prune": {"decay": 0.7, "compensate": False}}}
    new = {"checkpoint": "x", "config": {"prune": {"decay": 0.9, "compensate": False}}}
    book = Journal(path, old, resume=False, commit="c1")
    todo = trials.trials(BOTH, ["apple"], ["calm"], 2, 10)
    success.run(config.Config(), todo, play([]), lambda row: None, None, book)
    book.close()
    assert {r["method"] for r in journal.reusable(path, old)[0]} == {t.method for t in todo} > {"dense"}
    kept = Journal(other, new, resume=True, commit="c2", reuse=[path])
    assert [trial_of(r) for r in kept.rows] == [t for t in todo if t.method not in config.ADAPTIVE] != []
    assert kept.commits == ["c1", "c2"]
    kept.close()
    again = Journal(other, new, resume=True, reuse=[path])  # nothing is taken twice
    assert again.rows == kept.rows
    for head in (old, new):
        head["config"]["policy"] = {"rtc": 8, "rtc_release": "trigger"}
        head["config"]["prune"]["p"] = 0.05 if head is old else 0.1
    Journal(path, old, resume=False).close()
    with pytest.raises(ConfigError, match=r"config.prune.p \(0.05 there, 0.1 now\)"):  # now every method has a trigger
        Journal(tmp_path / "c.episodes.jsonl", new, resume=False, reuse=[path])
    new["config"]["prune"]["p"] = 0.05
    new["config"]["prune"]["compensate"] = True  # every method reads this one
    with pytest.raises(ConfigError, match=r"config.prune.compensate \(False there, True now\)"):
        Journal(tmp_path / "c.episodes.jsonl", new, resume=False, reuse=[path])
    with pytest.raises(ConfigError, match="cannot read the journal"):
        Journal(tmp_path / "c.episodes.jsonl", old, resume=False, reuse=[tmp_path / "none.jsonl"])


def test_what_another_task_left_behind_is_read_by_dense_only_where_its_policy_remembers(tmp_path):
    path, book = tmp_path / "a.episodes.jsonl", None
    for number, (more, taken) in enumerate((({}, True), ({"rtc": 8}, False), ({"vla_cache": ["wrist"]}, False))):
        old = {"checkpoint": "x", "config": {"policy": more}, "benchmark": {"calibration": "own"}}
        book = Journal(path, old, resume=False)
        success.run(
            config.Config(), trials.trials(BOTH, ["apple"], ["calm"], 1, 10), play([]), lambda row: None, None, book
        )
        book.close()
        new, other = {**old, "benchmark": {"calibration": "own", "switched": 8}}, tmp_path / f"{number}.episodes.jsonl"
        if taken:
            assert {row["method"] for row in Journal(other, new, resume=False, reuse=[path]).rows} == {"dense"}
        else:
            with pytest.raises(ConfigError, match=r"benchmark.switched \(None there, 8 now\)"):
                Journal(other, new, resume=False, reuse=[path])


def test_a_method_that_does_not_adapt_reads_no_setting_of_those_that_do():
    """What `--reuse` rests on: patterns of static methods are the same whatever the adaptive settings are."""
    policy = build.policy(config.PolicyConfig(model="mini"))
    energies = policy.calibration
    changed = {"alpha": 0.1, "decay": 0.2, "hysteresis": 5.0, "swap_budget": 1, "probe_tokens": 7, "refresh": "dense",
               "p": 0.9, "window": 3, "max_age": 2, "audit": 3}  # fmt: skip
    assert changed.keys() == set(config.ADAPTIVE_ONLY)
    for method in ("static", "wanda", "random"):
        found = []
        for extra in ({}, changed):
            engine = Engine(policy, config.PruneConfig(method=method, ratio=0.5, **extra), Inline())
            engine.calibrate(energies)
            found.append(engine.patterns())
            engine.close()
        assert found[0] == found[1] and found[0]


def test_a_run_whose_time_is_over_leaves_a_table_of_what_is_there(tmp_path):
    todo, calls = trials.trials(BOTH[:2], ["apple"], ["calm"], 4, 10), []
    book = Journal(tmp_path / "a.episodes.jsonl", {}, resume=False)
    rows = success.run(config.Config(), todo, play(calls), lambda row: None, None, book, lambda: len(calls) >= 3)
    assert [trial_of(r) for r in rows] == todo[:3] == calls
    book.close()
    again = Journal(tmp_path / "a.episodes.jsonl", {}, resume=True)
    rows = success.run(config.Config(), todo[5:6], play(calls), lambda row: None, None, again, lambda: True)
    assert len(calls) == 3 and [trial_of(r) for r in rows] == todo[:3]  # the journal is counted, nothing is begun
    rows = success.run(config.Config(), todo[5:6], play(calls), lambda row: None, None, again)
    assert [trial_of(r) for r in rows] == [todo[5], *todo[:3]]


def test_a_journal_is_short_and_takes_rows_written_as_objects(tmp_path):
    path = tmp_path / "a.episodes.jsonl"
    whole = dict.fromkeys(journal.COLUMNS, 0) | {"method": "dense", "task": "apple"}
    path.write_text("".join(json.dumps(line) + "\n" for line in ({"a": 1}, whole, {"more": 2, **whole})))
    Journal(path, {"a": 1}, resume=True, commit="c1").close()
    book = Journal(path, {"a": 1}, resume=True, commit="c2")
    assert book.rows == [whole, {"more": 2, **whole}]
    book.add(whole)
    book.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines[0] == {"a": 1, "commits": ["c1", "c2"], "columns": list(journal.COLUMNS)}
    assert isinstance(lines[1], list) and len(lines) == 4
    assert isinstance(lines[2], dict) and lines[1] == lines[3] == list(whole.values())
    assert Journal(path, {"a": 1}, resume=True).rows == [*book.rows, whole]


def test_the_table_of_the_study_says_what_was_not_measured():
    episodes = [episode("dense", i, i < 8) for i in range(10)] + [episode("ecovla", i, i < 7) for i in range(10)]
    document = {
        "rows": success.table(episodes, 0.02),
        "settings": {},
        "commit": "c",
        "machine": {"cpu": "x", "cores": 1},
        "versions": {},
    }
    text = report_success.study(document).splitlines()
    lines = {tuple(c.strip() for c in line.split("|")[1:3]): line for line in text if "|" in line}
    assert len(lines) == 2 + len(report_success.WHOLE_STUDY) == 23
    assert "8/10" in lines["dense", "0 %"] and lines["dense", "0 %"].count(report_success.MISSING) == 2
    assert "7/10" in lines["ecovla (probe)", "25 %"] and "1 lost, 0 won; open: needs" in lines["ecovla (probe)", "25 %"]
    assert lines["random", "12.5 %"].count(report_success.MISSING) == 3
    shorter = [line for line in report_success.measured(document).splitlines() if "|" in line]
    assert shorter[2:] == [lines["dense", "0 %"], lines["ecovla (probe)", "25 %"]]


def test_the_table_of_injected_latency_says_how_long_an_episode_took():
    episodes = [{**episode(m, i, i < 8), "environment": "latency"} for m in ("dense", "ecovla") for i in range(10)]
    rows = [{**row, "latency_ms": 40.0} for row in success.table(episodes, 0.02)]
    document = {"rows": rows, "settings": {}, "commit": "c", "machine": {"cpu": "x", "cores": 1}, "versions": {}}
    text = report_success.study_latency(document).splitlines()
    lines = [[c.strip() for c in line.split("|")[1:-1]] for line in text if "|" in line]
    assert len(lines) == 2 + len(report_success.WHOLE_STUDY)
    seconds = report_success.number(rows[0]["seconds_p50"])
    assert lines[2] == ["dense", "0 %", "8/10, 80 % (49-94)", seconds, "40", "20 %"]
    assert [line for line in lines if "0 lost, 0 won" in line[2]][0][:2] == ["ecovla (probe)", "25 %"]
    assert lines[3][2:] == [report_success.MISSING, "-", "-", "-"]


def test_a_journal_damaged_in_the_middle_is_refused(tmp_path):
    path = tmp_path / "a.episodes.jsonl"
    path.write_text('{"a": 1}\n{"method"\n{"x": 2}\n')
    with pytest.raises(ConfigError, match="damaged in line 2"):
        Journal(path, {"a": 1}, resume=True)


def bench_file(tmp_path):
    times = {
        ("dense", "none", 0.0): {"all": 40.0, "dense": 40.0},
        ("ecovla", "probe", 0.25): {"all": 31.0, "sparse": 30.2, "refresh": 39.0},
    }
    rows = [
        {"scope": "policy", "method": m, "refresh": r, "ratio": p, "frames": k, "mean_ms": ms}
        for (m, r, p), kinds in times.items()
        for k, ms in kinds.items()
    ]
    path = tmp_path / "latency.json"
    path.write_text(json.dumps({"rows": [*rows, {"scope": "act"}]}))
    return path


def test_delays_are_the_measured_times_in_whole_ticks(tmp_path):
    delays = environments.measured(bench_file(tmp_path))
    sparse = ("ecovla", "probe", 0.25)
    assert [delays.ticks(sparse, kind, 0.01) for kind in ("sparse", "refresh", "dense")] == [4, 4, 4]
    assert delays.ticks(("dense", "none", 0.0), "dense", 0.01) == 4
    slow = environments.measured(bench_file(tmp_path), 10.0)
    assert slow.ticks(sparse, "sparse", 0.01) == 31 and "times 10" in slow.source
    with pytest.raises(ConfigError, match="ecovla bench --method static --ratios 0.4"):
        delays.ticks(("static", "none", 0.4), "all", 0.01)
    with pytest.raises(ConfigError, match="no result of `ecovla bench"):
        environments.measured(tmp_path / "nothing.json")


def test_a_variant_without_measured_time_stops_before_the_first_episode(tmp_path):
    todo = [Trial("static", "none", 0.4, "apple", "latency", 1)]
    with pytest.raises(ConfigError, match="no measured time of static"):
        success.run(config.Config(), todo, play([]), lambda row: None, environments.measured(bench_file(tmp_path)))


SPEC = PolicySpec("x", {"third_person": (96, 96), "wrist": (96, 96)}, 16, 0.1, 8, "ray", ())


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"renderer": "egl"}, "trained on 'egl'"),
        ({"cameras": {"wrist": (96, 96)}}, "cameras are"),
        ({"cameras": {"third_person": (224, 224), "wrist": (96, 96)}}, "third_person at 224 x 224"),
        ({"action_dim": 7}, "7 columns"),
        ({"horizon": 3}, "0.30 s"),
        ({"instructions": ("dance",)}, "'dance'"),
    ],
)
def test_a_checkpoint_that_does_not_fit_names_the_difference(changes, match):
    fitness.check(SPEC, config.Config(), "ray")
    with pytest.raises(CheckpointError, match=match):
        fitness.check(dataclasses.replace(SPEC, **changes), config.Config(), "ray")


def test_ray_that_is_not_there_is_named():
    try:
        import ray  # noqa: F401
    except ImportError:
        with pytest.raises(ConfigError, match="pip install ray"):
            spread.ray("local")


def test_the_checkpoint_is_part_of_what_a_journal_holds(tmp_path):
    (tmp_path / "a").write_text("1")
    before = journal.fingerprint(tmp_path)
    (tmp_path / "a").write_text("2")
    assert journal.fingerprint(tmp_path) != before
