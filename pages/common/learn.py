"""The frame of the Learn view: which step, how to the others, its words, its question, and its one control."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from fss_core.figures.style import enlarged
from fss_core.stories import BrokenStory, Step, Story, list_stories
from pages.common import links
from pages.common.frame import plain
from pages.common.links import Param

PARAMS: dict[str, Param] = {
    "story": Param(default="", what="story", known=lambda: ["", *(own.name for own in list_stories()[0])]),
    "step": Param(default=1, what="step", bounds=(1, 999)),
    "lock": Param(default=False, what="lock"),
    "at": Param(default=None, what="place of the slider", bounds=(0, 100_000)),
    "pick": Param(default=None, what="choice"),
}
"""A step is an address; the last two are what its control says."""

LARGER = 1.3
"""By so much figures are larger than in other views."""

_STYLE = """
<style>
.block-container {padding-top: 3.9rem; max-width: 1700px;}
h1 {font-size: 1.9rem !important;}
.st-key-learn_columns h2 {font-size: 1.55rem !important; line-height: 1.25;}
.st-key-learn_words p, .st-key-learn_words li {font-size: 1.28rem; line-height: 1.5;}
.st-key-learn_columns [data-testid="stCaptionContainer"], .st-key-learn_columns [data-testid="stCaptionContainer"] p {
  color: inherit; opacity: 1; font-size: 1.02rem;}
.st-key-learn_question {border-left: 4px solid currentColor; padding-left: 0.9rem;}
.st-key-learn_control p {font-size: 1.15rem;}
.st-key-learn_control [data-testid="stWidgetLabel"] {margin-bottom: 0.55rem;}
.st-key-learn_navigation button p {font-size: 1.1rem;}
.st-key-learn_control [data-testid="stSliderThumbValue"], .st-key-learn_control [data-baseweb="select"] {
  font-size: 1.15rem;}
.st-key-learn_where p {font-size: 1.1rem; font-variant-numeric: tabular-nums;}
.st-key-learn_columns > div {flex-wrap: wrap;}
@media (max-width: 1050px) {
  .st-key-learn_columns [data-testid="stColumn"] {flex: 1 1 100% !important; width: 100% !important;}
}
@media (max-width: 600px) {
  .block-container {padding: 3.6rem 0.9rem 2rem 0.9rem;}
  h1 {font-size: 1.5rem !important;}
}
</style>
"""

# Plain arrow keys are the slider's while it has the focus, and nobody's in a text.
_KEYS = """
<script>
(() => {
  if (window.fssLearnKeys) return;
  window.fssLearnKeys = true;
  const busy = "input, textarea, select, [contenteditable=true], [role=slider], [role=radio], [role=combobox], " +
    "[role=option], [role=tab], [role=listbox]";
  document.addEventListener("keydown", event => {
    const key = {ArrowLeft: "previous", ArrowRight: "next"}[event.key];
    if (!key || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey || event.defaultPrevented) return;
    if (event.target instanceof Element && event.target.closest(busy)) return;
    const button = document.querySelector(`.st-key-learn_${key} button:not([disabled])`);
    if (button) { event.preventDefault(); button.click(); }
  });
})();
</script>
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A step, and where it stands.

    Attributes:
        story: which.
        number: of the step, from 1.
        locked: whether every control but the step's own is hidden.
    """

    story: Story
    number: int
    locked: bool

    @property
    def step(self) -> Step:
        """The step itself."""
        return self.story.steps[self.number - 1]

    def key(self, name: str) -> str:
        """Name a widget of this step, so that another step's begins anew."""
        return f"{name}-{self.story.name}-{self.number}"


def is_locked() -> bool:
    """Say whether the address hides every control but the step's own; before anything else is read."""
    return st.query_params.get("lock") == "1"


def style() -> None:
    """Make everything legible from the back of a lecture hall."""
    st.html(_STYLE)


def find_place(stories: Sequence[Story]) -> Place | None:
    """Find the step that the address names; a step that a story does not have is its last."""
    if not stories:
        return None
    story = next((own for own in stories if own.name == st.session_state["story"]), stories[0])
    number = min(int(st.session_state["step"]), len(story.steps))
    st.session_state["step"] = number
    return Place(story=story, number=number, locked=bool(st.session_state["lock"]))


# Around the step ------------------------------------------------------------------------------------------


def heading(place: Place | None, stories: Sequence[Story], broken: Sequence[BrokenStory]) -> None:
    """Draw the title, the progress, and the way to the other steps; and which files are no stories."""
    st.title("Learn" if place is None else plain(place.story.title), anchor=False)
    if problem := links.problem():
        st.warning(f"This link asks for what is not here: {plain(problem)}. What it does not say right is as usual.")
    if place is None:
        st.error("There are no stories.")
    elif place.locked:
        st.caption(f"Step {place.number} of {len(place.story.steps)}")
    else:
        _navigation(place, stories)
    if broken and (place is None or not place.locked):
        with st.expander(f"{len(broken)} file{'s' if len(broken) > 1 else ''} could not be read as a story"):
            for own in broken:
                st.error(plain(own.reason))


def _navigation(place: Place, stories: Sequence[Story]) -> None:
    steps = len(place.story.steps)
    index = stories.index(place.story)
    before = (place.story.name, place.number - 1)
    after = (place.story.name, place.number + 1)
    labels = ["Previous", "Next"]
    if place.number == 1:
        other = stories[index - 1]
        before, labels[0] = (other.name, len(other.steps)), "Previous story"
    if place.number == steps:
        after, labels[1] = (stories[(index + 1) % len(stories)].name, 1), "Next story"
    with st.container(key="learn_navigation", horizontal=True, vertical_alignment="center", gap="small"):
        st.button(
            labels[0],
            key="learn_previous",
            on_click=_go,
            args=before,
            disabled=index == 0 and place.number == 1,
            help="Also by the left arrow key",
        )
        st.button(
            labels[1],
            key="learn_next",
            type="primary",
            on_click=_go,
            args=after,
            disabled=index == len(stories) - 1 and place.number == steps,
            help="Also by the right arrow key",
        )
        with st.container(key="learn_where", width=230):
            st.progress(place.number / steps, f"Step {place.number} of {steps}")
        titles = {own.name: f"{number}. {own.title}" for number, own in enumerate(stories, 1)}
        st.session_state["learn_story"] = place.story.name
        st.selectbox(
            "Story",
            list(titles),
            format_func=titles.__getitem__,
            key="learn_story",
            on_change=_go_to_chosen,
            label_visibility="collapsed",
            width=330,
        )
    st.html(_KEYS, unsafe_allow_javascript=True)


def _go_to_chosen() -> None:
    _go(st.session_state["learn_story"], 1)


def _go(story: str, number: int) -> None:
    """Go to a step, whose control begins as its story says."""
    # Not forgotten but empty: what is forgotten would come back from the address of the step before.
    st.session_state.update(story=story, step=number, at=None, pick=None, learn_answered=None)


@contextmanager
def columns() -> Iterator[tuple[DeltaGenerator, DeltaGenerator]]:
    """Put words and figure side by side, or under each other where there is no room."""
    with st.container(key="learn_columns"):
        left, right = st.columns([5, 7], gap="large")
        yield left, right


def words(place: Place, fields: dict[str, str] | None) -> None:
    """Draw the step's text, its question, and the answer once it is asked for.

    Args:
        place: which step.
        fields: what its texts name; ``None`` while there is nothing to show.
    """
    step = place.step
    with st.container(key="learn_words"):
        st.header(plain(step.title), anchor=False)
        if fields is None:
            st.caption(
                "The text stands here as soon as there is something to show: its numbers are those of the figure."
            )
            return
        known = {name: plain(value) for name, value in fields.items()}
        st.markdown(step.text.format_map(known))
        with st.container(key="learn_question"):
            st.markdown(f"**{step.question.format_map(known)}**")
            if st.session_state.get("learn_answered") == (place.story.name, place.number):
                st.markdown(step.answer.format_map(known))
            else:
                st.button("Show the answer", key="learn_answer", on_click=_answer, args=(place,))
        if step.source:
            st.caption(plain(step.source))


def _answer(place: Place) -> None:
    st.session_state["learn_answered"] = (place.story.name, place.number)


# The one control ------------------------------------------------------------------------------------------


def slide(place: Place, label: str, options: Sequence[int], words_of: Callable[[int], str], default: int) -> int:
    """Draw the step's slider.

    Args:
        place: which step.
        label: of the slider.
        options: what can be chosen, in order.
        words_of: writes an option.
        default: what is chosen unless the address or the story says otherwise.

    Returns:
        What is chosen.
    """
    options = list(options)
    wanted: tuple[Any, ...] = (st.session_state.get("at"), place.step.settings["start"], default)
    chosen: int = next((own for own in wanted if own in options), options[0])
    key = place.key("at")
    st.session_state[key] = chosen
    with st.container(key="learn_control"):
        if len(options) > 1:
            st.select_slider(label, options, key=key, format_func=words_of, on_change=_take, args=(key, "at"))
        else:
            st.markdown(f"{label}: {words_of(chosen)}")
    return chosen


def pick(
    place: Place, label: str, options: Sequence[str], default: str = "", words_of: Callable[[str], str] = str
) -> str:
    """Draw the step's box.

    Args:
        place: which step.
        label: of the box.
        options: what can be chosen.
        default: what is chosen unless the address or the story says otherwise.
        words_of: writes an option.

    Returns:
        What is chosen; the first option unless the address, the story or ``default`` says otherwise.
    """
    wanted: tuple[Any, ...] = (st.session_state.get("pick"), place.step.settings["start"], default)
    chosen: str = next((own for own in wanted if own in options), options[0])
    key = place.key("pick")
    st.session_state[key] = chosen
    with st.container(key="learn_control"):
        st.selectbox(label, options, key=key, format_func=words_of, on_change=_take, args=(key, "pick"))
    return chosen


def _take(key: str, name: str) -> None:
    st.session_state[name] = st.session_state[key]


def draw(figure: go.Figure, key: str, alt: str, *, larger: float = LARGER, height: int | None = None) -> None:
    """Draw a figure larger than elsewhere, and of a height of its own where two must find room on a screen."""
    shown = enlarged(figure, larger)
    if height is not None:
        shown.update_layout(height=height)
    st.plotly_chart(
        shown,
        key=f"learn_{key}",
        theme=None,
        width="stretch",
        config={"displayModeBar": False},
        alt=alt,
    )
