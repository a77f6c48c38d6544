"""From measured responses to what rules look at: the call of every layer, or of every pulse of its weights.

A pulse's score is what its layer's score would be if every threshold removed what this pulse removes: the integrand of
the pulse filter's score at one threshold, with that score's normalisation, reference, interval and tolerance. So the
pulses' scores, integrated over the thresholds, give the layer's score under the pulse filter back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from fss_core.intervals import Estimand
from fss_core.responses import LayerFacts, LayerResponse, Predictions, Responses
from fss_core.retraining.rules import RULES, Choice, Evidence, Unit, choose_units
from fss_core.retraining.spec import RetrainingSpec
from fss_core.scores import Scores, accuracy_problem, call_of, score_responses
from fss_core.specs import FilterRow, ScoreSpec

_IGNORED = "leaning calls are ignored"
_REPEATS = 3
"""Thresholds of a response that stays at one pulse: odd, so that Simpson's rule takes it too."""


def make_choices(
    responses: Responses, spec: RetrainingSpec, criticality: Mapping[str, float] | None
) -> tuple[Choice, ...]:
    """Let every rule of a retraining choose.

    Args:
        responses: of the checkpoint, all layers, on probe images.
        spec: which rules, and what decides.
        criticality: layer → worst loss; ``None`` leaves out the rules that need it.

    Returns:
        One choice per rule and draw, in the order of ``spec.rules``.

    Source: METHOD, "Selective retraining".
    """
    by_layer = spec.granularity == "layer"
    units = layer_units(responses, spec) if by_layer else pulse_units(responses, spec)
    seeds = (spec.seed, spec.measurement.training.seed)
    return tuple(
        choose_units(
            rule,
            Evidence(units=units, seeds=seeds, draw=draw, criticality=criticality or {}),
            None if by_layer else responses.spec.num_thresholds,
        )
        for rule in spec.rules
        if criticality is not None or not RULES[rule].needs_criticality
        for draw in spec.draws(rule)
    )


def layer_units(responses: Responses, spec: RetrainingSpec) -> tuple[Unit, ...]:
    """Give every layer its call, by the score that decides.

    Args:
        responses: with the filters that decide among their rows.
        spec: which kind and filter decide, and how leaning calls count.

    Returns:
        One unit per layer, in network order.
    """
    scores = score_responses(responses, **asdict(spec.score))
    deciding = {row.layer: row for row in scores.rows if row.kind == spec.kind and row.filter == spec.filter}
    units = []
    for layer in responses.layers:
        facts, score = layer.facts, deciding[layer.facts.name]
        ignored = score.certainty == "leaning" and spec.leaning == "ignored"
        call, reason = (None, _IGNORED) if ignored else (score.call, score.reason)
        units.append(Unit(layer=facts.name, kind=facts.kind, num_live=facts.num_live, call=call, reason=reason))
    return tuple(units)


def pulse_units(responses: Responses, spec: RetrainingSpec) -> tuple[Unit, ...]:
    """Give every pulse of every layer its call; see this module's first paragraph for a pulse's score.

    Args:
        responses: with the pulse filter among their rows.
        spec: which kind of score decides, and how leaning calls count.

    Returns:
        One unit per layer and pulse, in network order, then by threshold; a unit's live weights are those that are not
        zero, as removing the others changes nothing.
    """
    row = responses.rows.index(FilterRow(filter="pulse"))
    problem = accuracy_problem(responses, spec.kind)
    leaning = _leaning_pulses(responses, spec) if spec.leaning == "ignored" else frozenset()
    units = []
    for layer in responses.layers:
        facts = layer.facts
        values = _pulse_values(responses, layer, row, spec)
        for k, num_live in enumerate(_pulse_sizes(facts, row)):
            reason = "" if facts.changes[row, k] else "removing it changes nothing"
            reason = reason or problem or (_IGNORED if (facts.name, k) in leaning else "")
            call = None if reason else call_of(values[k], spec.score.tolerance)
            units.append(
                Unit(layer=facts.name, kind=facts.kind, num_live=int(num_live), call=call, reason=reason, pulse=k)
            )
    return tuple(units)


def _pulse_values(responses: Responses, layer: LayerResponse, row: int, spec: RetrainingSpec) -> list[float]:
    """The score of every pulse of a layer."""
    labels, before, after = responses.labels, responses.unfiltered, layer.predictions
    sides = {"clean": (before.clean, after.clean[row]), "adversarial": (before.adversarial, after.adversarial[row])}
    signs = {"adversarial": 1, "clean": -1} if spec.kind == "difference" else {spec.kind: 1}
    values = []
    for k, kept in enumerate(layer.facts.kept_fraction[row]):
        estimand = Estimand(
            chance=1 / responses.num_classes if spec.score.normalise == "chance" else 0.0,
            reference=float(kept) if spec.score.reference == "retained" else 1.0,
            ratio=spec.score.normalise != "none",
        )
        right = {kind: (sides[kind][1][k] == labels, sides[kind][0] == labels) for kind in signs}
        values.append(sum(sign * estimand.estimate(*right[kind]) for kind, sign in signs.items()))
    return values


def _leaning_pulses(responses: Responses, spec: RetrainingSpec) -> frozenset[tuple[str, int]]:
    """The pulses, by layer, whose call the images do not decide: these need intervals, which take their time."""
    return frozenset(
        (own.layer, k)
        for k in range(responses.spec.num_thresholds)
        for own in pulse_scores(responses, k, spec.score).rows
        if own.kind == spec.kind and own.certainty == "leaning"
    )


def pulse_scores(responses: Responses, k: int, spec: ScoreSpec) -> Scores:
    """Score one pulse of every layer, with intervals.

    Args:
        responses: with the pulse filter among their rows.
        k: which pulse.
        spec: reference, normalisation, tolerance and level.

    Returns:
        Scores whose only filter is the pulse.
    """
    row = responses.rows.index(FilterRow(filter="pulse"))
    return score_responses(_stay_at(responses, row, k), **asdict(spec))


def _stay_at(responses: Responses, row: int, k: int) -> Responses:
    """Make responses whose every threshold is pulse ``k``."""

    def again(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return np.repeat(array[row : row + 1, k : k + 1], _REPEATS, axis=1)

    layers = []
    for layer in responses.layers:
        facts, predicted = layer.facts, layer.predictions
        facts = replace(
            facts,
            num_kept=again(facts.num_kept),
            num_live_kept=again(facts.num_live_kept),
            changes=again(facts.changes),
        )
        predictions = Predictions(clean=again(predicted.clean), adversarial=again(predicted.adversarial))
        layers.append(LayerResponse(facts=facts, predictions=predictions))
    spec = replace(responses.spec, filters=("pulse",), num_thresholds=_REPEATS)
    return replace(responses, spec=spec, rows=(FilterRow(filter="pulse"),), layers=tuple(layers))


def _pulse_sizes(facts: LayerFacts, row: int) -> npt.NDArray[np.int64]:
    """Count the live, non-zero weights of each pulse: every weight belongs to one, so all are kept A − 1 times."""
    kept: npt.NDArray[np.int64] = facts.num_live_kept[row]
    return np.asarray(int(kept.sum()) // (len(kept) - 1) - kept)
