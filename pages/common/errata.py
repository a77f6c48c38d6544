"""The panels of the Errata view: the eight differences with what each does, layer by layer, and all at once."""

from __future__ import annotations

import json
from pathlib import Path

import streamlit as st

from fss_core.errata.differences import DIFFERENCES, Difference
from fss_core.errata.effects import Effect, Ranking
from fss_core.errata.grids import LayerScores, errata_grid, layer_lines, layer_variants, score_layers
from fss_core.errata.records import Errata, errata_path, read_errata
from fss_core.errata.reports import change_words, errata_json, ranking_words, spread_words, value_words
from fss_core.errata.variants import CORRECTED, Variant, list_variants
from fss_core.figures.errata import change_alt, change_figure
from fss_core.figures.style import SAVE_CONFIG
from fss_core.invariance.grids import GridColumn
from fss_core.numerals import number, signed
from fss_core.reports import REFERENCES
from fss_core.scores import KINDS, Kind, Score
from fss_core.specs import NETWORKS, MeasurementSpec, ResponseSpec, published_dir
from pages.common import agreement, downloads, known, tiles
from pages.common.choices import KIND_TITLES
from pages.common.frame import escaped, is_dark, plain
from pages.common.links import Param
from pages.common.retrain_table import TABLE_STYLE

COMMAND = "fss study --preset notebook"

PARAMS: dict[str, Param] = {
    "score_kind": Param(default="adversarial", what="score that is compared", known=lambda: KINDS),
    "difference": Param(default="all", what="difference"),
}
"""What stands in the address of this view."""

WHAT_IT_IS = (
    "The paper’s authors have published notebooks (SynapFilter/InferLink), the only other implementation known. "
    "They differ from the method of this project in eight ways. Each is reproduced here by a plain loop of its own, "
    "**switched on by itself**, on one network, and compared with the corrected method on the same images."
)


def draw() -> None:
    """Draw the page."""
    st.title("Errata and differences", anchor=False)
    st.markdown(WHAT_IT_IS)
    path = errata_path(published_dir())
    modified = path.stat().st_mtime_ns if path.exists() else None
    found = None if modified is None else _read(str(path), modified)
    if found is None or modified is None:
        st.info(
            "What they do to scores is not measured in this version. This measures one cell, in about a quarter of an "
            "hour on two cores, and publishes the comparison:"
        )
        st.code(COMMAND, language=None)
        st.html(_table(None))
        return
    _about(found)
    _tiles(found)
    st.header("Eight differences, and what each does", anchor=False)
    st.html(_table(found))
    _notes(found)
    _layer_by_layer(_score(found, str(path), modified))
    _save(found)


@st.cache_resource(max_entries=2, show_spinner=False)
def _read(path: str, modified: int) -> Errata | None:
    """Read the comparison once for all viewers, until it is another."""
    return read_errata(Path(path).parents[1])


@st.cache_resource(max_entries=2, show_spinner=False)
def _score(_errata: Errata, path: str, modified: int) -> LayerScores:
    """Score it once for all viewers."""
    return score_layers(_errata)


# What it is of --------------------------------------------------------------------------------------------


def _about(errata: Errata) -> None:
    record, spec = errata.record, errata.record.spec
    own = next(one for one in record.measured if one.name == CORRECTED)
    st.html(
        f'<p class="fss-quiet"><b>{escaped(NETWORKS.get(spec.training.network, spec.training.network))} on '
        f"{escaped(record.dataset_title)}, epoch {spec.epoch}</b>: n = {spec.num_images} probe images, "
        f"{spec.num_thresholds} thresholds, {len(own.layers) - 1} layers (every {spec.every}th) and the whole network, "
        f"FGSM at ε = {record.epsilon * 255:.3g}/255, calibrated. Unfiltered accuracy: clean {own.clean_accuracy:.3f}, "
        f"adversarial {own.adversarial_accuracy:.3f}. Published with this version; measured in "
        f"{record.cpu_seconds / 60:.0f} minutes of processor time. "
        + (
            "Without a switch the plain loop gets exactly the images right that the fast engine gets right."
            if record.engine_agrees
            else "<b>Without a switch the plain loop and the fast engine differ: do not trust these numbers.</b>"
        )
        + "</p>"
    )
    measurement = MeasurementSpec(
        training=spec.training,
        epoch=spec.epoch,
        num_images=spec.num_images,
        response=ResponseSpec(num_thresholds=spec.num_thresholds),
    )
    st.page_link("app.py", label="Open this cell in Explore", query_params=known.link_params(measurement))
    st.markdown(REFERENCES[spec.score.reference])


def _tiles(errata: Errata) -> None:
    boxes = []
    for name, variant in (("Corrected", CORRECTED), ("All but the score", "procedure"), ("All at once", "all")):
        own = _effect(errata, variant, "adversarial")
        if own is not None:
            value = signed(own.value)
            note = own.reason or f"{value_words(own).partition(' ')[2]}, {own.num_layers} layers, n = {own.num_images}"
            boxes.append((f"{name}: adversarial", value, note))
    own, ranking = _effect(errata, "all", "adversarial"), _ranking(errata, "all", "adversarial")
    if own is not None and own.num_layers:
        note = f"all at once, of {own.num_layers} layers, adversarial score"
        boxes.append(("Layers with another call", str(own.num_calls_changed), note))
    if ranking is not None:
        value = number(ranking.tau)
        note = ranking.reason or f"between all at once and corrected, {ranking.num_layers} layers; 1 is the same order"
        boxes.append(("Kendall’s τ of the ranking", value, note))
    st.html(tiles.row(tiles.tile(*box) for box in boxes))


# The table ------------------------------------------------------------------------------------------------

_HEADS = ("Difference", "Clean", "Adversarial", "Difference of both", "Other calls", "τ")


def _table(errata: Errata | None) -> str:
    """Write the differences as a table, each as a line of words above its numbers; without a comparison, words only."""
    heads = _HEADS if errata is not None else _HEADS[:1]
    head = "".join(f"<th>{text}</th>" for text in heads)
    lines = [_all_at_once(errata)] if errata is not None else []
    body = "".join([*(_rows(own, errata) for own in DIFFERENCES), *lines])
    return (
        f"{TABLE_STYLE}<style>.fss-errata td:first-child {{min-width: 5.5rem !important;}} "
        ".fss-errata tr.numbers td {border-top: none !important;} "
        # As wide as the page beside its side bar, also where the numbers are wider and scroll.
        ".fss-errata .words {max-width: calc(100vw - 24rem);}</style>"
        f'<div style="overflow-x:auto"><table class="fss-table fss-errata"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _rows(difference: Difference, errata: Errata | None) -> str:
    how = f"<small>{escaped(difference.how)}</small>" if difference.how else ""
    text = (
        f'<tr><td class="why" colspan="{1 if errata is None else len(_HEADS)}"><div class="words">'
        f"<b>{difference.number}. {escaped(difference.title)}.</b> Notebooks: {escaped(difference.notebooks)}<br>"
        f"Here: {escaped(difference.here)}{how}</div></td></tr>"
    )
    if errata is None:
        return text
    if difference.number == 5:
        return text + _numbers("spread", _spread_cells(errata))
    variants = [own for own in list_variants(errata.record.spec) if own.differences == (difference.number,)]
    if not variants:
        return text + _numbers("change", '<td class="why" colspan="5">does not apply to this network</td>')
    return text + "".join(_numbers(_label(errata, own), _cells(errata, own)) for own in variants)


def _numbers(label: str, cells: str) -> str:
    return f'<tr class="numbers"><td>{escaped(label)}</td>{cells}</tr>'


def _label(errata: Errata, variant: Variant) -> str:
    if variant.scope == "whole":
        return "change, whole network"
    if variant.differences != (2,):
        return "change"
    epsilon = errata.record.notebook_epsilon if variant.own_epsilon else errata.record.epsilon
    return f"change, at ε = {epsilon * 255:.3g}/255"


def _all_at_once(errata: Errata) -> str:
    lines = []
    for own in list_variants(errata.record.spec):
        if len(own.differences) > 1:
            numbers = ", ".join(map(str, own.differences))
            words = f"<b>{escaped(own.title)}</b>: {numbers}"
            lines.append(f'<tr><td class="why" colspan="{len(_HEADS)}">{words}</td></tr>')
            lines.append(_numbers("change", _cells(errata, own)))
    return "".join(lines)


def _cells(errata: Errata, variant: Variant) -> str:
    cells = []
    for kind in KINDS:
        own = _effect(errata, variant.name, kind)
        if own is None or own.change is None:
            cells.append(f'<td class="why">{escaped("–" if own is None else own.reason)}</td>')
        else:
            value, _, interval = change_words(own).partition(" ")
            cells.append(f"<td>{escaped(value)}<small>{escaped(interval)}</small></td>")
    own, ranking = _effect(errata, variant.name, "adversarial"), _ranking(errata, variant.name, "adversarial")
    calls = "–" if own is None or not own.num_layers else f"{own.num_calls_changed} of {own.num_layers}"
    tau = ("–", "") if ranking is None else ranking_words(ranking).partition(" ")[::2]
    return f"{''.join(cells)}<td>{calls}</td><td>{escaped(tau[0])}<small>{escaped(tau[1])}</small></td>"


def _spread_cells(errata: Errata) -> str:
    spreads = {own.kind: own for own in errata.record.spreads}
    if not spreads:
        return '<td class="why" colspan="5">one initialisation is measured</td>'
    cells = []
    for kind in KINDS:
        value, _, interval = spread_words(spreads[kind]).partition(" ")
        cells.append(f"<td>±{escaped(value)}<small>{escaped(interval)}</small><small>notebooks: 0</small></td>")
    own = spreads["adversarial"]
    return f"{''.join(cells)}<td>{own.num_calls_apart} of {own.num_layers}</td><td>–</td>"


def _notes(errata: Errata) -> None:
    spec = errata.record.spec
    st.html(
        '<p class="fss-quiet">Change of the mean overall score of the layers (of the whole network in 6), image by '
        f"image on the same n = {spec.num_images} images, with {spec.score.level * 100:g} % intervals over images; "
        "score: accuracy above chance relative to the unfiltered network’s, integrated over thresholds (in 7, and all "
        "at once, in the notebooks’ unit). Other calls: layers whose adversarial score is called otherwise, by point "
        "estimate. τ: Kendall’s, between the two rankings of the layers by adversarial score, 1 for the same; no "
        "interval where the unit of the scores is another. 4 and 5 are other networks, and not part of all at once. In "
        "training mode a prediction depends on the other images of its batch, which these intervals leave out.</p>"
    )


def _effect(errata: Errata, name: str, kind: Kind) -> Effect | None:
    scope = {own.name: own.scope for own in list_variants(errata.record.spec)}.get(name)
    found = (own for own in errata.record.effects if (own.variant, own.scope, own.kind) == (name, scope, kind))
    return next(found, None)


def _ranking(errata: Errata, name: str, kind: Kind) -> Ranking | None:
    return next((own for own in errata.record.rankings if (own.variant, own.kind) == (name, kind)), None)


# Layer by layer -------------------------------------------------------------------------------------------


def _layer_by_layer(scores: LayerScores) -> None:
    errata = scores.errata
    st.header("Layer by layer", anchor=False)
    variants = {own.name: own for own in layer_variants(errata)}
    choices = [name for name in variants if name != CORRECTED]
    if st.session_state.get("difference") not in choices:
        st.session_state["difference"] = choices[-1]
    with st.container(key="errata_controls", horizontal=True, vertical_alignment="bottom"):
        st.selectbox("Score", list(KINDS), format_func=KIND_TITLES.__getitem__, key="score_kind", width=180)
        st.selectbox(
            "Beside the corrected method",
            choices,
            format_func=lambda name: _title(variants[name]),
            key="difference",
            width=300,
        )
    kind: Kind = st.session_state["score_kind"]
    variant = variants[st.session_state["difference"]]
    with st.container(key="explore_columns"):
        left, right = st.columns([3, 2], gap="medium")
        with left:
            _heatmap(scores, kind)
        with right:
            _chart(errata, variants, kind)
    st.html(_layer_table(scores, variant, kind))


def _title(variant: Variant) -> str:
    return f"{variant.differences[0]}. {variant.title}" if len(variant.differences) == 1 else variant.title


def _heatmap(scores: LayerScores, kind: Kind) -> None:
    def look_into(row: str, column: GridColumn) -> None:
        if column.label != CORRECTED:
            st.session_state["difference"] = column.label

    figure = agreement.heatmap(errata_grid(scores, kind), "errata_heatmap", look_into)
    st.html(
        '<p class="fss-quiet"><b>F</b> fragile, <b>R</b> robust, <b>A</b> antifragile: decided. <b>f r a</b>, hatched: '
        "leaning. · not measurable. Corr.: the corrected method; not 7: all but the score. Stays: ● the call of the "
        "corrected method in all columns, else the share of columns with it. Click a cell to read its column below.</p>"
    )
    downloads.figure_button(figure, "errata", "Scores under each difference")


def _chart(errata: Errata, variants: dict[str, Variant], kind: Kind) -> None:
    titles = {name: _title(own) for name, own in variants.items()}
    effects = [
        own
        for own in errata.record.effects
        if own.variant in titles and own.variant != CORRECTED and (own.scope, own.kind) == ("layers", kind)
    ]
    figure = change_figure(effects, titles, dark=is_dark())
    st.plotly_chart(
        figure,
        key="errata_changes",
        theme=None,
        width="stretch",
        config=SAVE_CONFIG,
        alt=change_alt(effects, titles),
    )
    st.html(
        f'<p class="fss-quiet">{KIND_TITLES[kind]} score, mean of the layers: with the difference, less corrected. '
        f"{errata.record.spec.score.level * 100:g} % intervals over n = {errata.record.spec.num_images} images.</p>"
    )
    absent = [own for own in effects if own.change is None]
    if absent:
        lines = "; ".join(f"{titles[own.variant]}: {own.reason}" for own in absent)
        st.caption(plain(f"Not measurable: {lines}."))


def _layer_table(scores: LayerScores, variant: Variant, kind: Kind) -> str:
    rows = []
    for own in layer_lines(scores, variant, kind):
        same = {None: "–", True: "same", False: "another"}[own.same_call]
        rows.append(
            f"<tr><td>{escaped(own.layer)}</td>{_score_cell(own.corrected)}{_score_cell(own.other)}<td>{same}</td></tr>"
        )
    title = escaped(_title(variant))
    return (
        f'{TABLE_STYLE}<div style="overflow-x:auto"><table class="fss-table"><thead><tr>'
        f"<th>{KIND_TITLES[kind]} score, mean of the three filters</th><th>Corrected</th><th>{title}</th><th>Call</th>"
        f"</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _score_cell(own: Score) -> str:
    if own.score is None or own.low is None or own.high is None:
        return f'<td class="why">{escaped(own.reason)}</td>'
    interval = f"[{signed(own.low)}, {signed(own.high)}]"
    return f"<td>{signed(own.score)}<small>{interval}</small><small>{own.call}, {own.certainty}</small></td>"


def _save(errata: Errata) -> None:
    st.download_button(
        "Everything (JSON)",
        lambda: json.dumps(errata_json(errata.record), ensure_ascii=False, indent=1).encode(),
        "fss-errata.json",
        "application/json",
        key="save_everything",
        on_click="ignore",
    )
