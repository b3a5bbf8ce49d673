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
