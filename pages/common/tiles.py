"""A measurement in a row of tiles: accuracies, the attack, the calls, dead weights, and where it all comes from."""

from __future__ import annotations

from collections.abc import Iterable

import streamlit as st

from fss_core import summaries
from fss_core.explore import Picture, PictureScores, unmeasurable_reasons, zero_gradient_share
from fss_core.reports import REFERENCES, describe_epsilon
from fss_core.summaries import Accuracy, CallCounts
from pages.common.frame import escaped, plain

_ORIGINS = {
    "measured": "Measured here.",
    "imported": "Imported: measured elsewhere, scored here anew from the predictions for every image.",
    "published": "Published with this version.",
}


_ACCURACY = "Share of the probe images that the unfiltered network gets right, with Wilson's interval."
_CALLS = (
    "By the mean score of high-pass, low-pass and pulse. Fragile: below −η; robust: within ±η; antifragile: above η. "
    "Decided: the whole interval has that call; leaning: it has not."
)


def draw(picture: Picture, scores: PictureScores) -> None:
    """Draw the tiles, and what a reader must know first."""
    responses = picture.layers.responses
    attack = responses.attack
    assert attack is not None
    level = scores.layers.spec.level
    dead = summaries.dead_share(responses)
    counts = summaries.count_calls(scores.layers)
    tiles = [
        tile("Clean accuracy", *_accuracy(summaries.unfiltered_accuracy(responses, "clean", level)), _ACCURACY),
        tile(
            f"Accuracy under {attack.kind.upper()}",
            *_accuracy(summaries.unfiltered_accuracy(responses, "adversarial", level)),
            _ACCURACY,
        ),
        tile(
            "Size ε of the attack",
            f"{attack.epsilon * 255:.3g}/255",
            f"{attack.mode}; {describe_epsilon(picture.layers)}",
            "The largest change of any pixel, on [0, 1].",
        ),
        tile("Layers, clean", *_calls(counts["clean"], len(picture.previewed)), _CALLS),
        tile("Layers, adversarial", *_calls(counts["adversarial"], len(picture.previewed)), _CALLS),
    ]
    if dead is not None:
        tiles.append(
            tile(
                "Dead weights",
                f"{dead.share:.1%}",
                f"of {dead.num_weights:,} in {dead.num_layers} layers",
                "Weights that multiply padding only, at this image size: what a filter does to them changes nothing.",
            )
        )
    share = zero_gradient_share(picture)
    if share:
        tiles.append(
            tile(
                "No gradient",
                f"{share:.1%}",
                f"of {responses.num_images} images",
                "There the loss has no gradient, so the attack of the unfiltered network does nothing.",
            )
        )
    st.html(row(tiles))
    st.markdown(f"{_ORIGINS[picture.origin]} {REFERENCES[scores.layers.spec.reference]}")
    cautions = [f"Caution: {plain(caution)}." for caution in scores.layers.cautions]
    reasons = [f"Not measurable: {plain(reason)}." for reason in unmeasurable_reasons(scores.layers)]
    if reasons:
        reasons.append("A larger n, another epoch or another ε may help.")
    if cautions or reasons:
        st.warning("  \n".join(cautions + reasons))


def tile(name: str, value: str, note: str, definition: str = "") -> str:
    """Write a tile as HTML; its definition is shown where it is pointed at, or reached from the keyboard."""
    hint = f' title="{escaped(definition)}" tabindex="0"' if definition else ""
    return (
        f'<div class="fss-tile"{hint}><div class="name">{escaped(name)}</div>'
        f'<div class="value">{escaped(value)}</div><div class="note">{escaped(note)}</div></div>'
    )


def row(tiles: Iterable[str]) -> str:
    """Put tiles side by side, as HTML."""
    return f'<div class="fss-tiles">{"".join(tiles)}</div>'


def _accuracy(accuracy: Accuracy) -> tuple[str, str]:
    return (
        f"{accuracy.value:.3f}",
        f"{accuracy.level:.0%} interval {accuracy.low:.3f} to {accuracy.high:.3f}, n = {accuracy.num_images}",
    )


def _calls(counts: CallCounts, num_previewed: int) -> tuple[str, str]:
    decided = " · ".join(f"{counts.decided[call]} {call[0].upper()}" for call in counts.decided)
    leaning = " · ".join(f"{counts.leaning[call]} {call[0]}" for call in counts.leaning)
    note = f"decided; leaning {leaning}"
    if counts.not_measurable:
        note += f"; {counts.not_measurable} not measurable"
    if num_previewed:
        note += f"; {num_previewed} by a first look"
    return decided, note
