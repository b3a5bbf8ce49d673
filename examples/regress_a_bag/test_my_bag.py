"""Regress your own bags. Put them beside this file, and then:

    pytest examples/regress_a_bag --regenerate-golden    # once: writes golden/<bag>-<method>-<ratio>.json
    pytest examples/regress_a_bag                        # from then on: a chunk that differs fails, with a table

The bag here is made from a seed, so that the example runs anywhere; with a recording of yours, drop the fixture `bag`.
"""

from __future__ import annotations

import pytest

from ecovla_ros.bags import sample


@pytest.fixture(scope="session")
def bag(tmp_path_factory):
    return sample.write(tmp_path_factory.mktemp("bags") / "sample", sample.Sample(seconds=1.0).events())


@pytest.mark.parametrize("method, ratio", [("dense", 0.0), ("ecovla", 0.25)])
def test_the_policy_answers_my_bag_as_it_did(golden_replay, bag, method, ratio):
    rows = golden_replay(bag, method=method, ratio=ratio)
    # Beyond the chunks: whatever must hold of your recording.
    assert all("joints" in row for row in rows), "every frame was answered"
    assert sum(row["triggered"] for row in rows) <= len(rows) // 2


def test_topics_of_other_names_and_a_looser_tolerance(golden_replay, bag):
    topics = ("third_person=/third_person/image/compressed", "wrist=/wrist/image/compressed")
    golden_replay(bag, method="dense", ratio=0.0, topics=topics, allowed=1e-3, name="loose")
