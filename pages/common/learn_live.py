"""Steps that ask a network while somebody waits; the network itself is made first, if it is not there."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import streamlit as st

from fss_core import summaries
from fss_core.data import DATASETS
from fss_core.figures.areas import area_alt, area_figure, calls_alt, calls_figure
from fss_core.figures.attacks import attack_alt, attack_figure, sweep_alt, sweep_figure
from fss_core.figures.curves import histogram_alt, histogram_figure, response_alt, response_figure
from fss_core.live import (
    AttackRequest,
    Filtered,
    LayersRequest,
    LiveError,
    RespondRequest,
    SweepRequest,
    join_responses,
    live_here,
)
from fss_core.responses import Responses
from fss_core.specs import CONTROL_FILTER, NETWORKS, SYNAPTIC_FILTERS, Filter, ScoreSpec
from fss_core.store import Store
from fss_core.stories import fields as said
from fss_core.stories.needs import Ready, find_ready, network_request
from pages.common import learn, progress
from pages.common.frame import is_dark, plain
from pages.common.learn import Place
from pages.common.progress import Verb

PREPARE = Verb(ask="Train the network of this story", doing="Training", done="Trained")

_NUM_DRAWS = 3


def draw(store: Store, place: Place) -> dict[str, str] | None:
    """Draw the step's control and figure.

    Returns:
        What its texts name; ``None`` while the network is not there, or cannot be asked.
    """
    ready = find_ready(store, place.story)
    if ready is None:
        prepare(store, place)
        return None
    live_here().start()
    try:
        return _DRAWN[place.step.show](place, ready)
    except LiveError as error:
        st.error(plain(str(error)))
        st.button("Try again", key="learn_again")
        return None


def prepare(store: Store, place: Place) -> None:
    """Offer to make the network, and show how far that is."""
    request, story = network_request(place.story), place.story
    network, dataset = NETWORKS.get(story.network, story.network), DATASETS.get(story.dataset, story.dataset)
    st.markdown(
        f"This step asks a trained network, which is not on this machine yet: {plain(network)} on {plain(dataset)}, "
        f"epoch {story.epoch}. It is made once, for all stories and views, from data that come with the packages; no "
        "network connection is needed."
    )
    run = progress.find_run(store, request)
    plan = progress.offer(store, request, run, st.container(), PREPARE)
    progress.strip(store, request, run, plan, PREPARE)


# Asking ---------------------------------------------------------------------------------------------------


def _epsilon(place: Place, ready: Ready) -> float:
    own = float(place.step.settings["epsilon"])
    return ready.epsilon if own < 0 else own / 255


def respond(place: Place, ready: Ready, layer: str, filters: tuple[Filter, ...]) -> Responses:
    """Ask for the response of a layer, row by row, so that no question takes long."""
    settings = place.step.settings
    rows = [(name, draw) for name in filters for draw in range(_NUM_DRAWS if name == CONTROL_FILTER else 1)]
    parts = []
    with st.spinner(f"Filtering {plain(layer)} …"):
        for name, own in rows:
            parts.append(
                live_here().ask(
                    RespondRequest(
                        network=ready.network,
                        layer=layer,
                        filter=name,
                        draw=own,
                        num_thresholds=int(settings["thresholds"]),
                        epsilon=ready.epsilon,
                        num_images=int(settings["images"]),
                    )
                )
            )
    return join_responses(parts)


def _choose_layer(place: Place, ready: Ready) -> str:
    """Let a layer be chosen, if that is the step's control."""
    layer = str(place.step.settings["layer"])
    if place.step.settings["control"] != "layer":
        return layer
    layers = live_here().ask(LayersRequest(network=ready.network))
    return learn.pick(place, "Layer, from input to output", layers.names, layer)


def _choose_threshold(place: Place, default: int) -> int:
    last = int(place.step.settings["thresholds"]) - 1
    if place.step.settings["control"] != "threshold":
        return min(default, last)
    return learn.slide(
        place,
        "Threshold, from the smallest weight (0) to the largest (1)",
        range(last + 1),
        lambda k: f"{k / last:.2f}",
        min(default, last),
    )


# Steps ----------------------------------------------------------------------------------------------------


def _attack(place: Place, ready: Ready) -> dict[str, str]:
    settings = place.step.settings
    num_images, epsilon = int(settings["images"]), _epsilon(place, ready)
    filtered = None
    if settings["layer"]:
        k = _choose_threshold(place, int(settings["threshold"]))
        filtered = Filtered(
            layer=str(settings["layer"]),
            filter=cast(Filter, settings["filter"]),
            k=k,
            num_thresholds=int(settings["thresholds"]),
        )
    index = int(settings["image"])
    if settings["control"] == "image":
        index = learn.slide(place, "Image", range(num_images), lambda own: f"{own + 1}", max(index, 0))
    if index < 0:
        first = AttackRequest(network=ready.network, epsilon=ready.epsilon, index=0, num_images=num_images)
        index = said.first_fooled(live_here().ask(first))
    if settings["control"] == "epsilon":
        sizes = said.sizes_with(ready.epsilon)
        near = min(range(len(sizes)), key=lambda own: abs(sizes[own] - epsilon))
        epsilon = sizes[learn.slide(place, "Size ε of the attack", range(len(sizes)), _size_words(sizes), near)]
    with st.spinner("Attacking …"):
        answer = live_here().ask(
            AttackRequest(network=ready.network, epsilon=epsilon, index=index, num_images=num_images, filtered=filtered)
        )
    figure = attack_figure(
        answer.clean,
        answer.adversarial,
        answer.probabilities,
        ready.class_names,
        answer.label,
        scale=said.perturbation_scale(epsilon),
        dark=is_dark(),
    )
    alt = attack_alt(answer.probabilities, ready.class_names, answer.label, epsilon, said.largest_change(answer))
    learn.draw(figure, "attack", alt)
    return said.attack_fields(answer, ready, epsilon, None if filtered is None else filtered.position)


def _size_words(sizes: tuple[float, ...]) -> Callable[[int], str]:
    return lambda own: said.epsilon_words(sizes[own])


def _sweep(place: Place, ready: Ready) -> dict[str, str]:
    sizes = said.sizes_with(ready.epsilon)
    near = min(range(len(sizes)), key=lambda own: abs(sizes[own] - ready.epsilon))
    chosen = learn.slide(place, "Size ε of the attack", range(len(sizes)), _size_words(sizes), near)
    with st.spinner("Attacking …"):
        sweep = live_here().ask(
            SweepRequest(network=ready.network, epsilons=sizes, num_images=int(place.step.settings["images"]))
        )
    accuracies = said.sweep_accuracies(sweep)
    figure = sweep_figure(
        sizes, accuracies, chance=ready.chance, chosen=chosen, calibrated=ready.epsilon, dark=is_dark()
    )
    learn.draw(figure, "sweep", sweep_alt(sizes, accuracies))
    return said.sweep_fields(sweep, ready, chosen)


def _filter(place: Place, ready: Ready) -> dict[str, str]:
    settings = place.step.settings
    layer, name = _choose_layer(place, ready), cast(Filter, settings["filter"])
    k = _choose_threshold(place, 0 if settings["control"] == "layer" else int(settings["thresholds"]) // 2)
    responses = respond(place, ready, layer, (name, *((CONTROL_FILTER,) if settings["random"] else ())))
    facts = responses.layers[0].facts
    removed = summaries.removed_weights(facts, responses.rows, name, k)
    curves = summaries.response_curves(responses, layer, name, ScoreSpec())
    control = summaries.control_band(responses, layer)
    histogram = histogram_figure(facts, removed, dark=is_dark())
    learn.draw(histogram, "histogram", histogram_alt(facts, removed), height=215)
    figure = response_figure(curves, control, dark=is_dark(), threshold_index=k)
    learn.draw(figure, "curves", response_alt(curves), height=380)
    return said.filter_fields(ready, curves, control, removed, k)


def _area(place: Place, ready: Ready) -> dict[str, str]:
    settings = place.step.settings
    layer, name, kind = (str(settings[own]) for own in ("layer", "filter", "kind"))
    k = _choose_threshold(place, int(settings["thresholds"]) // 2)
    responses = respond(place, ready, layer, (cast(Filter, name),))
    area = summaries.score_area(responses, layer, name, kind, ScoreSpec())  # type: ignore[arg-type]
    learn.draw(area_figure(area, threshold_index=k, dark=is_dark()), "area", area_alt(area, k))
    return said.area_fields(ready, summaries.response_curves(responses, layer, name, ScoreSpec()), area, k)


_TOLERANCES = tuple(range(0, 305, 5))
"""In thousandths."""


def _calls(place: Place, ready: Ready) -> dict[str, str]:
    settings = place.step.settings
    num_images, tolerance = int(settings["images"]), float(settings["tolerance"])
    layer, name, kind = _choose_layer(place, ready), str(settings["filter"]), str(settings["kind"])
    if settings["control"] == "tolerance":
        chosen = learn.slide(place, "Tolerance η", _TOLERANCES, lambda own: f"{own / 1000:g}", round(1000 * tolerance))
        tolerance = chosen / 1000
    if settings["control"] == "images":
        options = [own for own in (50, 75, 100, 150, 200, 300, 400) if own < num_images] + [num_images]
        num_images = learn.slide(place, "Images n", options, str, num_images)
    filters = (*SYNAPTIC_FILTERS, *((CONTROL_FILTER,) if settings["random"] else ()))
    responses = respond(place, ready, layer, filters)
    calls = said.layer_calls(responses, name, kind, tolerance, num_images)
    figure = calls_figure(calls.scores, calls.titles, tolerance, dark=is_dark())
    learn.draw(figure, "calls", calls_alt(calls.scores, calls.titles, tolerance))
    return said.calls_fields(ready, calls, tolerance, kind)


_DRAWN: dict[str, Callable[[Place, Ready], dict[str, str]]] = {
    "attack": _attack,
    "sweep": _sweep,
    "filter": _filter,
    "area": _area,
    "calls": _calls,
}
