"""Results as plain text and as JSON, for the command line."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from fss_core.flow import Measured
from fss_core.numerals import signed_interval, with_interval
from fss_core.responses import Responses
from fss_core.scores import KINDS, MEAN_FILTER, Kind, Score, Scores
from fss_core.specs import NETWORKS
from fss_core.summaries import count_calls, dead_share, letter, unfiltered_accuracy

REFERENCES = {
    "unfiltered": (
        "Reference: the unfiltered network. Robust means that the layer can be filtered without loss "
        "(it is dispensable), fragile that performance falls, antifragile that it rises."
    ),
    "retained": (
        "Reference: the fraction of weights kept. Robust means that performance falls as fast as the "
        "weights do, fragile faster, antifragile slower."
    ),
}
"""What the calls mean under each reference, in a sentence."""

_UNIT = {
    "chance": "accuracy above chance, relative to the unfiltered network's",
    "p0": "accuracy relative to the unfiltered network's",
    "none": "accuracy points (fractions)",
}


def columns(rows: Sequence[Sequence[str]], *, indent: str = "") -> list[str]:
    """Align cells under each other; the first row is the heading.

    >>> columns([["layer", "n"], ["fc", "10"]])
    ['layer  n', 'fc     10']
    """
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    return [
        indent + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def _cell(score: Score, num_images: int) -> str:
    """Write a score; with its number of images where that is not what is said beside it."""
    if score.score is None:
        return "· not measurable"
    mark = "*" if score.beyond_chance else ""
    own = "" if score.num_images == num_images else f" (n = {score.num_images})"
    return f"{letter(score)}{mark} {signed_interval(score.score, score.low, score.high)}{own}"


def _accuracy(responses: Responses, kind: Kind) -> str:
    own = unfiltered_accuracy(responses, kind)
    return with_interval(own.value, own.low, own.high, 3)


def describe_epsilon(measured: Measured) -> str:
    """Say how ε was chosen."""
    calibration = measured.calibration
    if calibration is None:
        return "as given"
    if not calibration.reached:
        return "the largest tried: near chance, PGD never takes accuracy halfway to it"
    chosen = f"calibrated with PGD on {calibration.num_images} images"
    if measured.calibrated_on:
        chosen += f", {measured.calibrated_on}"
    return chosen + ("; the smallest size tried is already enough" if len(calibration.grid) == 1 else "")


def heading(measured: Measured, scores: Scores) -> list[str]:
    """Say what was measured, on what, and how: the lines above every table of scores."""
    spec, responses = measured.spec, measured.responses
    attack = responses.attack
    assert attack is not None
    origin = "imported weights" if measured.checkpoint.origin == "imported" else f"initialisation {spec.training.seed}"
    if spec.training.subset:
        origin += f", {spec.training.subset}"
    name = NETWORKS.get(spec.training.network, spec.training.network)
    lines = [
        f"{name} on {measured.card.title}, epoch {spec.epoch}, {origin}; {spec.response.scope} filtering, "
        f"{spec.response.num_thresholds} thresholds, {spec.response.engine} engine",
        f"Attack: {attack.kind.upper()}, {attack.mode}, ε = {attack.epsilon * 255:.3g}/255 "
        f"({describe_epsilon(measured)})",
        f"Unfiltered accuracy on n = {responses.num_images} probe images, with 95 % interval: clean "
        f"{_accuracy(responses, 'clean')}, adversarial {_accuracy(responses, 'adversarial')}; "
        f"chance {1 / responses.num_classes:.3f}",
    ]
    if (dead := dead_share(responses)) is not None:
        lines.append(
            f"Dead weights (they multiply padding only): {dead.share:.1%} of {dead.num_weights:,} "
            f"in {dead.num_layers} layers"
        )
    if responses.unfiltered.zero_gradient is not None:
        share = responses.unfiltered.zero_gradient.mean()
        lines.append(
            f"Images on which the attack of the unfiltered network finds no gradient, and does nothing: {share:.1%}"
        )
    if spec.response.arithmetic != "float32":
        lines.append(
            f"Networks predict in {spec.response.arithmetic}: where two classes are nearly tied, another may win than "
            "in float32"
        )
    lines += [f"Caution: {caution}." for caution in scores.cautions]
    if measured.missing:
        total = len(measured.missing) + len(responses.layers)
        lines.append(
            f"Incomplete: {len(responses.layers)} of {total} layers are measured; `fss score` goes on with the rest."
        )
    return lines


def score_table(measured: Measured, scores: Scores, filters: Iterable[str]) -> list[str]:
    """Tabulate scores, one line per layer and filter: clean, adversarial, difference, with intervals and calls."""
    by_cell = {(row.layer, row.filter, row.kind): row for row in scores.rows}
    lines: list[str] = []
    for name in filters:
        attacked_anew = any(layer.zero_gradient_share is not None for layer in measured.responses.layers)
        own_images = any(
            own.predictions.num_images < measured.responses.num_images for own in measured.responses.layers
        )
        more = [*(["images"] if own_images else []), *(["zero gradient"] if attacked_anew else [])]
        rows = [["layer", "kind", "live", *KINDS, *more]]
        for layer in measured.responses.layers:
            facts = layer.facts
            num_images = layer.predictions.num_images
            cells = [_cell(by_cell[facts.name, name, kind], num_images) for kind in KINDS]
            if own_images:
                cells.append(str(num_images))
            if (share := layer.zero_gradient_share) is not None:
                cells.append(f"{share:.1%}")
            rows.append([facts.name, facts.kind, f"{facts.num_live / facts.num_weights:.0%}", *cells])
        title = "mean of high-pass, low-pass and pulse" if name == MEAN_FILTER else name.replace("_", "-")
        chosen = [row for row in scores.rows if row.filter == name]
        lines += ["", f"Filtering scores, {title}", *columns(rows), *_counts(scores, name), *_reasons(chosen)]
    return lines


def _counts(scores: Scores, filter: str) -> list[str]:
    table = [["", "fragile", "robust", "antifragile", "not measurable"]]
    counts = count_calls(scores, filter)
    for kind, count in counts.items():
        cells = [f"{number} decided, {count.leaning[call]} leaning" for call, number in count.decided.items()]
        table.append([kind, *cells, str(count.not_measurable)])
    return ["", *columns(table)] if any(count.total for count in counts.values()) else []


def _reasons(rows: list[Score]) -> list[str]:
    count = Counter(row.reason for row in rows if row.reason)
    return [f"Not measurable ({number} scores): {reason}." for reason, number in count.most_common(5)]


def legend(scores: Scores) -> list[str]:
    """Say what the letters, the numbers and the intervals mean: the lines below every table of scores."""
    spec = scores.spec
    together = "all together (Bonferroni)" if scores.level_per_score != spec.level else "each score by itself"
    text = (
        f"F fragile, R robust, A antifragile: decided, the whole interval lies beyond or within ±{spec.tolerance:g}; "
        f"f, r, a: leaning, it does not. * beyond chance: above the random control. Score: integral over the "
        f"threshold of {_UNIT[spec.normalise]}, minus the reference ({spec.integration}). "
        f"Interval: {spec.level * 100:g} % over images, {together}; this initialisation only."
    )
    return ["", *textwrap.wrap(REFERENCES[spec.reference], 120), *textwrap.wrap(text, 120)]


def measured_json(measured: Measured, scores: Scores) -> dict[str, Any]:
    """Put a measurement and its scores into plain JSON types."""
    responses = measured.responses
    return {
        "measurement": asdict(measured.spec),
        "key": measured.key,
        "attack": asdict(responses.attack) if responses.attack is not None else None,
        "calibration": asdict(measured.calibration) if measured.calibration is not None else None,
        "checkpoint": {
            "sha256": measured.checkpoint.sha256,
            "origin": measured.checkpoint.origin,
            "epoch": measured.checkpoint.epoch,
        },
        "dataset": {
            "name": measured.card.name,
            "title": measured.card.title,
            "fingerprints": dict(measured.card.fingerprints),
        },
        "num_images": responses.num_images,
        "cautions": list(scores.cautions),
        "missing_layers": list(measured.missing),
        "layers": [
            {
                "layer": layer.facts.name,
                "kind": layer.facts.kind,
                "relative_depth": layer.facts.relative_depth,
                "num_weights": layer.facts.num_weights,
                "num_live": layer.facts.num_live,
                "num_images": layer.predictions.num_images,
                "zero_gradient_share": layer.zero_gradient_share,
            }
            for layer in responses.layers
        ],
        "score": asdict(scores.spec),
        "level_per_score": scores.level_per_score,
        "scores": [asdict(row) for row in scores.rows],
    }
