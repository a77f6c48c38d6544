"""Which layers each rule trains of one checkpoint, known as soon as its layers are measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from fss_core.flow import Measured
from fss_core.retraining.evidence import layer_units, make_choices, pulse_units
from fss_core.retraining.lookup import known_criticality
from fss_core.retraining.rules import Choice, Unit
from fss_core.retraining.spec import RetrainingSpec
from fss_core.scores import Score, score_responses
from fss_core.store import Store
from fss_core.summaries import letter

NOT_KNOWN = "not known before the criticality of layers is measured"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Coverage:
    """What each rule trains, layer by layer.

    Attributes:
        seed: the initialisation.
        layers: in network order.
        num_live: weights of each that can change the output.
        scores: of each layer, the score that decides; empty where pulses of weights are chosen one by one.
        rules: in the order in which they were asked for.
        shares: float64 (L, R), the share of a layer's live weights that a rule trains, averaged over draws.
        trained: live weights that each rule trains, averaged over draws.
        num_draws: of each rule.
        reasons: why a rule trains nothing, or why that is not known yet; empty otherwise.
    """

    seed: int
    layers: tuple[str, ...]
    num_live: tuple[int, ...]
    scores: tuple[Score, ...]
    rules: tuple[str, ...]
    shares: npt.NDArray[np.float64]
    trained: tuple[float, ...]
    num_draws: tuple[int, ...]
    reasons: tuple[str, ...]

    @property
    def letters(self) -> tuple[str, ...]:
        """The call of each layer as a letter; see :func:`fss_core.summaries.letter`."""
        return tuple(letter(score) for score in self.scores)

    def num_layers(self, rule: str) -> int:
        """Count the layers that a rule trains, in whole or in part, in any draw."""
        return int((self.shares[:, self.rules.index(rule)] > 0).sum())


def cover(
    store: Store, spec: RetrainingSpec, measured: Measured, criticality: dict[str, float] | None = None
) -> Coverage:
    """Say which layers each rule trains.

    Args:
        store: where criticality is looked up.
        spec: what decides.
        measured: the checkpoint's responses, complete.
        criticality: layer → worst loss; looked up unless it comes from elsewhere.

    Returns:
        A column per rule; empty where a rule chooses nothing, or its criticality is not known yet.
    """
    responses = measured.responses
    by_layer = spec.granularity == "layer"
    units = layer_units(responses, spec) if by_layer else pulse_units(responses, spec)
    if criticality is None:
        criticality = known_criticality(store, spec, measured)
    choices = make_choices(responses, spec, criticality)
    own = {rule: [choice for choice in choices if choice.rule == rule] for rule in spec.rules}
    layers = tuple(layer.facts.name for layer in responses.layers)
    shares = [
        np.mean([_shares(choice, units, layers) for choice in own[rule]] or [np.zeros(len(layers))], axis=0)
        for rule in spec.rules
    ]
    return Coverage(
        seed=spec.measurement.training.seed,
        layers=layers,
        num_live=tuple(layer.facts.num_live for layer in responses.layers),
        scores=_deciding(measured, spec) if by_layer else (),
        rules=spec.rules,
        shares=np.stack(shares, axis=1),
        trained=tuple(
            float(np.mean([_num_live(choice, units) for choice in own[rule]])) if own[rule] else 0.0
            for rule in spec.rules
        ),
        num_draws=tuple(len(spec.draws(rule)) for rule in spec.rules),
        reasons=tuple(own[rule][0].reason if own[rule] else NOT_KNOWN for rule in spec.rules),
    )


def _deciding(measured: Measured, spec: RetrainingSpec) -> tuple[Score, ...]:
    found = score_responses(measured.responses, **asdict(spec.score))
    return tuple(row for row in found.rows if row.kind == spec.kind and row.filter == spec.filter)


def _chosen(choice: Choice, units: Sequence[Unit]) -> list[Unit]:
    pulses = {part.layer: part.pulses for part in choice.selection.parts}
    chosen = []
    for unit in units:
        own = pulses.get(unit.layer, ())
        if own is None or unit.pulse in own:
            chosen.append(unit)
    return chosen


def _num_live(choice: Choice, units: Sequence[Unit]) -> int:
    return sum(unit.num_live for unit in _chosen(choice, units))


def _shares(choice: Choice, units: Sequence[Unit], layers: Sequence[str]) -> npt.NDArray[np.float64]:
    """The share of each layer that one choice trains; all of a layer without live weights that it names."""
    total, trained = dict.fromkeys(layers, 0), dict.fromkeys(layers, 0)
    for unit in units:
        total[unit.layer] += unit.num_live
    for unit in _chosen(choice, units):
        trained[unit.layer] += unit.num_live
    named = set(choice.layers)
    return np.array([trained[name] / total[name] if total[name] else float(name in named) for name in layers])
