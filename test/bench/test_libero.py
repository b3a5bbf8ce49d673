"""LIBERO without LIBERO: fakes of its scene stand in where an episode is driven; what needs the real one skips."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from ecovla_ros import build, cli, config
from ecovla_ros.bench.libero import calibrations, controls, episodes, expert, gate, looks, movement, primary
from ecovla_ros.bench.libero.served import ServedAnswers
from ecovla_ros.bench.success import evaluation, journal, workers
from ecovla_ros.bench.success.journal import Journal
from ecovla_ros.bench.success.trials import Trial, compared
from ecovla_ros.errors import CheckpointError, ConfigError
from ecovla_ros.models.base import PolicySpec
from ecovla_ros.models.data.affine import Affine, Statistics
from ecovla_ros.models.data.prompt import Prompt
from ecovla_ros.models.data.statistics import OtherArmUnits
from ecovla_ros.models.pi import checkpoint
from ecovla_ros.models.pi.config import PiConfig
from ecovla_ros.models.pi.model import PiModel
from ecovla_ros.prune.site import Site
from ecovla_ros.publish import libero_tables
from ecovla_ros.sim.libero import objects, scene, suites
from ecovla_ros.train.libero import demos, fit, run
from ecovla_ros.train.libero.data import LiberoData
from ecovla_ros.types import Observation

INSTALLED = importlib.util.find_spec("libero") is not None
WORDS = ("take the milk", "take the butter")


def task(index=0, suite="libero_object"):
    return suites.LiberoTask(suite, index, WORDS[index % 2], __file__, 5)


def shape():
    return PiConfig(
        vision_width=16, vocab=12, max_prompt=24, lm_width=16, lm_mlp=64, layers=2, heads=2, head_dim=8,
        expert_width=16, expert_mlp=64, state_dim=8, action_dim=7, horizon=12, flow_steps=2, image_size=32,
        noise_scale=0.0,
    )  # fmt: skip


def units():
    return OtherArmUnits(
        Statistics(Affine(np.zeros(8), np.ones(8)), Affine(np.zeros(7), np.full(7, 0.5)), "mean_std", "a test"), 12
    )


@pytest.fixture
def folder(tmp_path):
    """A checkpoint for LIBERO, of random weights."""
    torch.manual_seed(0)
    spec = PolicySpec("mini", {c: (32, 32) for c in ("third_person", "wrist")}, 12, 0.05, 7, "any", WORDS)
    checkpoint.save(tmp_path / "c", PiModel(shape()), units(), Prompt.build(WORDS, 24), spec, {}, dtype=torch.float16)
    return tmp_path / "c"


def settings_for(folder):
    return config.override(config.load(config.shipped("mini_sim.yaml")), **{"policy.checkpoint": str(folder)})


class FakeScene:
    """Solved once the tool has come far enough along x; pictures follow the tool."""

    made = 0

    def __init__(self, of):
        self.task, self.steps, FakeScene.made = of, 0, FakeScene.made + 1

    def begin(self, initial, seed=0):
        suites.check_state(self.task, initial)
        self.steps, self.at = 0, np.array([0.01 * initial, 0.0, 0.2])

    def step(self, action):
        assert np.abs(action[6]) == 1.0 and action.shape == (7,)
        self.steps, self.at = self.steps + 1, self.at + 0.01 * np.clip(action[:3], -1, 1) + [0.002, 0, 0]
        return bool(self.at[0] > 0.15)

    def tool(self):
        return self.at.copy(), np.eye(3)

    def observe(self):
        rng = np.random.default_rng(self.steps)
        images = {c: rng.integers(0, 255, (64, 64, 3), dtype=np.uint8) for c in ("third_person", "wrist")}
        state = np.concatenate((self.at, np.zeros(5)))
        return Observation(1 + self.steps, images, np.zeros(7), 0.0, self.task.instruction, state)

    def close(self):
        pass


@pytest.fixture
def fake(monkeypatch):
    found = {"libero_object": tuple(task(i) for i in range(2)), "libero_spatial": (task(0, "libero_spatial"),)}
    monkeypatch.setattr(suites, "suite_names", lambda: tuple(found))

    def tasks(name):
        if (name := name.replace("-", "_")) not in found:
            raise ConfigError(f"unknown suite '{name}'; valid: {', '.join(found)}")
        return found[name]

    monkeypatch.setattr(suites, "tasks", tasks)
    monkeypatch.setattr(episodes, "LiberoScene", FakeScene)
    return found


def test_every_variant_meets_the_same_states_and_a_scene_is_made_once_a_task(folder, fake):
    chosen = compared(["dense", "static"], ["probe"], [0.5])
    todo = episodes.trials(chosen, ["libero-object"], [], range(3))
    FakeScene.made = 0
    rows = evaluation.run(
        settings_for(folder), todo, workers.processes(1, lambda s, d: runner(s, "weights")), lambda r: None
    )
    assert FakeScene.made == 2 and len(rows) == 2 * 3 * 2
    assert {(r["task"], r["seed"]) for r in rows if r["method"] == "dense"} == {
        (r["task"], r["seed"]) for r in rows if r["method"] == "static"
    }
    pooled = [r for r in evaluation.table(rows) if r["task"] == "all" and r["method"] == "static"]
    assert pooled[0]["episodes"] == 6 and pooled[0]["mcnemar_p"] is not None


def runner(settings, calibration="own", **more):
    return episodes.LiberoRunner(settings, answers=partial(episodes.EngineAnswers, calibration=calibration), **more)


def test_an_episode_does_not_depend_on_those_before_it(folder, fake):
    trials = [
        Trial("ecovla", "probe", 0.5, f"libero_object/{i}", "libero_object", s) for i, s in ((0, 0), (1, 3), (0, 0))
    ]
    made = runner(settings_for(folder), "weights")
    rows = [made.run(t) for t in trials]
    same = ("success", "steps", "path_m", "jerk", "frames", "triggered")
    assert [rows[0][k] for k in same] == [rows[2][k] for k in same]


def test_a_task_that_was_switched_to_begins_with_what_the_other_left_and_depends_on_its_trial_alone(folder, fake):
    made = runner(settings_for(folder), "weights", switched=2)
    answers, began = made._answers, []
    looked, whole = [], answers.chunk
    answers.chunk = lambda seen, step: looked.append((seen.instruction, step)) or whole(seen, step)
    begin = answers.begin
    answers.begin = lambda trial: began.append(trial) or begin(trial)
    trial = Trial("ecovla", "probe", 0.5, "libero_object/0", "libero_object", 1)
    first = made.run(trial)
    assert [words for words, _ in looked[:2]] == [WORDS[1]] * 2 and looked[1][1] == episodes.EXECUTE
    assert {words for words, _ in looked[2:]} == {WORDS[0]} and looked[2][1] == 0
    assert began == [trial], "one engine for both"
    assert first["frames"] == len(looked) - 2, "what is reported is of the episode alone"
    made.run(Trial("ecovla", "probe", 0.5, "libero_object/1", "libero_object", 3))
    again = made.run(trial)
    same = ("success", "steps", "path_m", "jerk", "frames", "triggered")
    assert [first[k] for k in same] == [again[k] for k in same]
    alone = runner(settings_for(folder), "weights").run(trial)
    assert alone["path_m"] != first["path_m"], "its first look runs with the other task's pattern"
    dense = Trial("dense", "none", 0.0, trial.task, trial.environment, trial.seed)
    assert made.run(dense)["path_m"] == runner(settings_for(folder)).run(dense)["path_m"]


def test_a_shuffled_pattern_is_another_one_after_a_refresh_and_no_channel_leaves_its_group(folder, fake):
    answers = episodes.EngineAnswers(settings_for(folder), "weights")
    trial = Trial("shuffled", "none", 0.5, "libero_object/0", "libero_object", 3)
    answers.begin(trial)
    first, seen = answers._engine.patterns(), FakeScene(task())
    seen.begin(0)
    kinds, last = [], first
    for i in range(12):
        seen.step(np.ones(7))
        answers.chunk(seen.observe(), i)
        kinds.append(answers._reports[-1].kind)
        now = answers._engine.patterns()
        assert (now != last) == (kinds[-1] == "refresh")
        last = now
    assert "refresh" in kinds and "sparse" in kinds
    for site in answers.policy.sites:
        for order in (first[site.key], last[site.key]) if site.key in first else ():
            assert sorted(order) == list(range(site.channels))
            assert all(c % site.groups == s % site.groups for s, c in enumerate(order))
    answers.end()
    answers.begin(trial)
    assert answers._engine.patterns() == first
    answers.end()


def test_the_oracle_keeps_what_the_episode_itself_needs(folder, fake):
    made = runner(settings_for(folder), "weights")
    trial = Trial("oracle", "none", 0.5, "libero_object/0", "libero_object", 1)
    row = made.run(trial)
    assert row["frames"] > 0 and row["triggered"] == 0
    assert made.run(trial)["path_m"] == row["path_m"]
    answers = made._answers
    recorder = looks.LookRecorder(answers.policy, trial.seed)
    answers.watch = recorder
    made.run(Trial("dense", "none", 0.0, trial.task, trial.environment, trial.seed))
    expected = {key: torch.stack([e[key] for e, _ in recorder.looks]).mean(0) for key in recorder.looks[0][0]}
    assert all(torch.equal(answers._of_episode[key], value) for key, value in expected.items())


def test_a_look_comes_every_eight_actions_until_time_is_over(folder, fake):
    made = runner(settings_for(folder))
    row = made.run(Trial("dense", "none", 0.0, "libero_object/0", "libero_object", 0))
    assert row["frames"] == -(-row["steps"] // episodes.EXECUTE)
    assert row["success"] or row["steps"] == 280


def test_the_server_gives_the_same_answers_to_vla_evals_own_client(folder, fake, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(sys.prefix) / "clients"))  # where tools/setup.sh puts vla-eval
    pytest.importorskip("vla_eval.connection")
    command = [sys.executable, "-u", "-m", "ecovla_ros.cli", "serve", "--protocol", "vla-eval", "--port", "0",
               "--execute", str(episodes.EXECUTE), "--set", "policy.embodiment.other=true", "--set",
               f"policy.checkpoint={folder}", "--set", "prune.method=dense", "--set", "policy.threads=1"]  # fmt: skip
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        address = next(found for line in server.stdout if (found := re.search(r"ws://[\d.]+:\d+", line)))[0]
        trials = [Trial("dense", "none", 0.0, f"libero_object/{i}", "libero_object", i) for i in (0, 1)]
        served = episodes.LiberoRunner(settings_for(folder), answers=partial(ServedAnswers, address=address))
        here = runner(settings_for(folder))
        for trial in trials:
            ours, theirs = here.run(trial), served.run(trial)
            assert theirs["path_m"] == pytest.approx(ours["path_m"], abs=2e-4)  # actions travel as float32
            assert [theirs[k] for k in ("success", "steps", "frames")] == [
                ours[k] for k in ("success", "steps", "frames")
            ]
    finally:
        server.terminate()
        server.wait(20)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--benchmark", "libero-nothing"], "unknown suite 'libero_nothing'"),
        (["--benchmark", "libero-object", "--tasks", "7"], "suite 'libero_object' has no task 7; valid: 0 to 1"),
        (["--benchmark", "libero-object", "--tasks", "milk"], "--tasks 'milk'; valid for LIBERO: numbers"),
        (["--benchmark", "libero-object", "--seed", "4"], "libero_object/0 has no initial state 5; valid: 0 to 4"),
        (["--benchmark", "libero-object", "--environments", "looks"], "do not go with --benchmark"),
        (["--benchmark", "libero-object,libero-object"], "must be named once each"),
        (
            ["--benchmark", "libero-object", "--method", "static", "--calibration", "none"],
            "static without a calibration has no pattern; valid: --calibration weights",
        ),
        (["--benchmark", "libero-object", "--method", "oracles"], "unknown method 'oracles'"),
        (["--benchmark", "libero-object", "--method", "oracle,oracle"], "must be named once each"),
        (
            ["--benchmark", "libero-object", "--method", "oracle", "--server", "ws://127.0.0.1:1"],
            "method oracle looks into the engine: it does not go with --server",
        ),
        (
            ["--benchmark", "libero-object", "--switched", "8", "--server", "ws://127.0.0.1:1"],
            "--switched looks into the engine: it does not go with --server",
        ),
        (["--benchmark", "libero-object", "--switched", "-1"], "--switched -1; valid: a number of looks, or 0"),
        (["--benchmark", "libero-object", "--ray", "auto"], "--ray does not go with --benchmark"),
    ],
)
def test_bad_input_is_one_line(fake, capsys, arguments, said):
    assert cli.main(["eval", "--episodes", "2", "--method", "dense", *arguments]) == 2
    out = capsys.readouterr().err
    assert said in out and out.count("\n") == 1


def test_a_checkpoint_is_a_folder_or_else_a_shipped_one_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    named = config.PolicyConfig(checkpoint="mini")
    assert build.checkpoint_of(named) == build.SHIPPED / "mini"
    assert build.checkpoint_of(config.PolicyConfig(checkpoint="out/mini")) == Path("out/mini")
    (tmp_path / "mini").mkdir()
    assert build.checkpoint_of(named) == Path("mini")


def test_a_checkpoint_of_another_action_space_is_one_line(fake, capsys):
    assert cli.main(["eval", "--benchmark", "libero-object", "--method", "dense", "--episodes", "1"]) == 2
    out = capsys.readouterr().err
    assert out.count("\n") == 1 and "moves this arm" in out


def test_a_libero_checkpoint_does_not_drive_this_arm(folder):
    with pytest.raises(CheckpointError, match="moves another arm than this one"):
        build.policy(settings_for(folder).policy)


@pytest.mark.skipif(INSTALLED, reason="LIBERO is installed")
@pytest.mark.parametrize("command", ["train", "eval"])
def test_without_the_benchmark_it_says_what_to_run(capsys, tmp_path, command):
    words = {"train": ["--benchmark", "libero", "--work", str(tmp_path)], "eval": ["--benchmark", "libero-object"]}
    assert cli.main([command, *words[command]]) == 2
    out = capsys.readouterr().err
    assert out.count("\n") == 1 and "make libero" in out


def test_an_interrupted_run_loses_nothing(folder, fake, tmp_path, monkeypatch):
    """Stopped after two episodes, the same command runs the others and no more."""
    ran = []
    whole = episodes.LiberoRunner.run

    def run_two(self, trial):
        if len(ran) == 2:
            raise KeyboardInterrupt
        ran.append(trial)
        return whole(self, trial)

    command = ["eval", "--benchmark", "libero-object", "--method", "dense,oracle,shuffled",
               "--ratio", "0.5", "--calibration", "weights", "--episodes", "2", "--resume",
               "--set", f"policy.checkpoint={folder}", "--json", str(tmp_path / "r.json")]  # fmt: skip
    monkeypatch.setattr(episodes.LiberoRunner, "run", run_two)
    assert cli.main(command) == 130
    monkeypatch.setattr(episodes.LiberoRunner, "run", lambda self, trial: ran.append(trial) or whole(self, trial))
    assert cli.main(command) == 0
    assert len(ran) == 12 and len(set(ran)) == 12
    document = json.loads((tmp_path / "r.json").read_text())
    pooled = {row["method"]: row["episodes"] for row in document["rows"] if row["task"] == "all"}
    assert pooled == {"dense": 4, "oracle": 4, "shuffled": 4}


def test_a_part_of_a_plan_takes_what_it_asks_for_from_those_before_it_and_nothing_else(
    folder, fake, tmp_path, monkeypatch, capsys
):
    """States that chose the ratio must not come into the table that tests it."""
    ran, whole = [], episodes.LiberoRunner.run
    monkeypatch.setattr(episodes.LiberoRunner, "run", lambda self, trial: ran.append(trial) or whole(self, trial))
    same = {"benchmark": "libero-object", "calibration": "weights", "ratio": "0.5", "refresh": "probe"}
    parts = [
        {**same, "name": "scan", "method": "dense,static", "episodes": 2, "seed": 0},
        {**same, "name": "primary", "method": "dense,static", "episodes": 2, "seed": 1},
    ]
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"parts": parts}))
    command = ["eval", "--plan", str(plan), "--set", f"policy.checkpoint={folder}"]
    assert cli.main([*command, "--parts", "scan"]) == 0
    assert {t.seed for t in ran} == {0, 1} and not (tmp_path / "plan-primary.json").exists()
    count = len(ran)
    assert cli.main(command) == 0
    assert {t.seed for t in ran[count:]} == {2}
    rows = json.loads((tmp_path / "plan-primary.json").read_text())["rows"]
    assert {row["method"]: row["episodes"] for row in rows if row["task"] == "all"} == {"dense": 4, "static": 4}
    assert cli.main([*command, "--parts", "third"]) == 2
    assert "unknown part 'third'" in capsys.readouterr().err
    later, count = tmp_path / "later.json", len(ran)
    heads = {**same, "method": "dense,static", "episodes": 3, "seed": 0, "set": ["prune.sites=[lm.heads]"]}
    later.write_text(json.dumps({"earlier": ["plan.json"], "parts": [{**heads, "name": "heads"}]}))
    assert cli.main(["eval", "--plan", str(later), "--set", f"policy.checkpoint={folder}"]) == 0
    assert {t.method for t in ran[count:]} == {"static"}, "the dense ones of the plan before, whatever they prune"
    for odd in ('"plan.json"', "[3]", '["../plan.json"]'):
        later.write_text(f'{{"earlier": {odd}, "parts": []}}')
        assert cli.main(["eval", "--plan", str(later)]) == 2
        assert "valid: a list of files beside it" in capsys.readouterr().err


def test_a_journal_goes_on_with_the_demonstrations_its_calibration_looked_at_and_no_others(
    folder, fake, tmp_path, capsys
):
    write_demos(tmp_path / "work" / "demos")
    command = ["eval", "--benchmark", "libero-object", "--method", "static", "--ratio", "0.5", "--episodes", "1",
               "--calibration", "libero-object", "--demos", str(tmp_path / "work"), "--resume",
               "--set", f"policy.checkpoint={folder}", "--json", str(tmp_path / "r.json")]  # fmt: skip
    assert cli.main(command) == 0 and cli.main(command) == 0
    looked_at = calibrations.demonstrations("libero-object", tmp_path / "work")
    assert journal.read(tmp_path / "r.episodes.jsonl")[0] and looked_at in (tmp_path / "r.episodes.jsonl").read_text()
    assert calibrations.demonstrations("own", tmp_path / "work") == ""
    next(tmp_path.rglob("*.npz")).unlink()
    capsys.readouterr()
    assert cli.main(command) == 2
    assert "of other settings: benchmark.demonstrations" in capsys.readouterr().err


def test_the_programs_say_what_is_wrong_in_one_line(tmp_path, folder, capsys):
    """A result of something else is not written over, and a number that is none is named."""
    for text in ("{", "[]", '{"rows": 3, "settings": {}, "commit": ""}'):
        (tmp_path / "r.json").write_text(text)
        assert expert.main(["--json", str(tmp_path / "r.json")]) == 2
        said = capsys.readouterr().err
        assert "no result of this program" in said and said.count("\n") == 1
        assert (tmp_path / "r.json").read_text() == text
    assert gate.main(["--checkpoint", str(folder), "--tasks", "milk"]) == 2
    assert "--tasks 'milk'" in capsys.readouterr().err


def scan_rows(dense, static):
    rows = [{"task": "all", "method": "dense", "ratio": 0.0, "successes": dense, "episodes": 50}]
    rows += [{"task": "all", "method": "static", "ratio": r, "successes": n, "episodes": 50} for r, n in static.items()]
    return [*rows, {**rows[-1], "task": "libero_object/0", "successes": 0}]


def test_the_ratio_that_is_tested_is_the_lowest_at_which_a_fixed_pattern_loses_ten_points():
    assert primary.ratio_of(scan_rows(45, {0.75: 10, 0.25: 44, 0.5: 40})) == 0.5  # five of fifty: ten points, exactly
    assert primary.ratio_of(scan_rows(45, {0.75: 41, 0.25: 44, 0.5: 43})) == 0.75  # it never loses so many: the highest
    assert (
        primary.ratio_of(scan_rows(45, {0.25: 40, 0.5: 36, 0.75: 35}), 5) == 0.75
    )  # twenty points, by a plan that says so
    rows = scan_rows(45, {0.5: 40})
    rows[1]["episodes"] = 49
    with pytest.raises(ConfigError, match="scan is not whole"):
        primary.ratio_of(rows)


def test_the_primary_part_is_added_to_the_plan_and_then_counted_in_pairs(tmp_path, capsys):
    plan = json.loads((Path(__file__).parents[2] / "results" / "libero-plan.json").read_text())
    plan["parts"] = [part for part in plan["parts"] if part["name"] != "primary"]
    path, scan = tmp_path / "plan.json", tmp_path / "plan-scan.json"
    next(part for part in plan["parts"] if part["name"] == "scan")["set"] = ["prune.sites=[lm.mlp, expert.mlp]"]
    path.write_text(json.dumps(plan))
    assert primary.main(["--plan", str(path)]) == 2 and "plan-scan.json" in capsys.readouterr().err
    scan.write_text(json.dumps({"rows": scan_rows(45, {0.25: 44, 0.5: 40, 0.75: 10})}))
    assert primary.main(["--plan", str(path)]) == 0
    part = next(p for p in json.loads(path.read_text())["parts"] if p["name"] == "primary")
    states = range(part["seed"], part["seed"] + part["episodes"])
    assert part["ratio"] == "0.5" and part["method"] == "dense,static,ecovla"
    assert min(states) >= 5 and 10 * len(states) == plan["primary"]["pairs"]
    assert part["set"] == ["prune.sites=[lm.mlp, expert.mlp]"], "of the channels that the scan left out"
    outcomes = {"dense": [1, 1, 1, 1, 1, 0], "static": [1, 0, 0, 0, 0, 0], "ecovla": [0, 1, 1, 1, 1, 0]}
    book = Journal(journal.beside(tmp_path / "plan-primary.json"), {"a": 1}, False, "c1")
    for name, solved in outcomes.items():
        for seed, success in enumerate(solved):
            book.add({**dict.fromkeys(journal.KEYS, "x"), "method": name, "seed": seed, "success": bool(success)})
    book.close()
    assert primary.main(["--plan", str(path), "--json", str(tmp_path / "p.json")]) == 0
    document = json.loads((tmp_path / "p.json").read_text())
    row = document["rows"][0]
    assert (row["this"], row["other"], row["only_this"], row["only_other"]) == ("ecovla", "static", 4, 1)
    assert row["difference"] == pytest.approx(0.5) and row["low"] < 0.5 < row["high"]
    told = libero_tables.primary(document)
    assert "6 of 200 pairs: not whole" in told and "of the language model's MLPs and the action expert's MLPs" in told


def test_what_a_plan_wants_beside_its_cell_is_run_at_its_ratio_and_counted_in_pairs_with_it(tmp_path):
    plan = json.loads((Path(__file__).parents[2] / "results" / "libero-no-demonstrations.json").read_text())
    plan["parts"] = plan["parts"][:1] if plan["parts"][0]["name"] == "scan" else plan["parts"]
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plan))
    (tmp_path / "plan-scan.json").write_text(json.dumps({"rows": scan_rows(45, {0.25: 44, 0.5: 40, 0.75: 10})}))
    assert primary.main(["--plan", str(path)]) == 0
    parts = {part["name"]: part for part in json.loads(path.read_text())["parts"]}
    assert [parts[name]["ratio"] for name in ("primary", "once", "cold")] == ["0.75"] * 3
    assert parts["once"]["set"] == [*parts["primary"]["set"], "prune.p=0"] and parts["once"]["calibration"] == "weights"
    assert parts["cold"]["calibration"] == "none" and parts["cold"]["set"] == parts["primary"]["set"]
    assert all(parts[name]["method"] == "dense,ecovla" for name in ("once", "cold"))
    same = ("benchmark", "episodes", "seed", "refresh")
    assert all(parts[name][key] == parts["primary"][key] for name in ("once", "cold") for key in same)
    for name, methods in {"primary": {"dense": [1, 1, 1], "static": [0, 0, 1], "ecovla": [1, 1, 0]},
                          "once": {"dense": [1, 1, 1], "ecovla": [0, 1, 0]}}.items():  # fmt: skip
        book = Journal(journal.beside(tmp_path / f"plan-{name}.json"), {"a": 1}, False, "c1")
        for method, solved in methods.items():
            for seed, success in enumerate(solved):
                book.add({**dict.fromkeys(journal.KEYS, "x"), "method": method, "seed": seed, "success": bool(success)})
        book.close()
    assert primary.main(["--plan", str(path), "--json", str(tmp_path / "p.json")]) == 0
    rows = json.loads((tmp_path / "p.json").read_text())["rows"]
    counted = {(row["this"], row["other"]): (row["only_this"], row["only_other"]) for row in rows}
    assert counted == {("ecovla", "static"): (2, 1), ("ecovla", "dense"): (0, 1), ("static", "dense"): (0, 2),
                       ("once", "static"): (1, 1), ("once", "dense"): (0, 2), ("ecovla", "once"): (1, 0)}  # fmt: skip


PLANS = [path for path in sorted((Path(__file__).parents[2] / "results").glob("libero-*.json"))
         if "parts" in json.loads(path.read_text())]  # fmt: skip


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_a_plan_names_only_what_can_be_run_and_tests_on_states_that_chose_nothing(path):
    plan = json.loads(path.read_text())
    parts = {part["name"]: part for part in plan["parts"]}
    assert len(parts) == len(plan["parts"])
    for part in parts.values():
        found = controls.chosen(
            part["method"].split(","), part["refresh"].split(","), [float(r) for r in part["ratio"].split(",")]
        )
        assert found[0].method == "dense" and part["seed"] + part["episodes"] <= 50
        for variant in found:
            config.override_texts(config.Config(), [*part.get("set", ()), f"prune.ratio={variant.ratio}"])
    if "primary" not in plan:
        return
    primary = parts.get(plan["primary"]["part"])
    if "chosen_by" in plan["primary"]:  # by a part of an earlier plan
        there = plan["primary"]["chosen_by"]
        assert there["plan"] in plan["earlier"]
        other = json.loads(path.with_name(there["plan"]).read_text())
        scan = next(part for part in other["parts"] if part["name"] == there["part"])
    else:
        scan = parts[plan["primary"]["scan"]]
    if primary is not None:
        assert primary["ratio"] in scan["ratio"].split(",") and primary["calibration"] == scan["calibration"]
        assert primary.get("set") == scan.get("set")
        assert primary["seed"] >= scan["seed"] + scan["episodes"]
        assert primary["episodes"] * 10 >= plan["primary"]["pairs"]


# --- demonstrations and training ----------------------------------------------------------------------------------


def write_demos(folder, tasks=2, episodes_=2, frames=6):
    rng = np.random.default_rng(0)
    for number in range(tasks):
        place = folder / "libero_object" / str(number)
        place.mkdir(parents=True)
        demos.write_json(place / demos.META, {"instruction": WORDS[number], "things": ["milk_1", "basket_1"]})
        for episode in range(episodes_ + number):
            arrays = {
                "images": rng.integers(0, 255, (frames, 2, 32, 32, 3), dtype=np.uint8),
                "state": rng.normal(size=(frames, 8)), "actions": rng.uniform(-1, 1, (frames, 12, 7)),
                "length": np.full(frames, 12, np.uint8), "places": rng.normal(size=(frames, 2, 3)),
                "tool": np.tile(np.r_[np.zeros(3), np.eye(3).ravel()], (frames, 1)),
                "taken": rng.normal(size=(frames, 3)), "goal": rng.normal(size=(frames, 3)),
            }  # fmt: skip
            small = {k: v if v.dtype == np.uint8 else v.astype(np.float32) for k, v in arrays.items()}
            np.savez(place / f"{demos.FIRST_SEED + episode}.npz", **small)


def settings(**more):
    return run.LiberoSettings(
        episodes=0, widen=1, demos=demos.LiberoDemos(size=32),
        fit=fit.FitSettings(vision_steps=2, steps=3, batch=4, **more), calibration_frames=2,
    )  # fmt: skip


def test_a_task_of_which_the_expert_solves_no_scene_is_left_out_by_name(tmp_path, monkeypatch):
    def tried(folder, what, todo, settings, stop):
        folder.mkdir(parents=True, exist_ok=True)
        for seed in todo:
            solved = what.index == 1 and seed == demos.FIRST_SEED
            (folder / f"{seed}{demos.SOLVED if solved else demos.FAILED}").touch()
            yield {"task": what.name, "seed": seed, "solved": solved}

    monkeypatch.setattr(demos, "_round", tried)
    rows = []
    demos.collect(tmp_path, [task(0), task(1)], 30, demos.LiberoDemos(), rows.append)
    seen = {number: [row for row in rows if row["task"].endswith(f"/{number}")] for number in (0, 1)}
    assert len(seen[0]) == demos.TRIED + 1 and "none of 10 scenes" in seen[0][-1]["left_out"]
    assert len(seen[1]) == 30 and all("left_out" not in row for row in seen[1])
    demos.collect(tmp_path, [task(0), task(1)], 60, demos.LiberoDemos(), rows.append)
    assert not [row for row in rows if row["task"].endswith("/0")][demos.TRIED + 1 :]


def test_every_task_is_drawn_equally_often(tmp_path):
    write_demos(tmp_path)
    data = LiberoData(tmp_path, ["libero_object"])
    assert data.episodes == 5 and len(data) == 30
    assert [data.share[data.columns["task"] == t].sum() for t in (0, 1)] == pytest.approx([0.5, 0.5])


def test_a_run_that_was_stopped_goes_on_where_it_was(tmp_path):
    write_demos(tmp_path / "demos")
    rows, steps = [], iter([False] * 4 + [True] * 99)
    assert not run.run(tmp_path, tmp_path / "out", settings(), rows.append, lambda: next(steps))
    first = torch.load(tmp_path / "training.pt", weights_only=True)["step"]
    assert 0 < first < 5
    assert run.run(tmp_path, tmp_path / "out", settings(), rows.append, lambda: False)
    assert torch.load(tmp_path / "training.pt", weights_only=True)["step"] == 5
    policy = run.checkpoint.load(tmp_path / "out")
    assert policy.normaliser.widths == (8, 7) and policy.calibration
    episodes.check_space(policy, "out")


def test_a_run_that_goes_on_to_another_length_says_from_where(tmp_path):
    write_demos(tmp_path / "demos")
    steps = iter([False] * 4 + [True] * 99)
    run.run(tmp_path, tmp_path / "out", settings(), lambda row: None, lambda: next(steps))
    state = torch.load(tmp_path / "training.pt", weights_only=True)
    shorter = dataclasses.replace(settings(), fit=dataclasses.replace(settings().fit, steps=2))
    assert run.run(tmp_path, tmp_path / "out", shorter, lambda row: None, lambda: False)
    training = json.loads((tmp_path / "out" / "config.json").read_text())["training"]
    assert training["step"] == 4 and training["settings"]["fit"]["steps"] == 2
    assert training["lengths"] == {"0": 3, str(state["step"]): 2}


def test_two_processes_train_one_policy_and_tell_what_is_wrong_in_one_line(tmp_path):
    write_demos(tmp_path / "demos")
    path = next(tmp_path.rglob("*.npz"))
    whole = path.read_bytes()
    path.write_bytes(whole[:500])
    two = dataclasses.replace(settings(), processes=2)
    with pytest.raises(CheckpointError, match=path.name):
        run.run(tmp_path, tmp_path / "out", two, lambda row: None, lambda: False)
    path.write_bytes(whole)
    rows = []
    assert not run.run(tmp_path, tmp_path / "out", two, rows.append, iter([False, *[True] * 10**6]).__next__)
    assert run.run(tmp_path, tmp_path / "out", two, rows.append, lambda: False)
    assert torch.load(tmp_path / "training.pt", weights_only=True)["step"] == 5
    assert {row["stage"] for row in rows} == {"data"} and run.checkpoint.load(tmp_path / "out").calibration


def test_a_state_of_another_run_is_refused(tmp_path):
    write_demos(tmp_path / "demos")
    run.run(tmp_path, tmp_path / "out", settings(), lambda row: None, lambda: False)
    with pytest.raises(CheckpointError, match="another rate"):
        run.run(tmp_path, tmp_path / "out", settings(rate=1e-4), lambda row: None, lambda: False)


@pytest.mark.parametrize("asked", [2, 100])
def test_a_run_goes_on_with_demonstrations_of_more_tasks_and_keeps_what_its_words_meant(tmp_path, asked):
    """A new word between the old ones moves their ids; words that are gone are refused. Stopped while the tower alone
    learns, or done.
    """
    write_demos(tmp_path / "demos")
    stops = iter([False] * asked + [True] * 10)
    run.run(tmp_path, tmp_path / "out", settings(), lambda row: None, lambda: next(stops))
    done = torch.load(tmp_path / "training.pt", weights_only=True)["step"]
    assert (done < settings().fit.vision_steps) == (asked == 2)
    before = run.checkpoint.load(tmp_path / "out")
    third = tmp_path / "demos" / "libero_object" / "2"
    shutil.copytree(tmp_path / "demos" / "libero_object" / "1", third)
    meta = json.loads((third / demos.META).read_text())
    demos.write_json(third / demos.META, {**meta, "instruction": "grasp the milk"})
    stops = iter([False] + [True] * 10)  # nothing more is trained
    run.run(tmp_path, tmp_path / "out", settings(), lambda row: None, lambda: next(stops))
    after = run.checkpoint.load(tmp_path / "out")
    assert set(after.prompt.words) - set(before.prompt.words) == {"grasp"}
    assert after.prompt.words.index("grasp") < after.prompt.words.index("milk")
    for word in before.prompt.words:
        ids = before.prompt.words.index(word), after.prompt.words.index(word)
        assert torch.equal(before.model.embedding[ids[0]], after.model.embedding[ids[1]]), word
    state = torch.load(tmp_path / "training.pt", weights_only=True)
    assert state["head"]["words"] == after.prompt.words and state["step"] == done
    assert run.run(tmp_path, tmp_path / "out", settings(), lambda row: None, lambda: False)
    shutil.rmtree(third)
    with pytest.raises(CheckpointError, match="another set of words"):
        run.run(tmp_path, tmp_path / "out", settings(), lambda row: None, lambda: False)


def test_a_damaged_demonstration_is_named(tmp_path):
    write_demos(tmp_path)
    path = next(tmp_path.rglob("*.npz"))
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(CheckpointError, match=path.name):
        LiberoData(tmp_path, ["libero_object"])


def test_actions_after_a_push_are_no_answer_to_what_was_seen_before_it():
    frames = [{"at": 0, "end": 2**30}, {"at": 6, "end": 2**30}]
    demos._mark(frames, 9)
    frames.append({"at": 9, "end": 2**30})
    for f in frames:
        f |= {k: np.zeros(2) for k in ("images", "state", "places", "tool", "taken", "goal")}
    out = demos._arrays(frames, [np.full(7, i) for i in range(20)], 12)
    assert out["length"].tolist() == [9, 3, 12] and out["actions"][2, 0, 0] == 9
    assert (out["actions"][2, 11:] == np.array(scene.STAY, np.float32)).all(), "after success the arm stays, open"


# --- the gate -----------------------------------------------------------------------------------------------------


def site(channels=64):
    torch.manual_seed(1)
    return Site("lm.0.mlp", "lm.mlp", "prefill", channels, 1, (torch.ones(channels, 4),), torch.ones(channels, 4), 32)


def look(energy, task_="a", episode=0, phase=0):
    tensor = torch.as_tensor(energy, dtype=torch.float32)
    return movement.Look(task_, episode, phase, {"lm.0.mlp": tensor}, {"lm.0.mlp": tensor})


def test_the_same_channels_overlap_fully_and_disjoint_ones_not_at_all():
    first, second = torch.zeros(64), torch.zeros(64)
    first[:32], second[32:] = 1.0, 1.0
    same = movement.overlaps(site(), [look(first), look(first), look(first, "b"), look(first, "b")], 0.5)
    assert same["tasks"] == 1.0 and same["halves"] == 1.0
    apart = movement.overlaps(site(), [look(first), look(first), look(second, "b"), look(second, "b")], 0.5)
    assert apart["tasks"] == 0.0 and apart["halves"] == 1.0 and apart["scenes"] is None


def test_an_oracle_keeps_all_of_a_steady_episode_and_a_probe_of_every_token_too():
    torch.manual_seed(2)
    one, other = torch.rand(64) ** 4, torch.rand(64) ** 4
    looks = [look(one, "a", e) for e in (0, 0, 0, 1)] + [look(other, "b")] * 3
    kept = movement.kept_shares(site(), looks, 0.5)
    assert kept["oracle"] == pytest.approx(1.0) and kept["probe"] == pytest.approx(1.0)
    assert kept["last look"] == pytest.approx(1.0) and kept["same task"] == pytest.approx(1.0)
    assert kept["random"] < 0.9 and kept["other tasks"] < 1.0


def test_the_recorder_sees_what_a_calibration_sees(folder):
    policy = checkpoint.load(folder)
    seen = next(policy.examples())
    recorder = looks.LookRecorder(policy)
    recorder.add(seen)
    energies = calibrations.calibration(policy, [seen], torch.zeros(12, 7))
    energy, sampled = recorder.looks[0]
    for s in policy.sites:
        assert torch.allclose(energy[s.key], energies[s.key], rtol=1e-4, atol=1e-6)
        assert (sampled[s.key] <= energy[s.key] * 1.001 + 1e-6).all(), "some of the tokens hold no more than all"


# --- with LIBERO --------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not INSTALLED, reason="needs LIBERO (make libero)")
def test_the_real_benchmark_has_its_suites_and_states():
    found = suites.tasks("libero-object")
    assert len(found) == 10 and found[0].states == 50
    assert suites.initial_states(found[0]).shape[0] == 50
    with pytest.raises(ConfigError, match="suite"):
        suites.tasks("libero-nothing")


@pytest.mark.skipif(not INSTALLED, reason="needs LIBERO (make libero)")
def test_the_real_scene_starts_alike_every_time():
    made = scene.LiberoScene(suites.tasks("libero_object")[0])
    try:
        states = []
        for state in (3, 4, 3):
            made.begin(state, state)
            for _ in range(5):
                made.step(np.array([0.5, -0.2, 0.1, 0, 0, 0, 1.0]))
            states.append(made.state())
        assert np.array_equal(states[0], states[2]) and not np.array_equal(states[0], states[1])
    finally:
        made.close()


@pytest.mark.skipif(not INSTALLED, reason="needs LIBERO (make libero)")
def test_in_a_drawn_scene_things_stand_on_their_fixtures_as_in_the_benchmarks_own():
    made = scene.LiberoScene(suites.tasks("libero_spatial")[7])  # a bowl on the stove, another one on the cabinet
    try:

        def on_fixtures(state, seed):
            made.begin(state, seed)
            at = {name: objects.position(made, name) for name in objects.movable(made)}
            body = made.env.sim.model.body_name2id
            stove, cabinet = (
                made.env.sim.data.body_xpos[body(f"{name}_main")] for name in ("flat_stove_1", "wooden_cabinet_1")
            )
            return np.concatenate((at["akita_black_bowl_1"] - stove, at["akita_black_bowl_2"] - cabinet))

        theirs = on_fixtures(0, 0)
        for seed in (demos.FIRST_SEED, demos.FIRST_SEED + 1):
            assert np.abs(on_fixtures(None, seed) - theirs).max() < 0.05
    finally:
        made.close()


def test_axis_angle_does_not_jump_at_half_a_turn():
    turns = [scene.axis_angle((np.sin(a / 2), 0, 0, np.cos(a / 2)))[0] for a in np.linspace(3.0, 3.3, 31)]
    assert np.allclose(np.diff(turns), 0.01) and np.allclose(scene.axis_angle((0, 0, 0, 1)), 0)


def test_limits_of_steps_follow_the_suite_a_name_begins_with():
    assert task().max_steps == 280 and task(suite="libero_object_with_mug").max_steps == 280
    assert task(suite="libero_10_with_milk").max_steps == 520 and task(suite="libero_mine").max_steps == 300


def test_fake_and_real_have_the_same_methods():
    """What the fake stands for must be there."""
    for name in ("begin", "step", "tool", "observe", "close"):
        assert callable(getattr(scene.LiberoScene, name))
