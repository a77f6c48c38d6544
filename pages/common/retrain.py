"""The panels of the Retrain view: the verdict, what each rule trains, curves, the table, other checkpoints."""

from __future__ import annotations

import json
from collections.abc import Sequence

import streamlit as st

from fss_core import explore
from fss_core.figures.coverage import coverage_alt, coverage_chart
from fss_core.figures.retraining import checkpoints_alt, checkpoints_figure, retraining_alt, retraining_figure
from fss_core.figures.style import SAVE_CONFIG
from fss_core.imports import published
from fss_core.jobs import service
from fss_core.jobs.plans import Plan
from fss_core.jobs.requests import Request
from fss_core.jobs.retraining_plans import RetrainRequest
from fss_core.retraining.comparing import Comparison
from fss_core.retraining.lookup import spec_of_seed
from fss_core.retraining.pictures import RetrainPicture
from fss_core.retraining.published import list_published
from fss_core.retraining.reports import heading, notes, retraining_json, verdict_numbers, verdict_question
from fss_core.specs import BrokenExportError, StoreError
from fss_core.store import Store
from pages.common import downloads, known, retrain_choices, tiles
from pages.common.choices import known_datasets
from pages.common.explore import remedy
from pages.common.frame import escaped, is_dark, plain, shown_errors
from pages.common.progress import Verb, estimate_words
from pages.common.retrain_table import comparison_table

VERB = Verb(ask="Retrain", doing="Retraining", done="Retrained")

WHAT_IT_IS = (
    "The paper's application: from one checkpoint, train only the layers that a **rule** chooses for a few more epochs "
    "on clean images, and freeze the rest. Does adversarial accuracy rise? Every rule sees the same batches in the "
    "same order, and every network is judged on images that neither training nor the choice of layers has seen."
)

_OUTCOMES = (
    "Holds: the interval of the difference in white-box FGSM accuracy lies above 0, and PGD accuracy is not lower. "
    "Does not hold: the FGSM interval reaches no further than 0, or the PGD interval lies below 0. Else undecided."
)


def is_prepared(request: RetrainRequest) -> bool:
    """Say whether the data set is ready, so that looking results up decodes nothing."""
    return explore.is_prepared(request.measurement(request.spec))


def version_of(store: Store, request: Request) -> tuple[object, ...]:
    """Say which version of its results there is: whatever is added or replaced changes it."""
    assert isinstance(request, RetrainRequest)
    elsewhere = (published().version,)
    own = (store.num_bytes("retraining/"), store.count("criticality/"), *elsewhere)
    if not is_prepared(request):
        return own
    specs = [spec_of_seed(store, request.spec, request.seeds, seed) for seed in request.seeds]
    return (*own, *(explore.version_of(store, request.measurement(spec)) for spec in specs if spec is not None))


# Without a picture ----------------------------------------------------------------------------------------


def nothing_there(request: RetrainRequest, plan: Plan | None, *, working: bool) -> None:
    """Say what the view is, and what pressing **Retrain** will do."""
    st.markdown(WHAT_IT_IS)
    if working:
        st.markdown(
            "The layers are being measured, to find out which are robust and antifragile. What each rule trains "
            "appears as soon as that is known, then the curves, epoch by epoch."
        )
    elif plan is not None:
        spec = request.spec
        st.markdown(
            "The layers of this checkpoint are not measured yet, so that no rule can choose. **Retrain**, in the side "
            f"bar, trains what is missing, measures every layer on {spec.measurement.num_images} probe images, lets "
            f"each rule choose, and retrains for {_epochs(spec.budget)}. {estimate_words(plan)}"
        )
    if links := published_links(request):
        st.markdown("Published with this version:")
        for label, address in links:
            st.page_link("pages/retrain.py", label=plain(label), query_params=address)


def published_links(request: RetrainRequest) -> list[tuple[str, dict[str, str]]]:
    """List the published retrainings of the network and the data set that are looked at, with their addresses."""
    wanted = request.spec.measurement.training
    found = [
        RetrainRequest(spec=own, seeds=(own.measurement.training.seed,))
        for own in list_published()
        if (own.measurement.training.network, own.measurement.training.dataset) == (wanted.network, wanted.dataset)
    ]
    titles = known_datasets()
    return [
        (
            f"{known.words(own.spec.measurement, titles)} · {_epochs(own.spec.budget)} of retraining, "
            f"{len(own.spec.rules)} rules",
            retrain_choices.link_params(own),
        )
        for own in found
    ]


def _epochs(number: int) -> str:
    return f"{number} epoch{'s' if number > 1 else ''}"


def unreadable(store: Store, request: RetrainRequest, error: StoreError) -> None:
    """Show why stored results cannot be shown, and offer the remedy."""
    st.error(plain(str(error)))
    if isinstance(error, BrokenExportError):
        remedy(error)
        return
    st.markdown(
        "Everything that is sound stays. What is damaged, or was written by another version, can be made again."
    )
    st.button("Forget what is damaged and measure it again", key="repair", on_click=_repair, args=(store, request))


def _repair(store: Store, request: RetrainRequest) -> None:
    with shown_errors():
        store.delete_damaged("retraining/")
        store.delete_damaged("criticality/")
        for seed in request.seeds:
            if (spec := spec_of_seed(store, request.spec, request.seeds, seed)) is not None:
                explore.forget_damaged(store, request.measurement(spec))
        service.ask(store, request)


# The picture ----------------------------------------------------------------------------------------------


def draw(picture: RetrainPicture, across: Sequence[Comparison], *, working: bool) -> None:
    """Draw everything that is there."""
    if picture.origin == "published":
        st.caption("Published with this version: nothing of it was retrained on this machine.")
    if picture.retrainings:
        _verdict(picture, working=working)
    else:
        st.markdown(WHAT_IT_IS)
        st.info(
            "The layers are measured, and each rule has chosen, below. Nothing is retrained yet"
            + (": the network is being judged as it is." if working else "; **Retrain** does it.")
        )
    with st.container(key="explore_columns"):
        left, right = st.columns([1, 1], gap="medium")
        with left:
            _coverage(picture)
        with right, st.container(key="drilldown"):
            if picture.retrainings:
                _curves(picture)
    if picture.retrainings:
        _table(picture)
        _across(across)


def _verdict(picture: RetrainPicture, *, working: bool) -> None:
    assert picture.verdict is not None
    question = verdict_question(picture.verdict)
    boxes = []
    for line in picture.verdict.lines:
        parts = filter(None, (verdict_numbers(picture.verdict, line), line.reason))
        note = " ".join(f"{part[0].upper()}{part[1:]}." for part in parts)
        boxes.append(tiles.tile(f"Against {line.against}", line.outcome.capitalize(), note, _OUTCOMES))
    st.html(f'<p style="margin-bottom: 0.4rem"><b>{escaped(question)}</b></p>{tiles.row(boxes)}')
    if not picture.complete:
        seeds = (
            f" of {len(picture.retrainings)} of {len(picture.seeds)} initialisations" if len(picture.seeds) > 1 else ""
        )
        st.caption(
            f"Not complete: what there is{seeds} is shown" + ("." if working else "; **Retrain** does the rest.")
        )


def _coverage(picture: RetrainPicture) -> None:
    st.header("What each rule trains", anchor=False)
    by_seed = {own.seed: own for own in picture.coverages}
    if st.session_state["shown"] not in by_seed:
        st.session_state["shown"] = next(iter(by_seed))
    if len(picture.seeds) > 1:
        st.selectbox("Of initialisation", list(by_seed), key="shown")
    coverage = by_seed[st.session_state["shown"]]
    figure = coverage_chart(coverage, dark=is_dark())
    st.plotly_chart(
        figure,
        key="coverage",
        theme=None,
        width="stretch",
        config=SAVE_CONFIG,
        alt=coverage_alt(coverage),
    )
    call = (
        "<b>call</b>: of the score that decides; <b>F</b> fragile, <b>R</b> robust, <b>A</b> antifragile, lower case "
        "leaning. "
        if coverage.scores
        else "Each pulse of a layer's weights has a call of its own. "
    )
    st.html(
        f'<p class="fss-quiet">{call}<b>●</b> trained whole; a number: so many per cent of its live weights are (of '
        f"random, on average over draws); empty: frozen. Initialisation {coverage.seed}.</p>"
    )
    for rule, reason in zip(coverage.rules, coverage.reasons, strict=True):
        if reason:
            st.html(f'<p class="fss-quiet"><b>{escaped(rule)}</b> trains nothing: {escaped(reason)}.</p>')
    downloads.figure_button(figure, "coverage", "What each rule trains")


def _curves(picture: RetrainPicture) -> None:
    st.header("Accuracy while retraining", anchor=False)
    figure = retraining_figure(picture.comparisons, dark=is_dark())
    st.plotly_chart(
        figure,
        key="retraining_curves",
        theme=None,
        width="stretch",
        config=SAVE_CONFIG,
        alt=retraining_alt(picture.comparisons),
    )
    last = picture.last
    over = (
        f"images; initialisation {last.seeds[0]}, this checkpoint only"
        if last.one_checkpoint
        else f"{len(last.seeds)} initialisations, each a dot"
    )
    st.html(
        f'<p class="fss-quiet">Bands: {last.level * 100:g}% intervals over {over}; n = {last.num_images} report '
        "images. Dotted: no retraining. Each panel has a range of its own. Click a name to hide it.</p>"
    )
    downloads.figure_button(figure, "retraining", "Accuracy while retraining")


def _table(picture: RetrainPicture) -> None:
    st.header(f"After {_epochs(picture.last.epoch)}, at equal budget", anchor=False)
    st.html(comparison_table(picture.last))
    lines = [*heading(picture.retrainings, picture.last), *notes(picture.retrainings, picture.last)]
    st.html("".join(f'<p class="fss-quiet" style="margin: 0.15rem 0">{escaped(line)}</p>' for line in lines))
    assert picture.verdict is not None
    found = retraining_json(picture.retrainings, picture.last, picture.verdict)
    st.download_button(
        "Everything (JSON)",
        lambda: json.dumps(found, ensure_ascii=False, indent=1).encode(),
        "fss-retraining.json",
        "application/json",
        key="save_comparison",
        on_click="ignore",
    )


def _across(across: Sequence[Comparison]) -> None:
    st.header("Across checkpoints", anchor=False)
    if len(across) < 2:
        st.caption(
            "The paper says “at any given epoch”. Retrain from another epoch, too (side bar), with the same rules and "
            "budget, and accuracy after retraining is drawn here against the epoch that it started from."
        )
        return
    figure = checkpoints_figure(across, dark=is_dark())
    st.plotly_chart(
        figure,
        key="across",
        theme=None,
        width="stretch",
        config=SAVE_CONFIG,
        alt=checkpoints_alt(across),
    )
    seeds = {own.spec.measurement.epoch: len(own.seeds) for own in across}
    if len(set(seeds.values())) > 1:
        each = ", ".join(f"epoch {epoch}: {number}" for epoch, number in seeds.items())
        st.caption(f"Not all epochs have as many initialisations yet: {each}.")
    sizes = list(dict.fromkeys(f"{own.epsilon * 255:.3g}/255" for own in across))
    if len(sizes) > 1:
        st.caption(
            f"ε is calibrated on each checkpoint ({', '.join(sizes)}), so that attacked accuracies are not of one "
            "attack; give ε in the side bar to compare them."
        )
