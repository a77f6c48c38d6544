"""What each variant does to the scores of the cell: paired changes with intervals, calls, rankings, and spreads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from fss_core.errata.variants import CORRECTED, ErrataSpec, Scope, Variant, list_variants
from fss_core.invariance import measure_invariance
from fss_core.invariance.columns import Parts, list_rows, mean_parts, score_column
from fss_core.responses import LayerResponse, Responses
from fss_core.scores import (
    KINDS,
    MEAN_FILTER,
    Call,
    Kind,
    call_of,
    curve_parts,
    estimate_parts,
    layer_curves,
    why_not_measurable,
)
from fss_core.specs import GLOBAL_LAYER, ScoreSpec

NOT_MEASURED = "not measured"
"""Why there is no effect where a variant is not about these scores."""

_RESAMPLES, _TIED = 1000, 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What a variant does to one kind of score: of the layers, on average, or of the whole network.

    Attributes:
        variant: its name.
        scope: whether ``value`` is a mean over layers, or the score of the whole network.
        kind: clean, adversarial or difference.
        num_layers: the layers with a score in the variant and with the corrected method; 1 for the whole network.
        num_images: probe images.
        value: mean overall score of these layers, with its interval over images in ``low`` and ``high``; ``None`` where
            none is measurable.
        low: lower end.
        high: upper end.
        change: ``value`` minus that of the corrected method, image by image on the same images.
        change_low: lower end of its interval.
        change_high: upper end.
        num_calls_changed: layers whose call, by point estimate, is another.
        reason: why there is no value; empty otherwise.
    """

    variant: str
    scope: Scope
    kind: Kind
    num_layers: int
    num_images: int
    value: float | None
    low: float | None
    high: float | None
    change: float | None
    change_low: float | None
    change_high: float | None
    num_calls_changed: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """How alike a variant and the corrected method rank the layers.

    Attributes:
        variant: its name.
        kind: clean, adversarial or difference.
        num_layers: with a score in both.
        tau: Kendall's τ-b; ``None`` where it is not defined.
        low: lower end of its basic bootstrap interval.
        high: upper end.
        reason: why there is none.
    """

    variant: str
    kind: Kind
    num_layers: int
    tau: float | None
    low: float | None
    high: float | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How far apart initialisations are: difference 5 makes all of it 0.

    Attributes:
        kind: clean, adversarial or difference.
        num_initialisations: how many.
        num_layers: with a score in all of them.
        num_images: probe images.
        value: standard deviation of a layer's score between initialisations, averaged over layers; ``None`` where no
            layer has a score in all.
        low: lower end of its basic bootstrap interval over images.
        high: upper end.
        num_calls_apart: layers that not all of them call alike.
    """

    kind: Kind
    num_initialisations: int
    num_layers: int
    num_images: int
    value: float | None
    low: float | None
    high: float | None
    num_calls_apart: int


def local(responses: Responses) -> Responses:
    """Leave the whole network out."""
    return replace(responses, layers=tuple(own for own in responses.layers if own.facts.name != GLOBAL_LAYER))


def list_effects(spec: ErrataSpec, measured: Mapping[str, Responses]) -> tuple[Effect, ...]:
    """Compute what every variant does, for each kind of score, on the layers and on the whole network.

    Args:
        spec: of the cell.
        measured: name of a variant that is measured anew → its responses.
    """
    variants = {own.name: own for own in list_variants(spec) if own.measured in measured}
    return tuple(
        _effect(own, variants[CORRECTED], measured, scope, kind)
        for own in variants.values()
        for scope in ("layers", "whole")
        for kind in KINDS
    )


def _effect(
    variant: Variant, corrected: Variant, measured: Mapping[str, Responses], scope: Scope, kind: Kind
) -> Effect:
    own, base = measured[variant.measured], measured[corrected.measured]
    mine, theirs = _by_layer(own, variant.score, scope, kind), _by_layer(base, corrected.score, scope, kind)
    both = [name for name, parts in mine.items() if not isinstance(parts, str) and not isinstance(theirs[name], str)]
    empty = Effect(
        variant=variant.name,
        scope=scope,
        kind=kind,
        num_layers=0,
        num_images=own.num_images,
        value=None,
        low=None,
        high=None,
        change=None,
        change_low=None,
        change_high=None,
        num_calls_changed=0,
        reason="",
    )
    if not both:
        reasons = [parts for parts in (*mine.values(), *theirs.values()) if isinstance(parts, str)] if mine else []
        return replace(empty, reason=reasons[0] if reasons else NOT_MEASURED)
    parts = {name: (_known(mine[name]), _known(theirs[name])) for name in both}
    level = corrected.score.level
    value, _, (low, high) = estimate_parts(mean_parts([new for new, _ in parts.values()]), level)
    paired = [[*new, *((-sign, curve) for sign, curve in old)] for new, old in parts.values()]
    change, _, (change_low, change_high) = estimate_parts(mean_parts(paired), level)
    if all(_same(new, old) for new, old in parts.values()):
        change = change_low = change_high = 0.0
    calls = [(_call(new, variant.score), _call(old, corrected.score)) for new, old in parts.values()]
    return replace(
        empty,
        num_layers=len(both),
        value=value,
        low=low,
        high=high,
        change=change,
        change_low=change_low,
        change_high=change_high,
        num_calls_changed=sum(new != old for new, old in calls),
    )


def _by_layer(responses: Responses, score: ScoreSpec, scope: Scope, kind: Kind) -> dict[str, Parts | str]:
    """The overall score of each layer as a signed sum of curves, or why it has none."""
    return {
        own.facts.name: why_not_measurable(responses, own, MEAN_FILTER, kind) or _parts(responses, own, score, kind)
        for own in responses.layers
        if (own.facts.name == GLOBAL_LAYER) == (scope == "whole")
    }


def _parts(responses: Responses, layer: LayerResponse, score: ScoreSpec, kind: Kind) -> Parts:
    return curve_parts(layer_curves(responses, layer, [MEAN_FILTER], score), MEAN_FILTER, kind)


def _known(parts: Parts | str) -> Parts:
    assert not isinstance(parts, str)
    return parts


def _same(new: Parts, old: Parts) -> bool:
    return all(
        one.estimand == other.estimand and np.array_equal(one.q, other.q) and np.array_equal(one.z, other.z)
        for (_, one), (_, other) in zip(new, old, strict=True)
    )


def _call(parts: Parts, score: ScoreSpec) -> Call:
    value = sum(sign * curve.estimand.estimate(curve.q, curve.z) for sign, curve in parts)
    return call_of(value, score.tolerance)


def list_rankings(spec: ErrataSpec, measured: Mapping[str, Responses]) -> tuple[Ranking, ...]:
    """Compare the ranking of the layers in each variant that is about layers with that of the corrected method.

    Args:
        spec: of the cell.
        measured: as for :func:`list_effects`.
    """
    found = []
    for own in list_variants(spec):
        if own.name == CORRECTED or own.scope == "whole" or own.measured not in measured:
            continue
        for kind in KINDS:
            found.append(_ranking(own, spec.score, measured, kind))
    return tuple(found)


def _ranking(variant: Variant, score: ScoreSpec, measured: Mapping[str, Responses], kind: Kind) -> Ranking:
    """Rank agreement does not depend on the unit of the scores, but each side has its own way of scoring."""
    sides = {CORRECTED: (measured[CORRECTED], score), variant.name: (measured[variant.measured], variant.score)}
    if variant.score == score:
        pair = measure_invariance(
            {name: local(own) for name, (own, _) in sides.items()},
            across="epochs",
            spec=score,
            kind=kind,
            num_resamples=_RESAMPLES,
            num_splits=1,
            num_permutations=1,
        ).rankings[0]
        return Ranking(
            variant=variant.name,
            kind=kind,
            num_layers=pair.num_rows,
            tau=pair.tau.value,
            low=pair.tau.low,
            high=pair.tau.high,
            reason=pair.tau.reason if pair.tau.value is None else "",
        )
    from scipy import stats

    values = [_by_layer(own, how, "layers", kind) for own, how in sides.values()]
    names = [name for name in values[0] if not any(isinstance(own[name], str) for own in values)]
    scores = [[_value(_known(own[name])) for name in names] for own in values]
    tau, reason = None, ""
    if len(names) < 2:
        reason = "fewer than two layers have a score in both"
    elif min(np.ptp(own) for own in scores) < _TIED:
        reason = "all layers have the same score"
    else:
        tau = float(stats.kendalltau(*scores).statistic)
    return Ranking(variant=variant.name, kind=kind, num_layers=len(names), tau=tau, low=None, high=None, reason=reason)


def _value(parts: Parts) -> float:
    return sum(sign * curve.estimand.estimate(curve.q, curve.z) for sign, curve in parts)


def list_spreads(spec: ErrataSpec, measured: Mapping[str, Responses]) -> tuple[Spread, ...]:
    """Say how far the initialisations lie apart, for each kind of score.

    Args:
        spec: of the cell.
        measured: as for :func:`list_effects`; those of all seeds must be among them, else there is no spread.
    """
    names = [CORRECTED, *(f"seed{seed}" for seed in spec.seeds[1:])]
    if len(names) < 2 or not set(names) <= measured.keys():
        return ()
    return tuple(_spread([local(measured[name]) for name in names], spec.score, kind) for kind in KINDS)


def _spread(responses: Sequence[Responses], score: ScoreSpec, kind: Kind) -> Spread:
    rows = list_rows(responses, "epochs")
    columns = [
        score_column(str(index), own, rows, across="epochs", spec=score, filter=MEAN_FILTER, kind=kind)
        for index, own in enumerate(responses)
    ]
    present = np.all([own.present for own in columns], axis=0)
    calls = [{own.entries[row].call for own in columns} for row in np.flatnonzero(present)]
    about = {
        "kind": kind,
        "num_initialisations": len(columns),
        "num_layers": int(present.sum()),
        "num_images": responses[0].num_images,
        "num_calls_apart": sum(len(own) > 1 for own in calls),
    }
    if not present.any():
        return Spread(**about, value=None, low=None, high=None)  # type: ignore[arg-type]
    value = float(np.std([own.scores[present] for own in columns], axis=0, ddof=1).mean())
    draws = [own.resampled(_RESAMPLES, seed=0, stream=0) for own in columns]  # the same images in each
    sound = np.all([defined for _, defined in draws], axis=0)
    again = np.std([scores[sound][:, present] for scores, _ in draws], axis=0, ddof=1).mean(axis=1)
    tail = (1 - score.level) / 2
    low, high = (2 * value - float(end) for end in np.quantile(again, [1 - tail, tail]))
    return Spread(**about, value=value, low=max(low, 0.0), high=high)  # type: ignore[arg-type]
