"""Steps about epochs and retraining: from the published study, else from what is measured here, else offered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import streamlit as st

from fss_core import explore
from fss_core.figures.agreement import agreement_heatmap, agreement_heatmap_alt, tau_matrix, tau_matrix_alt
from fss_core.figures.coverage import coverage_alt, coverage_chart, mark_rule
from fss_core.figures.retraining import retraining_alt, retraining_figure
from fss_core.figures.trajectories import profile_alt, profile_figure, trajectories_alt, trajectories_figure
from fss_core.figures.verdicts import verdicts_alt, verdicts_figure
from fss_core.invariance import Invariance
from fss_core.invariance.grids import epochs_grid
from fss_core.invariance.groups import rows_that_move
from fss_core.invariance.lookup import Candidate, list_known
from fss_core.jobs import service
from fss_core.jobs.progress import in_words
from fss_core.jobs.requests import Request
from fss_core.retraining.pictures import RetrainPicture, find_picture
from fss_core.retraining.results import JUDGED, Judged
from fss_core.scores import KINDS, Kind
from fss_core.specs import FssError, ScoreSpec
from fss_core.store import Store
from fss_core.stories import needs, studied
from pages.common import agreement, learn, learn_live, progress, retrain
from pages.common.frame import is_dark, plain, shown_errors
from pages.common.learn import Place

Said = dict[str, str]


def draw(store: Store, place: Place) -> Said | None:
    """Draw the step's control and figure.

    Returns:
        What its texts name; ``None`` while there is nothing to show.
    """
    if place.step.component.needs == "epochs":
        return _epochs(store, place)
    return _retraining(store, place)


def _fallback_note() -> None:
    """Say that this is not the published study, and what brings that."""
    st.caption(
        "This version comes with no published study of this; what is shown is measured on this machine. "
        f"`{needs.STUDY_COMMAND}` brings the study (a night on two cores)."
    )


def _offer(store: Store, requests: Sequence[Request], what: str, version: progress.Version) -> None:
    """Offer to do what is missing, and show how far that is."""
    runs = [(own, progress.find_run(store, own)) for own in requests]
    under_way = next(((own, run) for own, run in runs if progress.is_open(run)), None)
    st.markdown(f"This step shows {what}, which is not there yet. It is done once, and kept.")
    _fallback_note()
    if under_way is not None:
        progress.strip(store, under_way[0], under_way[1], None, version=version)
        return
    for _, run in runs:
        if run is not None and run.state == "failed":
            st.error(f"It failed: {plain(run.reason)}")
    try:
        seconds = sum(service.estimate(store, own).seconds for own in requests)
    except (FssError, ValueError) as error:
        st.error(plain(str(error)))
        return
    st.button(
        f"Do it now: about {in_words(seconds)}",
        key="learn_measure",
        type="primary",
        disabled=bool(store.problem),
        on_click=_ask,
        args=(store, requests),
    )


def _ask(store: Store, requests: Sequence[Request]) -> None:
    with shown_errors():
        for own in requests:
            service.ask(store, own)


# Epochs ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Epochs:
    """Epochs that can be shown."""

    candidates: tuple[Candidate, ...]
    where: studied.Place
    store: Store

    def found(self, place: Place, kind: str) -> Invariance:
        name = str(place.step.settings["filter"])
        return agreement.compare(self.candidates, "epochs", ScoreSpec(), name, cast(Kind, kind))


def _read_epochs(store: Store, place: Place) -> _Epochs | None:
    """Find epochs to compare; offer to measure some where there are none."""
    known = list_known(store)
    comparison = needs.published_epochs(known, place.step)
    if comparison is not None:
        candidates = [own for own in agreement.read_candidates(store, comparison, known) if own.measured is not None]
        if len(candidates) > 1:
            return _Epochs(candidates=tuple(candidates), where=_where(candidates), store=store)
    ready = needs.find_ready(store, place.story)
    if ready is None:
        learn_live.prepare(store, place)
        return None
    comparison = needs.own_epochs(place.story, place.step)
    candidates = list(agreement.read_candidates(store, comparison, known))
    missing = needs.missing_epochs(comparison, candidates, ready.epsilon)
    if missing:
        epochs = ", ".join(own.label for own in candidates)
        _offer(store, missing, f"the layers of one network at epochs {epochs}", explore.version_of)
        return None
    _fallback_note()
    return _Epochs(candidates=tuple(candidates), where=_where(candidates), store=store)


def _where(candidates: Sequence[Candidate]) -> studied.Place:
    last = candidates[-1].measured
    assert last is not None
    return studied.Place.of(last)


def _epochs(store: Store, place: Place) -> Said | None:
    settings, show = place.step.settings, place.step.show
    own = _read_epochs(store, place)
    if own is None:
        return None
    kind = str(settings["kind"])
    if settings["control"] == "kind":
        kind = learn.pick(place, "Score", KINDS, kind)
    found = own.found(place, kind)
    if show == "epochs":
        grid = epochs_grid(found, own.candidates)
        figure = agreement_heatmap(grid, dark=is_dark())
        learn.draw(figure, "epochs", agreement_heatmap_alt(grid), larger=1.15)
        return studied.epochs_fields(found, own.where)
    if show == "profile":
        labels = [column.label for column in found.table.columns]
        label = labels[learn.slide(place, "Epoch", range(len(labels)), labels.__getitem__, len(labels) - 1)]
        learn.draw(profile_figure(found, label, dark=is_dark()), "profile", profile_alt(found, label))
        return studied.profile_fields(found, own.where, label)
    if show == "trajectories":
        rows = [row.name for row in found.table.rows]
        layer = learn.pick(place, "Layer, from input to output", rows, next(iter(rows_that_move(found.table)), ""))
        figure = trajectories_figure(found, [layer], dark=is_dark())
        learn.draw(figure, "trajectories", trajectories_alt(found, [layer]))
        return studied.trajectory_fields(found, own.where, layer)
    titles = {candidate.label: candidate.short_title for candidate in own.candidates}
    learn.draw(tau_matrix(found, titles, dark=is_dark()), "rankings", tau_matrix_alt(found, titles))
    return studied.rankings_fields(found, own.where)


# Retraining -----------------------------------------------------------------------------------------------


@st.cache_resource(max_entries=4, show_spinner="Reading the published retrainings …")
def _published(_store: Store, version: object) -> list[RetrainPicture]:
    return needs.published_retrainings(_store)


@st.cache_resource(max_entries=4, show_spinner=False)
def _here(_store: Store, _place: Place, key: str, version: object) -> RetrainPicture | None:
    request = needs.own_retraining(_place.story, _place.step)
    return find_picture(_store, request.spec, request.seeds)


def _retraining(store: Store, place: Place) -> Said | None:
    request = needs.own_retraining(place.story, place.step)
    version = retrain.version_of(store, request)
    pictures = list(_published(store, version))
    own = needs.chosen_retraining(pictures, place.step)
    if own is None:
        here = _here(store, place, request.key, version)
        if here is None or not here.complete or here.origin == "published":
            _offer(store, [request], "what retraining some layers of one network does", retrain.version_of)
            return None
        _fallback_note()
        own, pictures = here, [here]
    return _DRAWN[place.step.show](place, own, pictures)


def _coverage(place: Place, own: RetrainPicture, pictures: Sequence[RetrainPicture]) -> Said:
    rule = learn.pick(place, "Rule", own.spec.rules)
    coverage = own.coverages[0]
    figure = coverage_chart(coverage, dark=is_dark())
    mark_rule(figure, coverage, rule, dark=is_dark())
    learn.draw(figure, "coverage", coverage_alt(coverage), larger=1.15)
    return studied.coverage_fields(own, rule)


def _curves(place: Place, own: RetrainPicture, pictures: Sequence[RetrainPicture]) -> Said:
    rule = learn.pick(place, "Rule", own.spec.rules)
    comparisons = [studied.only_rule(comparison, rule) for comparison in own.comparisons]
    figure = retraining_figure(comparisons, dark=is_dark())
    learn.draw(figure, "retraining", retraining_alt(comparisons), larger=1.15, height=620)
    return studied.retraining_fields(own, rule)


def _verdicts(place: Place, own: RetrainPicture, pictures: Sequence[RetrainPicture]) -> Said:
    settings = place.step.settings
    judged = cast(Judged, learn.pick(place, "Judged on", JUDGED, str(settings["judged"]), studied.judged_words))
    against = str(settings["against"])
    titles = [studied.picture_title(picture) for picture in pictures]
    estimates = [studied.difference(picture.last, judged, against) for picture in pictures]
    other = "before" if against == "no retraining" else "retraining all"
    what = f"{studied.judged_words(judged)} accuracy, after minus {other}"
    figure = verdicts_figure(titles, estimates, what, dark=is_dark())
    learn.draw(figure, "verdicts", verdicts_alt(titles, estimates, what))
    return studied.verdicts_fields(pictures, judged, against)


_DRAWN: dict[str, Callable[[Place, RetrainPicture, Sequence[RetrainPicture]], Said]] = {
    "coverage": _coverage,
    "retraining": _curves,
    "verdicts": _verdicts,
}
