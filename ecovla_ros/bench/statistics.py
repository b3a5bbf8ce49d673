"""Statistics of success rates."""

from __future__ import annotations

import math

Z95 = 1.959963984540054


def wilson(successes: int, trials: int, z: float = Z95) -> tuple[float, float]:
    """Wilson score interval of a proportion: (low, high), 95 % by default; (0, 1) without trials.

    E. B. Wilson, JASA 22 (1927) 209-212.
    """
    if trials == 0:
        return 0.0, 1.0
    share, weight = successes / trials, z * z / trials
    centre = (share + weight / 2) / (1 + weight)
    half = z * math.sqrt(share * (1 - share) / trials + weight / (4 * trials)) / (1 + weight)
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == trials else min(1.0, centre + half)
    return low, high


def mcnemar(lost: int, won: int) -> float:
    """Exact two-sided p-value of McNemar's test on `lost` and `won` discordant pairs; 1 without any.

    Q. McNemar, Psychometrika 12 (1947) 153-157; exact form: a binomial test with p = 1/2.
    """
    pairs = lost + won
    if pairs == 0:
        return 1.0
    tail = sum(math.comb(pairs, k) for k in range(min(lost, won) + 1)) / 2.0**pairs
    return min(1.0, 2.0 * tail)
