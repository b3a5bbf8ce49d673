"""The command line: every option says what it does, and what needs ROS 2 says so."""

from __future__ import annotations

import argparse

import pytest

from ecovla_ros import cli


def options_of(command: str) -> list[argparse.Action]:
    """The options of a command, as its parser declares them."""
    parser = cli._parser([command])
    choices = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction)).choices
    return choices[command]._actions


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_option_of_every_command_is_explained(command, capsys):
    assert all(action.help for action in options_of(command)), "an option without a help text"
    with pytest.raises(SystemExit) as end:
        cli.main([command, "--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert " ".join(cli.COMMANDS[command].split()) in " ".join(shown.split())


def test_the_list_of_commands_says_which_need_ros_2():
    named = {name for name, what in cli.COMMANDS.items() if "needs ROS 2" in what}
    assert named == {"doctor", "enable", "fuzz", "gazebo", "trial"}
    assert all(name in (cli.__doc__ or "") for name in {*named, "demo"})


@pytest.mark.parametrize("command", [
    ["inspect", "NAME"], ["replay", "NAME"], ["report", "NAME"], ["film", "NAME"], ["calibrate", "NAME", "--out", "x"],
    ["replay", "x", "--config", "NAME"], ["train", "--start", "NAME"], ["eval", "--config", "NAME"],
])  # fmt: skip
def test_a_name_that_the_system_does_not_take_is_one_line(command, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main([part.replace("NAME", "a" * 300) for part in command]) == 2
    told = capsys.readouterr().err
    assert told.startswith("ecovla: ") and told.count("\n") == 1 and "File name too long" in told


def test_a_result_file_that_cannot_be_written_is_told_before_the_work(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    assert cli.main(["replay", str(tmp_path / "none"), "--json", str(tmp_path / "file/x.json")]) == 2
    assert "--json" in capsys.readouterr().err
    assert cli.main(["replay", str(tmp_path / "none"), "--json", str(tmp_path / "new/x.json")]) == 2
    assert "no bag at" in capsys.readouterr().err and not (tmp_path / "new/x.json").exists()


def test_a_report_of_a_damaged_bag_is_written_and_ends_with_2(capsys, tmp_path):
    from ecovla_ros.bags import sample

    bag = sample.write(tmp_path / "bag", sample.Sample(seconds=1.0, size=32).events(), "sqlite3")
    file = next(bag.glob("*.db3"))
    file.write_bytes(file.read_bytes()[: int(0.7 * file.stat().st_size)])
    assert cli.main(["report", str(bag), "--out", str(tmp_path / "x.html")]) == 2
    assert "pages of it are missing" in capsys.readouterr().err and (tmp_path / "x.html").stat().st_size > 1000
