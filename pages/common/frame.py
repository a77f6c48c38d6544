"""What every page has: its title, the way to the others, the look, the store, and what it says of an error."""

from __future__ import annotations

import atexit
import html
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from fss_core.computing import spare_memory
from fss_core.specs import FssError, StoreError, cache_dir
from pages.common import links

if TYPE_CHECKING:
    from fss_core.store import Store

VIEWS = (
    ("app.py", "Explore"),
    ("pages/epochs.py", "Epochs"),
    ("pages/compare.py", "Compare"),
    ("pages/retrain.py", "Retrain"),
    ("pages/learn.py", "Learn"),
    ("pages/errata.py", "Errata"),
    ("pages/runs.py", "Runs"),
)
"""The views, in the order of a first visit; a new one is a file in ``pages/`` and a line here."""

_STYLE = """
<style>
.block-container {padding: 2.2rem 2.2rem 3rem 2.2rem; max-width: 1600px;}
[data-testid="stSidebarUserContent"] {padding-top: 0.5rem;}
[data-testid="stSidebar"] [data-testid="stVerticalBlock"] {gap: 0.55rem;}
h1 {font-size: 1.45rem !important; padding: 0 0 0.4rem 0 !important; font-weight: 650 !important;}
h2 {font-size: 1.12rem !important; padding: 0.2rem 0 !important; font-weight: 650 !important;}
h3 {font-size: 1rem !important; padding: 0 !important; font-weight: 650 !important;}
.fss-tiles {display: flex; flex-wrap: wrap; gap: 0.6rem; font-variant-numeric: tabular-nums;}
.fss-tile {flex: 1 1 118px; border-top: 2px solid currentColor; padding: 0.35rem 0 0.2rem 0; min-width: 112px;}
.fss-tile .name {font-size: 0.78rem; opacity: 0.75;}
.fss-tile .value {font-size: 1.35rem; line-height: 1.5rem; font-weight: 600;}
.fss-tile .note {font-size: 0.78rem; opacity: 0.8; line-height: 1.05rem;}
.fss-tile[title] {position: relative;}
.fss-tile[title]:focus-visible::after {content: attr(title); position: absolute; z-index: 100; top: 100%; left: -2px;
  width: 15rem; padding: 0.4rem 0.6rem; font-size: 0.78rem; background: Canvas; border: 1px solid currentColor;}
.fss-tile[title]:last-child:focus-visible::after {left: auto; right: -2px;}
.block-container [data-testid="stPageLink-NavLink"] :is(span, div, p) {white-space: normal; height: auto;}
.fss-quiet {font-size: 0.86rem; opacity: 0.85;}
.st-key-explore_columns > div, .st-key-epochs_below > div {flex-wrap: wrap;}
.st-key-drilldown {position: sticky; top: 3.2rem;}
@media (max-width: 1050px) {
  .st-key-explore_columns [data-testid="stColumn"],
  .st-key-epochs_below [data-testid="stColumn"] {flex: 1 1 100% !important; width: 100% !important;}
  .st-key-drilldown {position: static;}
}
</style>
"""

_NAVIGATION, _IS_WHOLE = "navigation_place", "is_whole_page"

_PUNCTUATION = re.compile(r"[\\`*_\[\]<>$#~|:&]")
_LINKED = re.compile(r"(:)(?=//)|(www)(?=\.)|((?<![/\w.+-])[\w.+-]+@)(?=[-\w]+\.)", re.IGNORECASE)
"""After which a word joiner, which nobody sees, keeps an address from being read as a link; a backslash does not."""

log = logging.getLogger(__name__)

spare_memory()  # once a process, before it has taken much


def begin(title: str, *, sidebar: Literal["expanded", "collapsed"] = "expanded", navigation: bool = True) -> Store:
    """Set a page up, and see that what was asked for goes on, whoever asked for it.

    What this module needs of the core is imported once the frame stands, which a browser draws meanwhile.

    Args:
        title: of the page.
        sidebar: how the side bar is at first.
        navigation: whether there is a way to the other pages.

    Returns:
        The store of results.
    """
    st.set_page_config(page_title=f"{title} · Filtering Score Studio", layout="wide", initial_sidebar_state=sidebar)
    st.html(_STYLE)
    st.session_state["said_errors"] = []
    st.session_state.update({_IS_WHOLE: True, _NAVIGATION: None})
    if navigation:
        with st.sidebar:
            st.markdown("**Filtering Score Studio**")
            with st.container(key="navigation"):
                _navigate()
            st.session_state[_NAVIGATION] = st.container()
    from fss_core.jobs import service

    store = _store()
    if store.problem:
        problem = store.problem[0].upper() + store.problem[1:]
        st.warning(f"{plain(problem)}. Meanwhile what is published or imported can be looked at.")
    with shown_errors():
        service.keep_going(store)
    return store


@contextmanager
def part() -> Iterator[bool]:
    """Draw a part of a page that can be drawn anew by itself: the address, and the way to other pages, follow it.

    Yields:
        Whether it is drawn by itself, not with the page.
    """
    is_alone = not st.session_state.pop(_IS_WHOLE, False)
    st.session_state["said_errors"] = []
    links.restore()
    with shown_errors():
        yield is_alone
    links.write()
    place: DeltaGenerator | None = st.session_state[_NAVIGATION]
    if place is not None:
        # Also with the page: a part draws anew only what it has drawn then. Its links stand in for the page's.
        with place:
            _navigate()
            st.html("<style>.st-key-navigation {display: none;}</style><span></span>")


def _navigate() -> None:
    """Draw the way to the other pages, which go on with what is shown."""
    with st.container(horizontal=True, gap="small"):
        for path, label in VIEWS:
            st.page_link(path, label=label, query_params=links.last_view())


@st.cache_resource
def _open_store(directory: str) -> Store:
    from fss_core.store import Store

    return Store()


@st.cache_resource
def _stand_in(problem: str) -> Store:
    """Make an empty store, for pages that show what needs none; nothing is measured into it."""
    from fss_core.store import Store
    from fss_core.store.leases import store_errors

    with store_errors(Path(tempfile.gettempdir())):
        directory = Path(tempfile.mkdtemp(prefix="fss-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    store = Store(directory)
    store.problem = problem
    return store


def _store() -> Store:
    try:
        store = _open_store(str(cache_dir()))
    except StoreError as error:
        return _stand_in(str(error))
    if os.access(store.directory, os.W_OK):
        return store
    return _stand_in(
        f"the store at {store.directory} cannot be written; make it writable, or set FSS_CACHE_DIR to a directory that "
        "is"
    )


def is_dark() -> bool:
    """Say which design the browser shows."""
    return st.context.theme.type == "dark"


@contextmanager
def shown_errors() -> Iterator[None]:
    """Show what the domain or the disk says no to; anything else is a bug, is logged, and shows where to look."""
    try:
        yield
    except (FssError, ValueError, OSError) as error:
        text = str(error)
        if isinstance(error, OSError):
            log.warning("the disk said no", exc_info=error)
            place = error.filename or "a file"
            text = f"{place} cannot be used ({error.strerror}); check its permissions, or set FSS_CACHE_DIR"
        said: list[str] = st.session_state.setdefault("said_errors", [])
        if text not in said:
            said.append(text)
            st.error(plain(text))


def plain(text: str) -> str:
    r"""Keep Markdown from reading anything but code into a text that may come from a stranger's file.

    >>> plain("a *b* [c](d); run `fss show --json`")
    'a \\*b\\* \\[c\\](d); run `fss show --json`'
    >>> plain("www.example.com")
    'www\u2060.example.com'
    """
    parts = re.split(r"(`[^`\n]+`)", text)
    parts[::2] = [_PUNCTUATION.sub(r"\\\g<0>", _LINKED.sub("\\g<0>\u2060", part)) for part in parts[::2]]
    return "".join(parts)


def escaped(text: str) -> str:
    """Write a text so that HTML shows it as it is."""
    return html.escape(text)
