"""A view is an address: controls take their values from it, and write them back.

Values stand in the address under the controls' own keys, as names that do not change with what is shown on screen. What
is as it would be anyway is left out. Opening an address never starts work.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import streamlit as st

from fss_core.specs import UnknownNameError, choose

Value = str | int | float | bool

_SEEN, _SEEDED, _REPLACED, _PROBLEM = "link_seen", "link_seeded", "link_replaced", "link_problem"
_VIEW, _PARAMS = "link_view", "link_params"

_LAG_SECONDS = 3.0
"""For so long after an address was replaced, whatever comes from it was sent before the browser knew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Param:
    """One value of a view that stands in its address.

    Attributes:
        default: what it is when the address does not say; decides its type. ``None`` for a name that depends on what
            is looked at: it is written whenever it is known.
        what: what it is, for messages.
        known: lists the names it may have.
        bounds: smallest and largest value of a number.
        remedy: what to do about a name that is not known.
    """

    default: Value | None
    what: str
    known: Callable[[], Collection[str]] | None = None
    bounds: tuple[float, float] | None = None
    remedy: str = ""

    def parse(self, text: str) -> Value:
        """Read a value from an address.

        Raises:
            ValueError: it makes no sense here; the text says why.
        """
        if self.known is not None:
            try:
                return choose(text[:60], self.known(), what=self.what)
            except UnknownNameError as error:
                raise ValueError(f"{error}{self.remedy}") from error
        if isinstance(self.default, bool):
            if text not in ("0", "1"):
                raise ValueError(f"{self.what} must be 0 or 1, got {text[:40]!r}")
            return text == "1"
        if self.bounds is None:
            return text[:200]
        low, high = self.bounds
        between = f"{low:,.10g} to {high:,.10g}"
        try:
            value = float(text) if isinstance(self.default, float) else int(text)
        except ValueError:
            raise ValueError(f"{self.what} must be a number from {between}, got {text[:40]!r}") from None
        if not low <= value <= high:
            raise ValueError(f"{self.what} must lie from {between}, got {text[:40]!r}")
        return value

    def write(self, value: object) -> str:
        """Write a value as an address has it."""
        return str(int(value)) if isinstance(value, bool) else str(value)


def seed(params: Mapping[str, Param]) -> None:
    """Give the controls the values of the address, if it is another than the one that was written last.

    A control that was not drawn for a while has been forgotten, and gets its value back from there, too; so do all
    controls on the way from another page, since those of one page do not live on in the next. What draws a part of a
    page anew sees to its own (:func:`restore`).
    """
    now = st.query_params.to_dict()
    is_new = not _is_known(now) or [*params] != [*st.session_state.get(_PARAMS, ())]
    if is_new:
        st.session_state[_SEEDED] = time.monotonic()
    # A page that is asked for again while it is drawn for the first time is told its controls' values once more: the
    # browser may not have heard them, and would send back the least value of each as if somebody had chosen it.
    may_not_know = time.monotonic() - st.session_state[_SEEDED] < _LAG_SECONDS
    problems = []
    for key, param in params.items():
        if not is_new and key in st.session_state:
            if may_not_know:
                st.session_state[key] = st.session_state[key]
            continue
        if problem := _take(key, param, now):
            problems.append(problem)
    st.session_state[_PARAMS] = params
    if is_new:
        st.session_state[_SEEN] = now
        st.session_state[_PROBLEM] = "; ".join(problems)


def tell(params: Mapping[str, Param]) -> None:
    """Tell the browser the values of controls that are about to be drawn again: it may have forgotten them, too."""
    restore()
    for key in params:
        if key in st.session_state:
            st.session_state[key] = st.session_state[key]


def restore() -> None:
    """Give controls of the page that were not drawn for a while, and so have been forgotten, their values back."""
    now = st.query_params.to_dict()
    for key, param in st.session_state[_PARAMS].items():
        if key not in st.session_state:
            _take(key, param, now)


def _take(key: str, param: Param, address: dict[str, str]) -> str:
    """Give a control the value of an address, or what it is as usual; return what is wrong with it, if anything is."""
    st.session_state.pop(key, None)
    if param.default is not None:
        st.session_state[key] = param.default
    if key in address:
        try:
            st.session_state[key] = param.parse(address[key])
        except ValueError as error:
            return str(error)
    return ""


def _is_known(address: dict[str, str]) -> bool:
    """Say whether an address is the one written last, or one that the browser has not replaced by it yet.

    While a view is being measured it asks every second how things are. To take its late address for a step back would
    undo what was chosen meanwhile.
    """
    replaced = st.session_state.get(_REPLACED, {}).get(tuple(address.items()), -_LAG_SECONDS)
    return address == st.session_state.get(_SEEN) or time.monotonic() - replaced < _LAG_SECONDS


def write() -> None:
    """Write the values of the page's controls into the address."""
    params: Mapping[str, Param] = st.session_state[_PARAMS]
    view, seen = _changed(params), st.session_state[_SEEN]
    if view != st.query_params.to_dict():
        st.query_params.from_dict(view)
    if view != seen:
        now = time.monotonic()
        recent = {own: at for own, at in st.session_state.get(_REPLACED, {}).items() if now - at < _LAG_SECONDS}
        st.session_state[_REPLACED] = recent | {tuple(seen.items()): now}
    st.session_state[_SEEN] = view
    st.session_state[_VIEW] = _others(params) | view


def problem() -> str:
    """Say what the address asks for that is not here; empty if it can be shown."""
    return str(st.session_state.get(_PROBLEM, ""))


def dismiss_problem() -> None:
    """Stop saying it."""
    st.session_state[_PROBLEM] = ""


def last_view() -> dict[str, str]:
    """What the address says and what the controls say by now, also those of other pages: to go on with it elsewhere."""
    params: Mapping[str, Param] = st.session_state.get(_PARAMS, {})
    drawn = {key: param for key, param in params.items() if st.session_state.get(key) is not None}
    return (st.query_params.to_dict() if not params else _others(drawn)) | _changed(drawn)


def _changed(params: Mapping[str, Param]) -> dict[str, str]:
    """What the controls say, as far as it is not as it would be anyway."""
    values = {key: st.session_state.get(key) for key in params}
    return {
        key: params[key].write(value)
        for key, value in values.items()
        if value is not None and value != params[key].default
    }


def _others(params: Mapping[str, Param]) -> dict[str, str]:
    """What was said last by controls other than these."""
    return {key: text for key, text in st.session_state.get(_VIEW, {}).items() if key not in params}
