"""The panels of the Runs view."""

from __future__ import annotations

from datetime import datetime

import streamlit as st

from fss_core.imports import BrokenEntry, Entry, delete_imported, import_zip, list_imported
from fss_core.jobs import service
from fss_core.jobs.board import OPEN_STATES, Board
from fss_core.jobs.kinds import read_request, words
from fss_core.jobs.progress import RunProgress, in_words, progress_of
from fss_core.jobs.requests import MeasureRequest, Request
from fss_core.jobs.retraining_plans import RetrainRequest
from fss_core.results import Disk, clear, disk_use, forget_result, runs_beside
from fss_core.specs import FssError
from fss_core.store import Store
from pages.common import known, retrain_choices
from pages.common.choices import known_datasets
from pages.common.frame import plain, shown_errors

_POLL_SECONDS = 1.0
_MOST_ENDED = 20
"""Runs that have ended, of which the latest are listed: each is looked up every second while another runs."""

_STATES = {
    "queued": "Queued",
    "running": "Running",
    "cancelling": "Stopping",
    "cancelled": "Cancelled",
    "failed": "Failed",
    "done": "Done",
}


def draw(store: Store) -> None:
    """Draw the page."""
    st.title("Runs", anchor=False)
    st.markdown("What was asked for, here or on the command line; it goes on whether or not a browser is open.")
    with shown_errors():
        if store.problem:  # nothing can be said of it
            _exchange()
            return
        _runs(store)
        with st.container(key="explore_columns"):
            left, right = st.columns(2, gap="large")
            with left:
                _disk(store)
            with right:
                _exchange()


def _runs(store: Store) -> None:
    board = Board(store)
    runs = board.runs()
    if not runs:
        st.info("Nothing was asked for yet. Press **Measure** on the page Explore, or run `fss score`.")
        return
    if any(run.state in OPEN_STATES for run in runs):
        st.fragment(_list_runs, run_every=_POLL_SECONDS)(store, polling=True)
    else:
        _list_runs(store, polling=False)


def _list_runs(store: Store, *, polling: bool) -> None:
    board = Board(store)
    runs = board.runs()
    if polling:
        service.keep_going(store)
        if not any(run.state in OPEN_STATES for run in runs):
            st.rerun()
    ended = [run for run in runs if run.state not in OPEN_STATES]
    hidden = {run.key for run in ended[_MOST_ENDED:]}
    if hidden and not st.checkbox(f"Show all {len(runs)} runs", key="every_run"):
        runs = [run for run in runs if run.key not in hidden]
    for run in runs:
        _draw_run(store, progress_of(board, run))


def _draw_run(store: Store, now: RunProgress) -> None:
    run = now.run
    try:
        request: Request | None = read_request(run)
    except (FssError, ValueError):
        request = None
    with st.container(border=True, key=f"run_{run.key[:12]}"):
        left, right = st.columns([4, 1.4], vertical_alignment="center")
        with left:
            st.markdown(f"**{_STATES[run.state]}** · {plain(words(run))}")
            if run.state in OPEN_STATES:
                text = f"{now.share:.0%} · {now.stage}"
                if now.detail:
                    text += f": {plain(now.detail)}"
                if now.seconds_left is not None and now.is_live:
                    text += f" · about {in_words(now.seconds_left)} left"
                st.progress(min(now.share, 1.0), text)
            if run.reason:
                st.error(plain(run.reason))
            st.caption(_times(now))
        with right, st.container(horizontal=True, gap="small"):
            if run.state in OPEN_STATES:
                st.button(
                    "Cancel",
                    key=f"cancel_{run.key}",
                    disabled=run.state == "cancelling",
                    on_click=_do,
                    args=(Board(store).cancel, run.key),
                )
            elif run.is_damaged:
                st.button("Strike off", key=f"strike_{run.key}", on_click=_do, args=(Board(store).delete, run.key))
            else:
                if request is not None and run.state in ("failed", "cancelled"):
                    st.button("Retry", key=f"retry_{run.key}", on_click=_do, args=(service.ask, store, request))
                if isinstance(request, MeasureRequest):
                    st.page_link("app.py", label="Open", query_params=known.link_of(request))
                    st.button(
                        "Delete result",
                        key=f"delete_{run.key}",
                        on_click=_ask_whether,
                        args=(store, request),
                        help="Forgets what was measured, and strikes the run off this list. Checkpoints stay.",
                    )
                else:
                    if isinstance(request, RetrainRequest):
                        link = retrain_choices.link_params(request)
                        st.page_link("pages/retrain.py", label="Open", query_params=link)
                    st.button("Strike off", key=f"strike_{run.key}", on_click=_do, args=(Board(store).delete, run.key))
        if st.session_state.get("delete_which") == run.key and isinstance(request, MeasureRequest):
            if run.state in OPEN_STATES:
                st.session_state["delete_which"] = ""
            else:
                _confirm(store, request)
        with st.expander("Log", key=f"log_{run.key}"):
            for line in Board(store).log_lines(run.key):
                st.text(f"{_clock(line.time)}  {line.text}")


def _ask_whether(store: Store, request: MeasureRequest) -> None:
    """Find out what deleting a result takes with it, and ask."""
    beside: list[str] = []
    with shown_errors():
        beside = [words(run) for run in runs_beside(store, request)]
    st.session_state.update(delete_which=request.key, delete_beside=beside)


def _confirm(store: Store, request: MeasureRequest) -> None:
    text = "What was measured is forgotten, and has to be measured again."
    if beside := st.session_state["delete_beside"]:
        text += f" **So is what lies in the same pieces:** {'; '.join(map(plain, beside))}."
    with st.container(key="delete_confirm"):
        st.warning(text)
        with st.container(horizontal=True, gap="small"):
            st.button("Yes, delete it", key="delete_yes", on_click=_delete, args=(store, request))
            st.button("No", key="delete_no", on_click=_let_be)


def _let_be() -> None:
    st.session_state["delete_which"] = ""


def _delete(store: Store, request: MeasureRequest) -> None:
    _let_be()
    _do(forget_result, store, request)


def _times(now: RunProgress) -> str:
    run = now.run
    parts = [f"asked for {_clock(run.asked)}"]
    if run.started is not None:
        parts.append(f"started {_clock(run.started)}")
    if run.started is not None and run.finished is not None:
        parts.append(f"took {in_words(run.finished - run.started)}")
    parts.append(f"{now.num_done} of {now.num_tasks} tasks done")
    parts.append(f"key {run.key[:8]}")
    return " · ".join(parts)


def _clock(seconds: float) -> str:
    try:
        return f"{datetime.fromtimestamp(seconds).astimezone():%Y-%m-%d %H:%M:%S}"
    except (OverflowError, OSError, TypeError, ValueError):
        return "at no time that can be"  # only a damaged index has such


def _do(action: object, *arguments: object) -> None:
    with shown_errors():
        action(*arguments)  # type: ignore[operator]


def _disk(store: Store) -> None:
    st.header("Disk", anchor=False)
    kinds = disk_use(store)
    st.dataframe(
        [{"what": own.title, "MB": round(own.num_bytes / 1e6, 1), "pieces": own.num_pieces} for own in kinds],
        hide_index=True,
        width="stretch",
    )
    clearable = [own for own in kinds if own.is_clearable and own.num_pieces]
    if not clearable:
        return
    names = {own.name: own for own in clearable}
    left, right = st.columns([3, 2], vertical_alignment="bottom")
    chosen = left.selectbox(
        "Clear", list(names), format_func=lambda name: names[name].title, key="clear_what", on_change=_unsure
    )
    sure = st.checkbox(_warning(names[chosen]), key="clear_sure")
    right.button("Clear", key="clear", disabled=not sure, on_click=_clear, args=(store, chosen))


def _warning(kind: Disk) -> str:
    pieces = "1 piece" if kind.num_pieces == 1 else f"{kind.num_pieces} pieces"
    return f"Yes, delete {pieces} ({kind.num_bytes / 1e6:.1f} MB): {kind.loss}"


def _unsure() -> None:
    """A yes is for one kind only."""
    st.session_state["clear_sure"] = False


def _clear(store: Store, name: str) -> None:
    with shown_errors():
        clear(store, name)
    st.session_state["clear_sure"] = False


def _exchange() -> None:
    st.header("Results from elsewhere", anchor=False)
    st.markdown(
        "An export of the Explore page (*Everything*), or of `fss export --zip`, can be looked at without the data set "
        "and the checkpoint. It is checked, and its scores are computed anew."
    )
    uploaded = st.file_uploader("Import a ZIP", type="zip", key="upload", max_upload_size=64)
    if uploaded is not None and st.session_state.get("imported_file") != uploaded.file_id:
        try:
            measured = import_zip(uploaded.getvalue())
        except FssError as error:
            st.error(plain(str(error)))
        else:
            st.session_state["imported_file"] = uploaded.file_id
            st.success(f"Imported: {plain(known.words(measured.spec, known_datasets()))}")
    entries = list_imported()
    if not entries:
        st.caption("Nothing is imported.")
    titles = known_datasets()
    for entry in entries:
        _draw_entry(entry, titles)


def _draw_entry(entry: Entry | BrokenEntry, titles: dict[str, str]) -> None:
    left, right = st.columns([5, 1], vertical_alignment="center")
    if isinstance(entry, Entry):
        spec = entry.manifest.measurement
        left.page_link(
            "app.py",
            label=plain(f"{known.words(spec, titles)} · {entry.num_bytes / 1e6:.1f} MB"),
            query_params=known.link_params(spec),
        )
    else:
        left.error(plain(entry.reason))
    right.button("Delete", key=f"unimport_{entry.path.stem}", on_click=_do, args=(delete_imported, entry.path.stem))
