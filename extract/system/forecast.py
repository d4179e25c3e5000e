"""How long a stage will still take, from the speed that was measured on its first items."""

WORTH_SAYING = 60.0
"""A stage that ends within so many seconds is over before a forecast is of use."""

WARM_UP = 5.0
"""The speed of so many seconds after the first item does not count: the first epoch of a training
decodes photos that later ones find in memory."""

MEASURED = 10.0
"""The speed is measured for about so many seconds, and for one item at least."""


class Forecast:
    """Measures the speed of a stage and says once how long the rest will take.

    Parameters
    ----------
    stage : str
        What the user is shown.
    total : int
        Number of items.
    unit : str
        Plural noun for the items.
    done : int
        Items that were done before this run.
    at_most : bool
        Whether the stage may end before all items are done, or later items take less time.
    """

    def __init__(
        self, stage: str, total: int, *, unit: str, done: int = 0, at_most: bool = False
    ) -> None:
        self.stage, self.total, self.unit = stage, total, unit
        self.done = done
        self.about = "at most about" if at_most else "about"
        self.first: float | None = None
        self.begun = 0.0, 0
        self.is_told = False

    def advance(self, n: int, now: float) -> str:
        """Note that `n` more items are done; return a line to say, or nothing.

        Parameters
        ----------
        n : int
        now : float
            Seconds on any clock.
        """
        self.done += n
        if self.is_told or not n:
            return ""
        # The time until the first item is done also holds what is done once, such as a graph.
        if self.first is None:
            self.first = now
            self.begun = now, self.done
        if now - self.first < WARM_UP + MEASURED:
            if self.begun[0] - self.first < WARM_UP:
                self.begun = now, self.done
            return ""
        self.is_told = True
        return self._line((self.done - self.begun[1]) / (now - self.begun[0]))

    def _line(self, speed: float) -> str:
        left = self.total - self.done
        if left / speed < WORTH_SAYING:
            return ""
        return (
            f"{self.stage}: {self.about} {rough(left / speed)} left "
            f"for {left:,} {self.unit}, at {two_digits(speed)} {self.unit}/s"
        )


def rough(seconds: float) -> str:
    """Format a time with two significant digits: ``70 s``, ``5.8 min``, ``2.3 h``, ``3.1 days``."""
    for length, unit in ((86_400, "days"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * length:
            return f"{two_digits(seconds / length)} {unit}"
    return f"{two_digits(seconds)} s"


def two_digits(value: float) -> str:
    """Format a number with two significant digits: ``0.31``, ``9.6``, ``120``."""
    return f"{float(f'{value:.2g}'):,g}"
