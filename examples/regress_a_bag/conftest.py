"""Everything a test of your bags needs: the fixture `golden_replay` and the flag --regenerate-golden."""

pytest_plugins = ["ecovla_ros.bags.fixture"]
