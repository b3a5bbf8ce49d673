"""Statistics of success rates, single and paired."""

from __future__ import annotations

import math
from dataclasses import dataclass

Z95 = 1.959963984540054
Z95_ONE_SIDED = 1.6448536269514722
Z80 = 0.8416212335729143
"""Quantile for a power of 80 %."""
TYPICAL_DISCORDANCE = 0.05
"""Share of pairs that differ, where none has been seen yet."""


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


def constrained_loss(lost: int, won: int, pairs: int, difference: float) -> float:
    """Most likely share of pairs that are lost when the rates differ by `difference` (this less the other).

    T. Tango, Statistics in Medicine 17 (1998) 891-908.
    """
    a = 2.0 * pairs
    b = -won - lost + (2.0 * pairs - won + lost) * difference
    c = -lost * difference * (1.0 - difference)
    return (math.sqrt(max(b * b - 4.0 * a * c, 0.0)) - b) / (2.0 * a)


def tango(lost: int, won: int, pairs: int, difference: float) -> float:
    """Score statistic of the hypothesis that the rates differ by `difference`, standard normal under it.

    Positive where the data lie above. T. Tango, Statistics in Medicine 17 (1998) 891-908.
    """
    gap = won - lost - pairs * difference
    variance = pairs * (2.0 * constrained_loss(lost, won, pairs, difference) + difference * (1.0 - difference))
    if variance <= 0.0:
        return 0.0 if gap == 0 else math.copysign(math.inf, gap)
    return gap / math.sqrt(variance)


def least_difference(lost: int, won: int, pairs: int, z: float = Z95_ONE_SIDED) -> float:
    """Lower 95 % (one-sided) bound of the difference of two paired rates, this less the other; -1 without pairs.

    The smallest difference that Tango's score test does not reject.
    """
    if pairs == 0:
        return -1.0
    low, high = -1.0, (won - lost) / pairs
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if tango(lost, won, pairs, middle) > z else (low, middle)
    return (low + high) / 2


def fewest_pairs(margin: float, z: float = Z95_ONE_SIDED) -> int:
    """Pairs without which non-inferiority by `margin` cannot be shown even if not one of them differs."""
    return math.ceil(z * z * (1.0 - margin) / margin - 1e-9)


def needed_pairs(margin: float, discordance: float) -> int:
    """Pairs that show non-inferiority by `margin` with a power of 80 % if the true rates are equal.

    `discordance`: share of pairs that differ. R. J. Connor, Biometrics 43 (1987) 207-211, normal approximation.
    """
    wanted = discordance * ((Z95_ONE_SIDED + Z80) / margin) ** 2
    return max(fewest_pairs(margin), math.ceil(wanted - 1e-9))


@dataclass(frozen=True)
class Verdict:
    """Whether a variant is not worse than another by more than a margin."""

    low: float
    """Lower 95 % (one-sided) bound of the difference of the rates."""
    text: str
    """not inferior, inferior, or open with the number of episodes that would be needed."""


def non_inferiority(lost: int, won: int, pairs: int, margin: float) -> Verdict:
    """Test at 5 % one-sided: not inferior if the lower bound lies above -margin, inferior if the upper lies below."""
    low = least_difference(lost, won, pairs)
    if low > -margin:
        return Verdict(low, "not inferior")
    if -least_difference(won, lost, pairs) < -margin:
        return Verdict(low, "inferior")
    discordance = (lost + won) / pairs if pairs and lost + won else TYPICAL_DISCORDANCE
    needed = max(needed_pairs(margin, discordance), pairs + 1)
    return Verdict(low, f"open: needs about {needed} episodes")
