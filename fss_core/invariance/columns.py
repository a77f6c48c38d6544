"""The scores of one column, in a form that other draws of its images, and permutations of its layers, re-use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from fss_core.intervals import Estimand, Values
from fss_core.invariance.agreement import CALLS, call_codes
from fss_core.invariance.resampling import bootstrap_weights, half_weights, permutations_within
from fss_core.invariance.results import Across, Entry, Row
from fss_core.responses import LayerFacts, Responses
from fss_core.scores import Curve, Kind, curve_parts, estimate_parts, layer_curves, why_not_measurable
from fss_core.specs import ScoreSpec

NUM_DEPTHS = 5

Parts = list[tuple[int, Curve]]


def list_rows(responses: Sequence[Responses], across: Across) -> tuple[Row, ...]:
    """List what can be compared: all layers by name, or all cells of kind and depth that any of the networks has.

    Args:
        responses: one a column.
        across: layers are the same across epochs and data sets; across networks their kinds and depths are.

    Returns:
        Layers in network order, or cells from input to output.

    Source: METHOD, "Invariance".
    """
    all_facts = [layer.facts for own in responses for layer in own.layers]
    if across == "networks":
        all_facts.sort(key=_fifth)
    rows: dict[str, Row] = {}
    for facts in all_facts:
        depth = (_fifth(facts) + 0.5) / NUM_DEPTHS if across == "networks" else facts.relative_depth
        name = row_name(facts, across)
        rows.setdefault(name, Row(name=name, layer_kind=facts.kind, relative_depth=depth))
    return tuple(rows.values())


def row_name(facts: LayerFacts, across: Across) -> str:
    """Name the row that a layer belongs to."""
    if across != "networks":
        return facts.name
    return f"{facts.kind} · {_fifth(facts) / NUM_DEPTHS:.1f}–{(_fifth(facts) + 1) / NUM_DEPTHS:.1f}"


def _fifth(facts: LayerFacts) -> int:
    return min(int(facts.relative_depth * NUM_DEPTHS), NUM_DEPTHS - 1)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Images:
    """One part of the scores of all rows that have one.

    Attributes:
        sign: of the part, in the score.
        estimands: one a row.
        q: (rows, N), see :class:`fss_core.scores.Curve`.
        z: (N,), the same for all rows.
    """

    sign: int
    estimands: tuple[Estimand, ...]
    q: Values
    z: Values


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ColumnScores:
    """The scores of one column, and what they are made of.

    Attributes:
        num_images: N.
        reason: why a layer has no score, the first of those that have none; empty if all have one.
        entries: R, one a row.
        scores: (R,); 0 where there is none.
        present: bool (R,), whether there is one.
        images: a score's parts.
        layer_scores: (L,), of the layers that have a score.
        layer_kinds: L.
        membership: (R, L), each layer's share in each row.
    """

    num_images: int
    reason: str
    entries: tuple[Entry, ...]
    scores: Values
    present: npt.NDArray[np.bool_]
    images: tuple[_Images, ...]
    layer_scores: Values
    layer_kinds: tuple[str, ...]
    membership: Values

    def weighted(self, weights: Values) -> tuple[Values, npt.NDArray[np.bool_]]:
        """Score images that count more or less than once.

        Args:
            weights: (K, N), how often each image counts.

        Returns:
            Scores (K, R), 0 where a row has none, and bool (K,), False where the unfiltered network is at or below
            chance, so that nothing has a score.
        """
        total = weights.sum(axis=1)
        scores = np.zeros((len(weights), len(self.present)))
        defined = np.ones(len(weights), dtype=bool)
        rows = np.flatnonzero(self.present)
        for part in self.images:
            q, z = (weights @ part.q.T) / total[:, None], (weights @ part.z) / total
            any_row = part.estimands[0]
            above = z > any_row.chance if any_row.ratio else np.ones_like(defined)
            defined &= above
            z = np.where(above, z, 1.0)
            for row, estimand, own in zip(rows, part.estimands, q.T, strict=True):
                scores[:, row] += part.sign * estimand.of_means(own, z)
        return scores, defined

    def resampled(self, num_resamples: int, *, seed: int, stream: int) -> tuple[Values, npt.NDArray[np.bool_]]:
        """Score bootstrap resamples of the images, as :meth:`weighted` does; arguments as for ``bootstrap_weights``."""
        blocks = [
            self.weighted(weights)
            for weights in bootstrap_weights(num_resamples, self.num_images, seed=seed, stream=stream)
        ]
        return np.concatenate([scores for scores, _ in blocks]), np.concatenate([defined for _, defined in blocks])

    def halves(self, num_splits: int, *, seed: int, stream: int) -> list[tuple[Values, npt.NDArray[np.bool_]]]:
        """Score both halves of the images, as :meth:`weighted` does; arguments as for ``half_weights``."""
        return [
            self.weighted(weights) for weights in half_weights(num_splits, self.num_images, seed=seed, stream=stream)
        ]

    def permuted(self, rows: npt.NDArray[np.bool_], num_permutations: int, *, seed: int, stream: int) -> Values:
        """Permute the layers of some rows within their kinds, and score the rows anew.

        Args:
            rows: bool (R,), which; each has a score.
            num_permutations: M.
            seed: as for :func:`fss_core.invariance.resampling.permutations_within`.
            stream: likewise.

        Returns:
            (M, number of rows).
        """
        used = np.flatnonzero(self.membership[rows].any(axis=0))
        kinds = [self.layer_kinds[layer] for layer in used]
        order = permutations_within(kinds, num_permutations, seed=seed, stream=stream)
        return np.asarray(self.layer_scores[used[order]] @ self.membership[rows][:, used].T)


def score_column(
    label: str,
    responses: Responses,
    rows: Sequence[Row],
    *,
    across: Across,
    spec: ScoreSpec,
    filter: str,
    kind: Kind,
) -> ColumnScores:
    """Score all rows of one column.

    Args:
        label: of the column.
        responses: measured there.
        rows: of :func:`list_rows`.
        across: as for :func:`list_rows`.
        spec: how.
        filter: one of :func:`fss_core.scores.score_filters`.
        kind: which score.

    Returns:
        The scores: for a layer those of :func:`fss_core.score_responses`, for a cell the mean of its layers'.
    """
    members: dict[str, list[int]] = {row.name: [] for row in rows}
    reasons = {row.name: "not measured" if across != "networks" else "no such layer" for row in rows}
    first_reason = ""
    parts: list[Parts] = []
    layer_kinds: list[str] = []
    for layer in responses.layers:
        name = row_name(layer.facts, across)
        if reason := why_not_measurable(responses, layer, filter, kind):
            reasons[name] = reason
            first_reason = first_reason or reason
            continue
        members[name].append(len(parts))
        parts.append(curve_parts(layer_curves(responses, layer, [filter], spec), filter, kind))
        layer_kinds.append(layer.facts.kind)
    present = np.array([bool(members[row.name]) for row in rows])
    membership = np.zeros((len(rows), len(parts)))
    for own, row in zip(membership, rows, strict=True):
        own[members[row.name]] = 1 / max(len(members[row.name]), 1)
    merged = {name: mean_parts([parts[index] for index in own]) for name, own in members.items() if own}
    entries = tuple(
        _entry(row.name, label, merged.get(row.name), spec, reasons[row.name], len(members[row.name])) for row in rows
    )
    return ColumnScores(
        num_images=responses.num_images,
        reason=first_reason,
        entries=entries,
        scores=np.array([entry.score or 0.0 for entry in entries]),
        present=present,
        images=tuple(_images(own) for own in zip(*merged.values(), strict=True)),
        layer_scores=np.array([_value(own) for own in parts]),
        layer_kinds=tuple(layer_kinds),
        membership=membership,
    )


def _value(parts: Parts) -> float:
    return sum(sign * curve.estimand.estimate(curve.q, curve.z) for sign, curve in parts)


def mean_parts(parts: Sequence[Parts]) -> Parts:
    """Average scores of the same images: they share z, so the mean is the score of the mean q and reference."""
    return [
        (
            own[0][0],
            Curve(
                estimand=replace(own[0][1].estimand, reference=float(np.mean([c.estimand.reference for _, c in own]))),
                q=np.mean([curve.q for _, curve in own], axis=0),
                z=own[0][1].z,
                changed=np.any([curve.changed for _, curve in own], axis=0),
            ),
        )
        for own in zip(*parts, strict=True)
    ]


def _images(parts: Sequence[tuple[int, Curve]]) -> _Images:
    return _Images(
        sign=parts[0][0],
        estimands=tuple(curve.estimand for _, curve in parts),
        q=np.stack([curve.q for _, curve in parts]),
        z=parts[0][1].z,
    )


def _entry(row: str, column: str, parts: Parts | None, spec: ScoreSpec, reason: str, num_layers: int) -> Entry:
    if parts is None:
        return Entry(
            row=row,
            column=column,
            score=None,
            low=None,
            high=None,
            call=None,
            certainty="not measurable",
            reason=reason,
            num_layers=0,
        )
    value, _, (low, high) = estimate_parts(parts, spec.level)
    call, *ends = (CALLS[code] for code in call_codes(np.array([value, low, high]), spec.tolerance))
    return Entry(
        row=row,
        column=column,
        score=value,
        low=low,
        high=high,
        call=call,
        certainty="decided" if set(ends) == {call} else "leaning",
        reason="",
        num_layers=num_layers,
    )
