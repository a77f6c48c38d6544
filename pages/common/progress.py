"""The offer to measure, and the strip that shows how far a run is; it polls only while something runs."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from fss_core.explore import version_of
from fss_core.jobs import kinds, service
from fss_core.jobs.board import OPEN_STATES, Board, Run
from fss_core.jobs.plans import Plan
from fss_core.jobs.pool import SCHEDULER_VARIABLE, num_gpus
from fss_core.jobs.progress import in_words, progress_of
from fss_core.jobs.requests import Request
from fss_core.jobs.retraining_plans import RetrainRequest
from fss_core.specs import DataError, FssError
from fss_core.store import Store
from pages.common.frame import plain, shown_errors

_POLL_SECONDS = 1.0
_REDRAW_SECONDS = 4.0
"""Between two drawings of a page that fills: server and browser draw for a second or two, on cores that measure."""
_BASIS = {
    "measured": "from the rate this machine has shown",
    "scaled": "scaled from other work on this machine",
    "typical": "a guess from another machine: nothing has been measured here yet",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Verb:
    """What the button and the strip call the work.

    Attributes:
        ask: on the button.
        doing: while it is done.
        done: when nothing is left.
    """

    ask: str = "Measure"
    doing: str = "Measuring"
    done: str = "Measured"


_MEASURE = Verb()

Version = Callable[[Store, Any], object]
"""Says which version of a request's results there is; each kind of request has one."""


def find_run(store: Store, request: Request) -> Run | None:
    """Find the run of a request, if it was ever asked for; or else one under way that measures some of the same."""
    runs = Board(store).runs()
    own = next((run for run in runs if run.key == request.key), None)
    if is_open(own):
        return own
    others = [run for run in runs if is_open(run) and kinds.overlap(request, run)]
    return next((run for run in others if run.state == "running"), others[0] if others else own)


def is_open(run: Run | None) -> bool:
    """Say whether a run still wants work."""
    return run is not None and run.state in OPEN_STATES


def offer(store: Store, request: Request, run: Run | None, place: DeltaGenerator, verb: Verb = _MEASURE) -> Plan | None:
    """Draw the button that does what is missing, with the time it will take.

    Args:
        store: where results are.
        request: what is looked at.
        run: of the request, if it was asked for.
        place: where to draw.
        verb: what to call it.

    Returns:
        What is left; ``None`` while it is being measured, or where it cannot be.
    """
    with place.container(key="offer"):
        if run is not None and run.key == request.key and is_open(run):
            st.button(f"{verb.doing} …", disabled=True, width="stretch", key="measure")
            return None
        if problem := "The store cannot be used" if store.problem else _device_problem(request):
            st.button(verb.ask, disabled=True, width="stretch", key="measure")
            st.caption(f"{plain(problem)}: only what is there already can be shown.")
            return None
        try:
            plan = service.estimate(store, request)
        except DataError as error:
            st.button(verb.ask, disabled=True, width="stretch", key="measure")
            st.caption(f"{verb.doing} needs the data set.", help=plain(str(error)))
            return None
        except (FssError, ValueError) as error:
            st.button(verb.ask, disabled=True, width="stretch", key="measure")
            st.caption(plain(str(error)))
            return None
        if not plan.tasks:
            st.button(verb.done, disabled=True, width="stretch", key="measure")
            return plan
        st.button(verb.ask, type="primary", width="stretch", key="measure", on_click=_ask, args=(store, request))
        st.caption(estimate_words(plan))
        return plan


def _device_problem(request: Request) -> str:
    """Say that the device is not here; empty if it is, as far as can be known without torch."""
    spec = request.spec.measurement if isinstance(request, RetrainRequest) else getattr(request, "spec", None)
    device = "cpu" if spec is None else spec.device_type
    if SCHEDULER_VARIABLE in os.environ:
        return ""  # its workers may have one
    if device == "cuda" and not num_gpus():
        return "This machine has no NVIDIA GPU"
    return "This machine has no Apple GPU" if device == "mps" and sys.platform != "darwin" else ""


def _ask(store: Store, request: Request) -> None:
    with shown_errors():
        service.ask(store, request)


def estimate_words(plan: Plan) -> str:
    """Say how long a plan will take."""
    text = f"About {in_words(plan.seconds)}"
    if plan.first_seconds < 0.8 * plan.seconds:
        what = "a first look at all layers" if any(task.stage == "preview" for task in plan.tasks) else "all layers"
        text += f"; {what} after {in_words(plan.first_seconds)}"
    return f"{text} ({_BASIS[plan.basis]})."


def strip(
    store: Store,
    request: Request,
    run: Run | None,
    plan: Plan | None,
    verb: Verb = _MEASURE,
    version: Version = version_of,
) -> None:
    """Show how far the run of a request is, or how it ended, if that is not plain from the picture.

    Args:
        store: where results are.
        request: what is looked at.
        run: of the request, if it was asked for.
        plan: what is left of it.
        verb: what to call it.
        version: says which version of the results there is; another one is another picture.
    """
    if is_open(run):
        assert run is not None
        st.session_state.update(drawn_version=None, drawn_at=time.monotonic())
        _poll(store, request, run.key, version)
    elif plan is not None and not plan.tasks:
        return  # whatever came of the run, everything is there now
    elif run is not None and run.state == "failed":
        with st.container(key="failed"):
            st.error(f"{verb.doing} failed: {plain(run.reason)}")
            st.button("Try again", key="retry", on_click=_ask, args=(store, request))
    elif run is not None and run.state == "cancelled":
        st.info(f"Cancelled. What was finished is kept; **{verb.ask}** goes on from there.")


@st.fragment(run_every=_POLL_SECONDS)
def _poll(store: Store, request: Request, key: str, version_of: Version) -> None:
    """Draw the strip, every second; draw the whole page again when there is more to see on it, but not all the time."""
    board = Board(store)
    try:
        run = board.look_up(key)
        if run is None:  # struck off meanwhile
            st.rerun()
        now = progress_of(board, run)
        service.keep_going(store)
        version = version_of(store, request)
    except FssError as error:
        st.error(plain(str(error)))
        return
    if now.run.state not in OPEN_STATES:
        st.rerun()
    with st.container(key="strip"):
        bar, button = st.columns([4, 1], vertical_alignment="center")
        words = f"{now.share:.0%} · {now.stage}"
        if now.detail:
            words += f": {plain(now.detail)}"
        if now.seconds_left is not None and now.run.state == "running" and now.is_live:
            words += f" · about {in_words(now.seconds_left)} left"
        bar.progress(min(max(now.share, 0.0), 1.0), words)
        if key != request.key:
            st.caption(f"Asked for elsewhere, it measures some of this: {plain(kinds.words(run))}.")
        button.button(
            "Cancel" if key == request.key else "Cancel it",
            key="cancel",
            disabled=now.run.state == "cancelling",
            on_click=_cancel,
            args=(store, key),
            width="stretch",
        )
        if problem := service.runner_problem(store):
            st.warning(f"The process that does the work could not start: {plain(problem)}. It is tried again.")
    if st.session_state["drawn_version"] is None:
        st.session_state["drawn_version"] = version  # the page is just being drawn
    elif st.session_state["drawn_version"] != version:
        if time.monotonic() - st.session_state["drawn_at"] > _REDRAW_SECONDS:
            st.rerun()


def _cancel(store: Store, key: str) -> None:
    with shown_errors():
        Board(store).cancel(key)
