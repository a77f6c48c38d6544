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

from fss_core.responses import LayerFacts, LayerResponse, Predictions, Responses
from fss_core.retraining.rules import RULES, Choice, Evidence, Unit, choose_units
from fss_core.retraining.spec import Leaning, RetrainingSpec
from fss_core.scores import Score, score_responses
from fss_core.specs import FilterRow

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
    return tuple(
        _unit(layer.facts, deciding[layer.facts.name], spec.leaning, num_live=layer.facts.num_live)
        for layer in responses.layers
    )


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
    by_pulse = [
        [
            own
            for own in score_responses(_stay_at(responses, row, k), **asdict(spec.score)).rows
            if own.kind == spec.kind
        ]
        for k in range(responses.spec.num_thresholds)
    ]
    return tuple(
        _unit(layer.facts, scores[index], spec.leaning, num_live=int(num_live), pulse=k)
        for index, layer in enumerate(responses.layers)
        for k, (scores, num_live) in enumerate(zip(by_pulse, _pulse_sizes(layer.facts, row), strict=True))
    )


def _unit(facts: LayerFacts, score: Score, leaning: Leaning, *, num_live: int, pulse: int | None = None) -> Unit:
    call, reason = score.call, score.reason
    if score.certainty == "leaning" and leaning == "ignored":
        call, reason = None, "leaning calls are ignored"
    return Unit(layer=facts.name, kind=facts.kind, num_live=num_live, call=call, reason=reason, pulse=pulse)


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
