"""How numbers are written for people: a true minus, no sign before what is rounded to nothing, a dash for none."""

from __future__ import annotations


def number(value: float | None, digits: int = 2, *, sign: bool = False) -> str:
    """Write a number.

    Args:
        value: to be written; ``None`` where there is none.
        digits: behind the point.
        sign: whether a plus is written, too, as scores and differences have it.

    >>> number(-0.125), number(0.5), number(-0.0001)
    ('−0.12', '0.50', '0.00')
    >>> number(None)
    '–'
    >>> number(0.0421, 3, sign=True), number(-0.0001, 3, sign=True)
    ('+0.042', '+0.000')
    """
    if value is None:
        return "–"
    return f"{value:{'+' if sign else ''}z.{digits}f}".replace("-", "−")


def signed(value: float | None, digits: int = 3) -> str:
    """Write a score or a difference, which always has a sign.

    >>> signed(-0.0421), signed(0.0421, 2)
    ('−0.042', '+0.04')
    """
    return number(value, digits, sign=True)


def with_interval(
    value: float | None, low: float | None, high: float | None, digits: int = 2, *, sign: bool = False
) -> str:
    """Write a number with its interval.

    >>> with_interval(0.5, 0.4, 0.6)
    '0.50 [0.40, 0.60]'
    >>> with_interval(0.1, -0.05, 0.15, 3, sign=True)
    '+0.100 [−0.050, +0.150]'
    """
    value_text, low_text, high_text = (number(own, digits, sign=sign) for own in (value, low, high))
    return f"{value_text} [{low_text}, {high_text}]"


def signed_interval(value: float | None, low: float | None, high: float | None, digits: int = 3) -> str:
    """Write a score or a difference with its interval.

    >>> signed_interval(0.1, -0.05, 0.15)
    '+0.100 [−0.050, +0.150]'
    """
    return with_interval(value, low, high, digits, sign=True)
