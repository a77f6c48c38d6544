"""Numbers as people read them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fss_core.numerals import number, signed, signed_interval, with_interval


@pytest.mark.parametrize(("value", "text"), [(-0.125, "−0.12"), (0.0, "+0.00"), (-0.001, "+0.00"), (0.126, "+0.13")])
def test_a_true_minus_and_no_negative_zero(value: float, text: str) -> None:
    assert number(value, 2, sign=True) == signed(value, 2) == text
    assert number(value) == text.removeprefix("+")


def test_what_is_not_there_is_a_dash() -> None:
    assert number(None, 3) == signed(None) == "–"
    assert with_interval(0.5, None, None) == "0.50 [–, –]"


@given(st.floats(-1e6, 1e6), st.integers(1, 6), st.booleans())
def test_what_is_written_is_what_was_rounded(value: float, digits: int, sign: bool) -> None:
    text = number(value, digits, sign=sign)
    assert float(text.replace("−", "-")) == float(f"{value:.{digits}f}")
    assert "-" not in text
    assert text.startswith(("+", "−")) or not sign


def test_intervals_are_written_as_their_numbers_are() -> None:
    assert with_interval(0.5, -0.04, 0.6) == "0.50 [−0.04, 0.60]"
    assert signed_interval(0.5, -0.04, 0.6) == "+0.500 [−0.040, +0.600]"
