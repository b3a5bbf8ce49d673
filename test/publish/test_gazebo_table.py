"""The table of what was driven in Gazebo: every row counted once by its task and once in all, pairs by scene."""

from __future__ import annotations

from ecovla_ros.publish import gazebo_tables


def row(method: str, task: str, seed: int, success: bool) -> dict[str, object]:
    numbers = dict.fromkeys(("policy_p50_ms", "policy_p95_ms", "camera_to_command_p50_ms", "real_time_factor"), 1.0)
    return {"method": method, "ratio": 0.25 * (method != "dense"), "task": task, "seed": seed, "success": success,
            "lifted": True, "guard_states": {"RUNNING": 1.0}, **numbers}  # fmt: skip


def test_rows_are_pooled_and_paired_with_dense_on_the_same_scene() -> None:
    rows = [row("dense", "apple", 0, True), row("dense", "apple", 1, True), row("dense", "banana", 0, False)]
    rows += [row("ecovla", "apple", 1, False), row("ecovla", "banana", 0, True), row("ecovla", "banana", 7, True)]
    rows[-1]["guard_states"] = {"RUNNING": 0.5, "LATCHED": 0.5}
    document = {
        "rows": rows, "settings": {"seeds": 20, "episode_s": 25.0, "launch": {}}, "commit": "c",
        "machine": {"cpu": "c", "cores": 2}, "versions": {},
    }  # fmt: skip
    one = {**document, "rows": rows[:2]}
    assert "| all |" not in gazebo_tables.driven(one), "one task is all there is"
    cells = [line.split(" | ") for line in gazebo_tables.driven(document).splitlines() if line.startswith("| ")][1:]
    counted = {(line[0].strip("| "), line[1]): line for line in cells}
    assert [key for key in counted][:3] == [("dense", "all"), ("dense", "apple"), ("dense", "banana")]
    assert counted["dense", "all"][2].startswith("2 of 3 (") and counted["ecovla, 25 %", "all"][2].startswith(
        "2 of 3 ("
    )
    assert counted["dense", "all"][4] == "-" and counted["dense", "all"][8].endswith("; 0")
    assert counted["ecovla, 25 %", "all"][8].endswith("; 1")
    assert counted["ecovla, 25 %", "all"][4] == "2: 1, 1; 1", "seed 7 was not driven dense: no pair"
    assert counted["ecovla, 25 %", "apple"][4].startswith("1: 1, 0")


def test_demonstrations_are_counted_by_task_and_timed_where_they_were_solved():
    rows = [
        {**row("expert", "apple", seed, seed != 2), "seconds": 25.0 if seed == 2 else 10.0 + seed} for seed in range(3)
    ]
    rows.append({**row("expert", "bottle", 0, False), "seconds": 25.0})
    document = {
        "rows": rows, "settings": {"seeds": 3, "episode_s": 25.0, "launch": {"pace": "0.5"}, "hung": 2}, "commit": "c",
        "machine": {"cpu": "c", "cores": 2}, "versions": {},
    }  # fmt: skip
    table = gazebo_tables.demonstrated(document)
    cells = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")][1:]
    assert [(line[0], line[1].split(" (")[0], line[3]) for line in cells] == [
        ("all", "2 of 4", "10.5"), ("apple", "2 of 3", "10.5"), ("bottle", "0 of 1", "-"),
    ]  # fmt: skip
    assert "--demonstrations FOLDER" in table and "hung 2 times" in table


def test_a_trained_policy_is_paired_with_each_other_run_on_the_scenes_that_both_met():
    trained = [row("dense", "banana", seed, seed != 3) for seed in range(4)] + [row("ecovla", "banana", 0, True)]
    trained.append(row("dense", "apple", 0, True))
    shipped = [row("dense", "banana", seed, seed == 3) for seed in (1, 2, 3, 9)] + [row("ecovla", "banana", 0, True)]
    one, other = (
        {"rows": rows, "settings": {"seeds": 4, "episode_s": 25.0, "launch": {}}, "commit": "abc",
         "machine": {"cpu": "this one", "cores": 2}, "versions": {}}
        for rows in (trained, shipped)
    )  # fmt: skip
    table = gazebo_tables.taught(one, other)
    cells = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")][1:]
    assert [line[1:8] for line in cells] == [
        ["dense", "all", "3", "2", "1", "2", "1"], ["dense", "banana", "3", "2", "1", "2", "1"],
        ["ecovla", "all", "1", "1", "1", "0", "0"], ["ecovla", "banana", "1", "1", "1", "0", "0"],
    ]  # fmt: skip
    assert all(line[0] == "this one, abc" for line in cells)
