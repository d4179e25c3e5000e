"""How far a test split tells two models apart, and how many photos would do."""

import math

from scipy.stats import norm

LEVEL = 0.05
POWER = 0.8


def photos_needed(only_first: float, only_second: float) -> int:
    """Return the test photos that McNemar's test needs to find a difference.

    With the share p of photos that only one of two models gets right, and the difference d of
    their accuracies, ::

        n = (z(1 - LEVEL / 2) sqrt(p) + z(POWER) sqrt(p - d^2))^2 / d^2

    where z are quantiles of the normal distribution: Connor (1987), "Sample size for testing
    differences in proportions for the paired-sample design", Biometrics 43, 207-211.

    Parameters
    ----------
    only_first, only_second : float
        Shares of the photos that only the first, or only the second, model gets right; they
        differ.
    """
    p, d = only_first + only_second, only_first - only_second
    root = norm.ppf(1 - LEVEL / 2) * math.sqrt(p) + norm.ppf(POWER) * math.sqrt(p - d * d)
    return math.ceil(float(root / d) ** 2)


def expected_loss(only_first: int, only_second: int, photos: int) -> float:
    """Return the accuracy that the choice of the first model loses on average, 0..1.

    If nothing was known before, the true difference d of two accuracies is about normal around the
    one that was observed. The choice loses where d is negative: the mean of max(-d, 0). Decision
    analysis calls this the expected value of perfect information (Raiffa and Schlaifer, "Applied
    Statistical Decision Theory", 1961, chapter 5).

    Parameters
    ----------
    only_first, only_second : int
        Test photos that only the first, or only the second, model gets right.
    photos : int
        All test photos.
    """
    mean = (only_first - only_second) / photos
    variance = ((only_first + only_second) / photos - mean**2) / photos
    if variance <= 0:
        return max(-mean, 0.0)
    spread = math.sqrt(variance)
    return float(spread * norm.pdf(mean / spread) - mean * norm.cdf(-mean / spread))
