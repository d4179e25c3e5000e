"""Numbers as people read them: one format for each kind, used in every sentence and table."""

from collections.abc import Callable, Sequence

SMALLEST_P = 0.001


def percent(value: float) -> str:
    """Format a share from 0 to 1: ``84.5%``."""
    return f"{value:.1%}"


def decimal(value: float) -> str:
    """Format a metric that is not a share: ``0.464``."""
    return f"{value:.3f}"


def p_value(p: float) -> str:
    """Format a p-value: ``0.754``, or ``< 0.001`` where three decimals do not suffice."""
    return f"{p:.3f}" if p >= SMALLEST_P else f"< {SMALLEST_P}"


def file_size(n: int) -> str:
    """Format a number of bytes: ``3.3 MB``, or ``99.9 kB`` below a tenth of a megabyte."""
    return f"{n / 1e6:,.1f} MB" if n >= 1e5 else f"{n / 1e3:,.1f} kB"


def interval(bounds: tuple[float, float], number: Callable[[float], str] = percent) -> str:
    """Format an interval: ``76.6% to 90.1%``."""
    return " to ".join(number(bound) for bound in bounds)


def duration(seconds: float) -> str:
    """Format a time: ``0.12 s``, ``4.0 s``, ``1 min 40 s``, ``2 h 5 min``."""
    if seconds < 9.95:
        return f"{seconds:.{1 if seconds >= 0.995 else 2}f} s"
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours:,} h {minutes} min"


def alternatives(names: Sequence[str]) -> str:
    """Join names as a sentence does: ``a``, ``a or b``, ``a, b or c``."""
    return " or ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
