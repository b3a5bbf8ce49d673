"""Statistics of paired success rates: against brute force, and against what they must mean."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ecovla_ros.bench.success import statistics
from ecovla_ros.bench.success.statistics import mcnemar, non_inferiority, tango, wilson


@pytest.mark.parametrize(("lost", "won"), [(0, 0), (5, 0), (1, 4), (7, 7), (10, 3)])
def test_mcnemar_is_the_two_sided_binomial_test(lost, won):
    n = lost + won
    probability = [math.comb(n, k) / 2**n for k in range(n + 1)]
    expected = sum(p for k, p in enumerate(probability) if abs(2 * k - n) >= abs(lost - won))
    assert mcnemar(lost, won) == pytest.approx(expected)


@pytest.mark.parametrize(("successes", "trials"), [(0, 20), (12, 20), (20, 20), (585, 600)])
def test_wilson_holds_the_rates_the_score_test_does_not_reject(successes, trials):
    low, high = wilson(successes, trials)
    share = successes / trials
    for edge in (low, high):
        if 0.0 < edge < 1.0:
            score = (share - edge) / math.sqrt(edge * (1 - edge) / trials)
            assert abs(score) == pytest.approx(statistics.Z95)
    assert wilson(12, 20) == (pytest.approx(0.3866, abs=1e-4), pytest.approx(0.7812, abs=1e-4))


@pytest.mark.parametrize(("lost", "won", "pairs"), [(4, 1, 60), (10, 3, 200), (0, 0, 50), (3, 9, 40)])
@pytest.mark.parametrize("difference", [-0.2, -0.05, -0.02, 0.1])
def test_the_constrained_share_is_the_most_likely_one(lost, won, pairs, difference):
    def likelihood(q):
        p = q + difference
        same = 1.0 - q - p
        terms = ((lost, q), (won, p), (pairs - lost - won, same))
        if any(share < -1e-12 or (count and share <= 0) for count, share in terms):
            return -math.inf
        return sum(count * math.log(share) for count, share in terms if count)

    grid = np.linspace(0.0, 1.0, 200_001)
    best = max(grid, key=likelihood)
    assert statistics.constrained_loss(lost, won, pairs, difference) == pytest.approx(best, abs=2e-5)


@pytest.mark.parametrize(("lost", "won", "pairs"), [(4, 1, 60), (10, 3, 200), (0, 0, 50), (3, 9, 40)])
def test_the_least_difference_is_where_the_score_test_begins_to_reject(lost, won, pairs):
    low = statistics.least_difference(lost, won, pairs)
    assert low < (won - lost) / pairs
    assert tango(lost, won, pairs, low - 1e-4) > statistics.Z95_ONE_SIDED > tango(lost, won, pairs, low + 1e-4)


def test_the_bound_holds_nineteen_times_of_twenty():
    rng = np.random.default_rng(0)
    shares = (0.06, 0.04, 0.90)  # lost, won, same: the true difference is -0.02
    draws = rng.multinomial(200, shares, 2000)
    below = np.mean([statistics.least_difference(lost, won, 200) <= -0.02 for lost, won, _ in draws])
    assert 0.93 < below < 0.975


def test_too_few_pairs_are_named_exactly():
    least = statistics.fewest_pairs(0.02)
    assert non_inferiority(0, 0, least, 0.02).text == "not inferior"
    assert non_inferiority(0, 0, least - 1, 0.02).text.startswith("open")
    assert statistics.needed_pairs(0.02, 0.05) == 773


def test_a_verdict_is_one_of_three():
    assert non_inferiority(5, 5, 900, 0.02).text == "not inferior"
    assert non_inferiority(60, 5, 600, 0.02).text == "inferior"
    needed = statistics.needed_pairs(0.02, 11 / 200)
    assert non_inferiority(6, 5, 200, 0.02).text == f"open: needs about {needed} episodes"
