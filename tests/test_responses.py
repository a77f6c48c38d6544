"""Responses: against the plain loops of reference.py, and what they may and may not depend on."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import reference
import torch
from networks import (
    IMAGE_SHAPE,
    NUM_CLASSES,
    MeanBrightness,
    Plain,
    make_branches,
    make_images,
    make_plain,
    on_every_device,
    snapshot,
    unsettle,
)
from torch import Tensor, nn

from fss_core import attacks, engines, measuring
from fss_core.attacks import attack, run_attack
from fss_core.engines import make_engine
from fss_core.measuring import Measurer, measure_responses
from fss_core.models import describe_layers
from fss_core.responses import LayerResponse, Predictions, Responses
from fss_core.specs import (
    GLOBAL_LAYER,
    SYNAPTIC_FILTERS,
    AttackSpec,
    FilterRow,
    NotFiniteError,
    ResponseSpec,
    UnknownLayerError,
    UnknownNameError,
)

EPSILON = 16 / 255
NUM_THRESHOLDS = 5
ADAPTIVE = AttackSpec(epsilon=EPSILON, mode="adaptive")

both_engines = pytest.mark.parametrize("engine", ["fast", "reference"])


@pytest.fixture(scope="module")
def plain() -> nn.Module:
    return make_plain()


@pytest.fixture(scope="module")
def images() -> tuple[Tensor, Tensor]:
    return make_images(14)


@pytest.fixture(scope="module")
def adversarial(plain: nn.Module, images: tuple[Tensor, Tensor]) -> Tensor:
    return attack(plain, *images, epsilon=EPSILON)


def same(one: Predictions, other: Predictions) -> bool:
    if one.zero_gradient is None or other.zero_gradient is None:
        gradients_agree = one.zero_gradient is other.zero_gradient
    else:
        gradients_agree = np.array_equal(one.zero_gradient, other.zero_gradient)
    return (
        gradients_agree
        and np.array_equal(one.clean, other.clean)
        and np.array_equal(one.adversarial, other.adversarial)
    )


def same_responses(one: Responses, other: Responses) -> bool:
    return same(one.unfiltered, other.unfiltered) and all(
        same(a.predictions, b.predictions) for a, b in zip(one.layers, other.layers, strict=True)
    )


def cells(responses: Responses) -> Iterator[tuple[tuple[str, str, int], tuple[list[int], list[int]]]]:
    for layer, (index, row), k in itertools.product(
        responses.layers, enumerate(responses.rows), range(responses.spec.num_thresholds)
    ):
        own = layer.predictions
        yield (layer.facts.name, row.filter, k), (own.clean[index, k].tolist(), own.adversarial[index, k].tolist())


# Against the reference ------------------------------------------------------------------------------------


@both_engines
def test_frozen_responses_equal_the_reference(
    engine: Any, plain: nn.Module, images: tuple[Tensor, Tensor], adversarial: Tensor
) -> None:
    got = measure_responses(plain, *images, adversarial, num_thresholds=NUM_THRESHOLDS, engine=engine)
    layers = ["first", "second", "classifier"]
    expected = reference.accuracy_responses(plain, *images, adversarial, layers, SYNAPTIC_FILTERS, NUM_THRESHOLDS)
    assert dict(cells(got)) == expected
    assert (got.unfiltered.clean.tolist(), got.unfiltered.adversarial.tolist()) == (
        reference.predictions(plain, images[0]),
        reference.predictions(plain, adversarial),
    )
    assert got.attack is None
    assert got.unfiltered.zero_gradient is None
    assert len({row.tobytes() for layer in got.layers for row in layer.predictions.clean[0]}) > NUM_THRESHOLDS


@both_engines
def test_adaptive_responses_attack_the_filtered_network(
    engine: Any, plain: nn.Module, images: tuple[Tensor, Tensor]
) -> None:
    got = measure_responses(plain, *images, num_thresholds=NUM_THRESHOLDS, engine=engine, attack=ADAPTIVE)

    def attack_network(network: nn.Module, pixels: Tensor, labels: Tensor) -> Tensor:
        return reference.fgsm(network, pixels, labels, EPSILON)

    layers = ["first", "second", "classifier"]
    expected = reference.accuracy_responses(plain, *images, attack_network, layers, SYNAPTIC_FILTERS, NUM_THRESHOLDS)
    frozen = reference.accuracy_responses(
        plain, *images, attack_network(plain, *images), layers, SYNAPTIC_FILTERS, NUM_THRESHOLDS
    )
    assert dict(cells(got)) == expected
    assert expected != frozen  # else the test could not tell which network was attacked
    assert got.attack == ADAPTIVE


@both_engines
def test_zero_gradients_of_every_filtered_network_equal_the_reference(
    engine: Any, plain: nn.Module, images: tuple[Tensor, Tensor]
) -> None:
    got = measure_responses(plain, *images, num_thresholds=NUM_THRESHOLDS, engine=engine, attack=ADAPTIVE)
    assert got.unfiltered.zero_gradient is not None
    assert got.unfiltered.zero_gradient.tolist() == reference.zero_gradient_images(plain, *images)
    shares = []
    for layer, (index, row), k in itertools.product(got.layers, enumerate(got.rows), range(NUM_THRESHOLDS)):
        filtered = reference.filtered_network(plain, [layer.facts.name], row.filter, k, NUM_THRESHOLDS)
        assert layer.predictions.zero_gradient is not None
        found = layer.predictions.zero_gradient[index, k].tolist()
        assert found == reference.zero_gradient_images(filtered, *images)
        shares.append(np.mean(found))
    assert {0.0, 1.0} <= set(shares)


@both_engines
@pytest.mark.parametrize("mode", ["frozen", "adaptive"])
def test_global_responses_equal_the_reference(
    engine: Any, mode: str, plain: nn.Module, images: tuple[Tensor, Tensor], adversarial: Tensor
) -> None:
    frozen = mode == "frozen"
    got = measure_responses(
        plain,
        *images,
        adversarial if frozen else None,
        attack=None if frozen else ADAPTIVE,
        num_thresholds=9,
        engine=engine,
        scope="global",
    )

    def attack_network(network: nn.Module, pixels: Tensor, labels: Tensor) -> Tensor:
        return reference.fgsm(network, pixels, labels, EPSILON)

    expected = reference.global_accuracy_responses(
        plain, *images, adversarial if frozen else attack_network, list(describe_layers(plain, IMAGE_SHAPE)),
        SYNAPTIC_FILTERS, 9,
    )  # fmt: skip
    assert {(name, k): value for (_, name, k), value in cells(got)} == expected
    (layer,) = got.layers
    geometry = describe_layers(plain, IMAGE_SHAPE).values()
    assert (layer.facts.name, layer.facts.kind) == (GLOBAL_LAYER, "all")
    assert layer.facts.num_weights == sum(own.layer.num_weights for own in geometry)
    assert layer.facts.thresholds.size == layer.facts.histogram.size == 0
    kept = [
        [sum(int(reference.keep_mask(own.weight, name, k, 9).sum()) for own in geometry) for k in range(9)]
        for name in SYNAPTIC_FILTERS
    ]
    assert layer.facts.num_kept.tolist() == kept
    assert got.to_dataframe()["threshold"].isna().all()


def test_branches_equal_the_reference_where_a_module_is_shared() -> None:
    model, (pixels, labels) = make_branches(), make_images(6)
    layers = ["shared", "single", "depthwise"]
    got = measure_responses(model, pixels, labels, pixels.flip(0), layers=layers, num_thresholds=3)
    expected = reference.accuracy_responses(model, pixels, labels, pixels.flip(0), layers, SYNAPTIC_FILTERS, 3)
    assert dict(cells(got)) == expected


# What a response depends on -------------------------------------------------------------------------------


@both_engines
@pytest.mark.parametrize("mode", ["frozen", "adaptive"])
@pytest.mark.parametrize("kind", ["fgsm", "pgd"])
def test_neither_chunk_size_nor_order_matter(engine: Any, mode: str, kind: str, plain: nn.Module) -> None:
    pixels, labels = make_images(20)
    spec = AttackSpec(epsilon=EPSILON, kind=kind, mode=mode, steps=2, seed=3)  # type: ignore[arg-type]
    adversarial = attacks.run_attack(plain, pixels, labels, spec).pixels

    def measure(order: Tensor, chunk_size: int | None = None) -> Responses:
        how = {"adversarial": adversarial[order]} if mode == "frozen" else {"attack": spec}
        return measure_responses(
            plain,
            pixels[order],
            labels[order],
            layers=["first", "classifier"],
            num_thresholds=4,
            engine=engine,
            chunk_size=chunk_size,
            **how,  # type: ignore[arg-type]
        )

    straight = torch.arange(20)
    shuffled = torch.randperm(20, generator=torch.Generator().manual_seed(1))
    whole = measure(straight)
    assert same_responses(whole, measure(straight, 1 if mode == "frozen" else 3))
    assert same_responses(whole, measure(straight, 7))
    moved = measure(shuffled, 6)
    assert moved.labels.tolist() == whole.labels[shuffled.numpy()].tolist()
    for a, b in zip(whole.layers, moved.layers, strict=True):
        assert np.array_equal(a.predictions.clean[..., shuffled.numpy()], b.predictions.clean)
        assert np.array_equal(a.predictions.adversarial[..., shuffled.numpy()], b.predictions.adversarial)


@both_engines
@pytest.mark.parametrize("mode", ["frozen", "adaptive"])
@pytest.mark.parametrize("scope", ["local", "global"])
def test_the_model_and_the_images_stay_as_they_were(engine: Any, mode: str, scope: Any) -> None:
    model, (pixels, labels) = unsettle(make_branches(), hooks=engine == "reference"), make_images(5)
    before, given = snapshot(model), (pixels.clone(), labels.clone())
    state = torch.get_rng_state()
    how = {"adversarial": pixels.clone()} if mode == "frozen" else {"attack": ADAPTIVE}
    measure_responses(model, pixels, labels, num_thresholds=2, engine=engine, scope=scope, **how)  # type: ignore[arg-type]
    assert snapshot(model) == before
    assert torch.equal(pixels, given[0])
    assert torch.equal(labels, given[1])
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.is_grad_enabled()


def test_the_model_is_measured_in_eval_mode(images: tuple[Tensor, Tensor], adversarial: Tensor) -> None:
    responses = [
        measure_responses(make_plain().train(mode), *images, adversarial, num_thresholds=2, layers=["first"])
        for mode in (True, False)
    ]
    assert same_responses(*responses)


def test_adversarial_images_of_one_s_own_are_taken_as_they_are(plain: nn.Module, images: tuple[Tensor, Tensor]) -> None:
    pixels, labels = images
    got = measure_responses(plain, pixels, labels, pixels.flip(0), num_thresholds=3, layers=["second"])
    assert np.array_equal(got.layers[0].predictions.clean[..., ::-1], got.layers[0].predictions.adversarial)


# Filters and rows -----------------------------------------------------------------------------------------


def test_rows_are_filters_in_order_and_three_draws_of_the_control(
    plain: nn.Module, images: tuple[Tensor, Tensor], adversarial: Tensor
) -> None:
    def measure(**how: Any) -> Responses:
        return measure_responses(plain, *images, adversarial, num_thresholds=NUM_THRESHOLDS, **how)

    got = measure(filters=("pulse", "random", "high_pass"))
    draws = [FilterRow(filter="random", draw=draw) for draw in range(3)]
    assert got.rows == (FilterRow(filter="pulse"), *draws, FilterRow(filter="high_pass"))
    paper = measure()
    for own, other in zip(got.layers, paper.layers, strict=True):
        assert own.predictions.clean.shape == (5, NUM_THRESHOLDS, 14)
        assert same(own.predictions.rows(0, 1), other.predictions.rows(2, 3))
        assert same(own.predictions.rows(4, 5), other.predictions.rows(0, 1))
        assert (own.facts.num_kept[1:4] == own.facts.num_kept[4]).all()
    assert same_responses(got, measure(filters=("pulse", "random", "high_pass")))
    assert not same_responses(got, measure(filters=("pulse", "random", "high_pass"), seed=1))
    second = got.layers[1].predictions.clean
    assert len({second[row].tobytes() for row in (1, 2, 3)}) == 3


@both_engines
def test_the_control_equals_networks_filtered_by_hand(
    engine: Any, plain: nn.Module, images: tuple[Tensor, Tensor], adversarial: Tensor
) -> None:
    """And does not depend on which other layers are measured."""
    alone = measure_responses(
        plain, *images, adversarial, filters=("random",), num_thresholds=4, layers=["second"], engine=engine
    )
    among = measure_responses(plain, *images, adversarial, filters=("high_pass", "random"), num_thresholds=4)
    assert same(alone.layers[0].predictions, among.layers[1].predictions.rows(1, 4))
    filters = Measurer(plain, IMAGE_SHAPE, alone.spec, layers=["second"]).filters_of("second").filters["second"]
    for (index, row), k in itertools.product(enumerate(alone.rows), range(4)):
        network = make_plain()
        with torch.no_grad():
            network.get_parameter("second.weight").copy_(filters.apply(filters.removal(row, k)))
        assert alone.layers[0].predictions.clean[index, k].tolist() == reference.predictions(network, images[0])


def test_facts_equal_the_reference(plain: nn.Module, images: tuple[Tensor, Tensor], adversarial: Tensor) -> None:
    got = measure_responses(plain, *images, adversarial, num_thresholds=NUM_THRESHOLDS)
    geometry = describe_layers(plain, IMAGE_SHAPE)
    for response, (name, own) in zip(got.layers, geometry.items(), strict=True):
        facts = response.facts
        assert (facts.name, facts.kind, facts.relative_depth, facts.num_weights, facts.num_live) == (
            name,
            own.layer.kind,
            own.layer.relative_depth,
            own.layer.num_weights,
            own.layer.num_live,
        )
        assert facts.thresholds.tolist() == reference.thresholds(own.weight, NUM_THRESHOLDS)
        assert facts.histogram.sum() == facts.num_weights
        for (index, row), k in itertools.product(enumerate(got.rows), range(NUM_THRESHOLDS)):
            mask = reference.keep_mask(own.weight, row.filter, k, NUM_THRESHOLDS)
            assert facts.num_kept[index, k] == int(mask.sum())
            assert facts.num_live_kept[index, k] == int((mask & own.live & (own.weight != 0)).sum())
            assert facts.changes[index, k] == bool((~mask & own.live & (own.weight != 0)).any())
            assert facts.kept_fraction[index, k] == reference.kept_fraction(own.weight, row.filter, k, NUM_THRESHOLDS)


# Work that is not done ------------------------------------------------------------------------------------


class CountingEngine:
    """An engine that counts the networks it runs."""

    def __init__(self, engine: engines.Engine) -> None:
        self.engine = engine
        self.num_classes = engine.num_classes
        self.num_networks = 0

    def prepare(self, pixels: Tensor, layers: Collection[str]) -> engines.Prepared:
        prepared, counter = self.engine.prepare(pixels, layers), self

        class Counting:
            def logits(self, weights: Mapping[str, Tensor]) -> Tensor:
                return prepared.logits(weights)

            def predict(self, weights: Mapping[str, Tensor]) -> Tensor:
                counter.num_networks += 1
                return prepared.predict(weights)

            def network(self, weights: Mapping[str, Tensor]) -> AbstractContextManager[nn.Module]:
                return prepared.network(weights)

        return Counting()


@pytest.fixture
def counters(monkeypatch: pytest.MonkeyPatch) -> list[CountingEngine]:
    made: list[CountingEngine] = []
    make = engines.make_engine

    def make_counting(*args: Any, **settings: Any) -> CountingEngine:
        made.append(CountingEngine(make(*args, **settings)))
        return made[-1]

    monkeypatch.setattr(measuring, "make_engine", make_counting)
    return made


@pytest.mark.parametrize("mode", ["frozen", "adaptive"])
def test_filters_that_leave_the_same_weights_are_run_once_and_those_that_remove_none_not_at_all(
    mode: str, counters: list[CountingEngine]
) -> None:
    """Weights are −1 and 1: there is nothing but without the −1s, without the 1s, and without any.

    What FGSM sees first are the clean images, so that attacking anew predicts only the attacked ones besides.
    """
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, NUM_CLASSES))
    with torch.no_grad():
        model[1].weight.copy_(torch.where(torch.arange(192 * NUM_CLASSES).view(NUM_CLASSES, 192) % 3 == 0, -1.0, 1.0))
    pixels, labels = make_images(6)
    how = {"adversarial": pixels.flip(0)} if mode == "frozen" else {"attack": ADAPTIVE}
    got = measure_responses(model, pixels, labels, num_thresholds=NUM_THRESHOLDS, **how)  # type: ignore[arg-type]
    (counter,) = counters
    assert counter.num_networks == 1 + 3
    assert got.layers[0].facts.changes.sum(1).tolist() == [5, 5, 2]
    unchanged = got.layers[0].predictions.rows(2, 3)
    assert unchanged.clean[0, 2].tolist() == got.unfiltered.clean.tolist()
    assert unchanged.adversarial[0, 2].tolist() == got.unfiltered.adversarial.tolist()


# Arithmetic -----------------------------------------------------------------------------------------------


def test_bf16_predicts_as_autocast_does_and_attacks_in_float32() -> None:
    model, (pixels, labels) = make_plain(), make_images(12)
    seen: set[tuple[bool, torch.dtype]] = set()
    hook = next(own for own in model.modules() if isinstance(own, nn.Linear)).register_forward_hook(
        lambda module, given, logits: seen.add((torch.is_grad_enabled(), logits.dtype))
    )
    how: dict[str, Any] = {"num_thresholds": 3, "engine": "reference", "attack": ADAPTIVE}
    got = measure_responses(model, pixels, labels, **how, arithmetic="bf16")
    assert (False, torch.bfloat16) in seen
    assert {dtype for with_gradient, dtype in seen if with_gradient} == {torch.float32}
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert got.unfiltered.clean.tolist() == model(pixels).argmax(1).tolist()
    assert got.spec.arithmetic == "bf16"
    seen.clear()
    measure_responses(model, pixels, labels, **how)
    hook.remove()
    assert {dtype for _, dtype in seen} == {torch.float32}


@pytest.mark.parametrize("engine", ["fast", "reference"])
def test_clean_predictions_are_in_the_same_arithmetic_whatever_is_attacked(engine: str) -> None:
    model, (pixels, labels) = make_plain(), make_images(40)
    how: dict[str, Any] = {"num_thresholds": 5, "engine": engine, "arithmetic": "bf16"}
    frozen = measure_responses(model, pixels, labels, pixels, **how)
    anew = measure_responses(model, pixels, labels, attack=ADAPTIVE, **how)
    exact = measure_responses(model, pixels, labels, pixels, **how | {"arithmetic": "float32"})
    differ = 0
    for short, own, full in zip(frozen.layers, anew.layers, exact.layers, strict=True):
        same = short.predictions.clean == own.predictions.clean
        if engine == "reference":
            assert same.all()
        assert same.mean() > 0.95  # products of other shapes may add up in another order
        differ += int((short.predictions.clean != full.predictions.clean).sum())
    assert 0 < differ < 0.1 * sum(own.predictions.clean.size for own in exact.layers)


@pytest.mark.parametrize("arithmetic", ["float32", "bf16"])
@both_engines
def test_engines_are_made_and_attacks_run_in_float32(
    engine: Any, arithmetic: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where hardware has shorter floats, torch's convolutions use them unless told otherwise."""
    seen: list[tuple[bool, bool, bool]] = []

    class Watched(Plain):
        def forward(self, pixels: Tensor) -> Tensor:
            flags = (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
            seen.append((*flags, torch.is_autocast_enabled("cpu")))
            return super().forward(pixels)

    model, (pixels, labels) = Watched(), make_images(6)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    make_engine(engine, model, IMAGE_SHAPE)
    run_attack(model, pixels, labels, AttackSpec(epsilon=EPSILON))
    assert set(seen) == {(False, False, False)}
    measurer = Measurer(model, IMAGE_SHAPE, ResponseSpec(num_thresholds=2, engine=engine, arithmetic=arithmetic))
    seen.clear()
    measurer.unfiltered(pixels, pixels, None)
    # The fast engine's graph looks at nothing when it runs.
    assert set(seen) == ({(False, False, arithmetic == "bf16")} if engine == "reference" else set())
    assert torch.backends.cudnn.allow_tf32


@both_engines
@on_every_device
def test_devices_agree_and_shorter_arithmetic_decides_near_ties_only(engine: Any, device: str) -> None:
    model, (pixels, labels) = make_plain(), make_images(40)
    images = pixels, labels, attack(model, pixels, labels, epsilon=EPSILON)
    exact = measure_responses(model, *images, num_thresholds=5, engine="reference")
    for arithmetic in ("float32", "bf16", *["tf32"] * (device == "cuda")):
        own = measure_responses(model, *images, num_thresholds=5, engine=engine, device=device, arithmetic=arithmetic)  # type: ignore[arg-type]
        differ = np.mean(
            [
                [(a.clean != b.clean).mean(), (a.adversarial != b.adversarial).mean()]
                for a, b in ((a.predictions, b.predictions) for a, b in zip(own.layers, exact.layers, strict=True))
            ]
        )
        if arithmetic == "float32":
            assert differ <= 0.001
        else:
            assert differ <= 0.1
            assert differ > 0 or arithmetic == "tf32"


def test_tf32_is_for_nvidia_gpus(images: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(ValueError, match="arithmetic 'tf32' must be on device cuda"):
        measure_responses(make_plain(), *images, images[0], arithmetic="tf32")
    with pytest.raises(ValueError, match="must be 'float32', 'tf32' or 'bf16', got 'fp8'"):
        ResponseSpec(arithmetic="fp8")  # type: ignore[arg-type]


def test_filters_of_dead_weights_are_not_run(counters: list[CountingEngine]) -> None:
    class Dead(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1, bias=False)
            with torch.no_grad():
                self.conv.weight.copy_(torch.rand(4, 3, 3, 3, generator=torch.Generator().manual_seed(0)))
                self.conv.weight[:, :, 1, 1] = 2.0

        def forward(self, pixels: Tensor) -> Tensor:
            return self.conv(pixels.mean((2, 3), keepdim=True)).flatten(1)  # type: ignore[no-any-return]

    pixels, labels = make_images(6)
    got = measure_responses(Dead(), pixels, labels % 4, pixels, num_thresholds=NUM_THRESHOLDS)
    (counter,) = counters
    facts = got.layers[0].facts
    assert facts.num_live == 12
    assert counter.num_networks == 1 + 1  # all 2.0 gone: by the last high-pass and pulse, and every low-pass
    assert facts.changes.tolist() == [[False] * 4 + [True], [True] * 5, [False] * 4 + [True]]
    assert (facts.kept_fraction < 1).any(axis=1).all()


def test_every_chunk_is_run_once(
    counters: list[CountingEngine], plain: nn.Module, images: tuple[Tensor, Tensor], adversarial: Tensor
) -> None:
    def num_networks(chunk_size: int) -> int:
        measure_responses(plain, *images, adversarial, num_thresholds=3, layers=["first"], chunk_size=chunk_size)
        return counters[-1].num_networks

    assert num_networks(7) == 2 * num_networks(14)


# Measuring piece by piece ---------------------------------------------------------------------------------


def test_layers_are_handed_over_in_network_order_as_they_are_done(
    plain: nn.Module, images: tuple[Tensor, Tensor], adversarial: Tensor
) -> None:
    done: list[LayerResponse] = []
    got = measure_responses(
        plain,
        *images,
        adversarial,
        layers=["classifier", "first"],
        num_thresholds=2,
        chunk_size=5,
        on_layer=done.append,
    )
    assert [layer.facts.name for layer in done] == ["first", "classifier"]
    assert all(own is other for own, other in zip(done, got.layers, strict=True))
    assert done[0].predictions.num_images == 14


def test_what_on_layer_raises_stops_the_work(
    plain: nn.Module, images: tuple[Tensor, Tensor], adversarial: Tensor
) -> None:
    def stop(layer: LayerResponse) -> None:
        raise KeyboardInterrupt

    before = snapshot(plain)
    with pytest.raises(KeyboardInterrupt):
        measure_responses(plain, *images, adversarial, num_thresholds=2, on_layer=stop)
    assert snapshot(plain) == before


def test_rows_and_chunks_measured_apart_make_the_whole(
    plain: nn.Module, images: tuple[Tensor, Tensor], adversarial: Tensor
) -> None:
    pixels, labels = images
    spec = ResponseSpec(filters=("high_pass", "random"), num_thresholds=4)
    measurer = Measurer(plain, IMAGE_SHAPE, spec)
    whole = measure_responses(plain, pixels, labels, adversarial, filters=spec.filters, num_thresholds=4)
    num_networks = []
    for layer, name in zip(whole.layers, measurer.layers, strict=True):
        parts = []
        for part in (slice(0, 9), slice(9, 14)):
            unfiltered = measurer.unfiltered(pixels[part], adversarial[part], None)
            rows = [
                measurer.measure(
                    name,
                    pixels[part],
                    labels[part],
                    adversarial[part],
                    unfiltered,
                    rows=[row],
                    on_network=lambda: num_networks.append(1),
                )
                for row in measurer.rows
            ]
            parts.append(Predictions.join(rows, axis=0))
        assert same(Predictions.join(parts), layer.predictions)
        assert same(layer.predictions.images(9, 14), parts[1])
        assert np.array_equal(measurer.facts(name, measurer.rows[1:3]).num_kept, layer.facts.num_kept[1:3])
    assert len(num_networks) == 3 * 2 * 4 * 4


def test_costs_fall_with_depth_and_lie_between_nothing_and_a_whole_pass(plain: nn.Module) -> None:
    costs = Measurer(plain, IMAGE_SHAPE, ResponseSpec()).costs()
    assert list(costs) == ["first", "second", "classifier"]
    assert costs["first"] == 1 > costs["second"] > costs["classifier"] > 0
    assert Measurer(plain, IMAGE_SHAPE, ResponseSpec(scope="global")).costs() == {GLOBAL_LAYER: 1.0}


# Tables ---------------------------------------------------------------------------------------------------


COLUMNS = [
    "layer",
    "filter",
    "threshold_index",
    "threshold",
    "position",
    "kept_fraction",
    "clean_accuracy",
    "adversarial_accuracy",
    "num_images",
]


def test_the_table_has_the_columns_of_the_contract_and_a_line_per_cell(
    plain: nn.Module, images: tuple[Tensor, Tensor], adversarial: Tensor
) -> None:
    got = measure_responses(plain, *images, adversarial, num_thresholds=NUM_THRESHOLDS)
    table = got.to_dataframe()
    assert list(table.columns) == COLUMNS
    keys = list(zip(table["layer"], table["filter"], table["threshold_index"], strict=True))
    assert keys == [key for key, _ in cells(got)]
    labels = images[1].tolist()
    geometry = describe_layers(plain, IMAGE_SHAPE)
    for line, ((layer, name, k), predicted) in zip(table.to_dict("records"), cells(got), strict=True):
        weight = geometry[layer].weight
        assert line["threshold"] == reference.thresholds(weight, NUM_THRESHOLDS)[k]
        assert line["position"] == k / (NUM_THRESHOLDS - 1)
        assert line["kept_fraction"] == reference.kept_fraction(weight, name, k, NUM_THRESHOLDS)
        accuracies = [sum(a == b for a, b in zip(own, labels, strict=True)) / 14 for own in predicted]
        assert [line["clean_accuracy"], line["adversarial_accuracy"]] == pytest.approx(accuracies)
        assert line["num_images"] == 14


def test_the_table_averages_the_draws_of_the_control(
    plain: nn.Module, images: tuple[Tensor, Tensor], adversarial: Tensor
) -> None:
    got = measure_responses(plain, *images, adversarial, filters=("random", "pulse"), num_thresholds=4)
    table = got.to_dataframe()
    assert list(dict.fromkeys(table["filter"])) == ["random", "pulse"]
    assert len(table) == 3 * 2 * 4
    line = table[(table["layer"] == "second") & (table["filter"] == "random") & (table["threshold_index"] == 2)]
    right = [got.layers[1].predictions.clean[draw, 2] == got.labels for draw in range(3)]
    assert line["clean_accuracy"].item() == pytest.approx(sum(own.mean() for own in right) / 3)


def test_the_table_tells_the_share_of_zero_gradients_where_every_network_is_attacked(
    plain: nn.Module, images: tuple[Tensor, Tensor]
) -> None:
    got = measure_responses(plain, *images, attack=ADAPTIVE, num_thresholds=NUM_THRESHOLDS, layers=["classifier"])
    table = got.to_dataframe()
    assert list(table.columns) == [*COLUMNS, "zero_gradient_share"]
    removed_all = (table["kept_fraction"] == 0).to_numpy()
    assert removed_all.sum() == 2
    assert (table["zero_gradient_share"][removed_all] == 1).all()
    assert (table["zero_gradient_share"][~removed_all] < 1).any()


def test_two_layers_by_hand() -> None:
    """Logits (0, w·mean + b): once w is removed every image has logit 1 = b, and its class is that of b's sign."""
    model = MeanBrightness(scale=2.0, shift=-1.0)
    pixels = torch.tensor([0.2, 0.4, 0.6, 0.8]).reshape(4, 1, 1, 1)
    labels = torch.tensor([0, 1, 1, 1])
    got = measure_responses(model, pixels, labels, 1 - pixels, num_thresholds=3, filters=("high_pass", "low_pass"))
    table = got.to_dataframe()
    assert got.unfiltered.clean.tolist() == [0, 0, 1, 1]
    assert got.unfiltered.adversarial.tolist() == [1, 1, 0, 0]
    assert table["threshold"].tolist() == [0.0, 1.0, 2.0] * 2
    assert table["kept_fraction"].tolist() == [0.5, 0.5, 0.0, 0.0, 0.5, 0.5]
    assert table["clean_accuracy"].tolist() == [0.75, 0.75, 0.25, 0.25, 0.25, 0.25]
    assert table["adversarial_accuracy"].tolist() == [0.25] * 6
    assert got.layers[0].facts.changes.tolist() == [[False, False, True], [True, True, True]]


@both_engines
@pytest.mark.parametrize(("num_classes", "dtype"), [(256, np.uint8), (257, np.uint16)])
def test_predicted_classes_take_as_many_bytes_as_they_need(engine: Any, num_classes: int, dtype: type) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, num_classes))
    with torch.no_grad():
        model[1].bias.zero_()[-1] = 1e3
    pixels, _ = make_images(4)
    labels = torch.full((4,), num_classes - 1)
    got = measure_responses(model, pixels, labels, pixels, num_thresholds=2, engine=engine)
    for predictions in (got.unfiltered, got.layers[0].predictions):
        assert predictions.clean.dtype == predictions.adversarial.dtype == dtype
        assert (predictions.clean == num_classes - 1).all()
    assert got.num_classes == num_classes


# Cautions -------------------------------------------------------------------------------------------------


def test_cautions_name_few_classes_an_accuracy_near_chance_and_notes(
    plain: nn.Module, images: tuple[Tensor, Tensor], adversarial: Tensor
) -> None:
    sound = measure_responses(
        plain, images[0], plain(images[0]).argmax(1), adversarial, num_thresholds=2, layers=["first"]
    )
    assert sound.cautions == ()
    constant = replace(sound.unfiltered, clean=np.zeros(14, dtype=np.uint8))
    labels = np.arange(14) % NUM_CLASSES
    assert replace(sound, unfiltered=constant, labels=labels, notes=("as told",)).cautions == (
        "as told",
        "the unfiltered network predicts 1 of 5 classes",
        "clean accuracy 0.214 is near chance (0.200)",
    )


# What is refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["both", "neither"])
def test_adversarial_images_and_an_attack_exclude_each_other(
    how: str, plain: nn.Module, images: tuple[Tensor, Tensor], adversarial: Tensor
) -> None:
    given = {"adversarial": adversarial, "attack": ADAPTIVE} if how == "both" else {}
    with pytest.raises(ValueError, match=r"^give either adversarial images \(frozen\) or attack=[^\n]*$"):
        measure_responses(plain, *images, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"layers": ["first", "conv9"]}, UnknownLayerError, r"'conv9'; choose from first, second, classifier$"),
        ({"filters": ("band",)}, UnknownNameError, r"^no filter 'band'"),
        ({"filters": ()}, ValueError, r"^filters must name"),
        ({"num_thresholds": 1}, ValueError, r"^num_thresholds must be at least 2 and at most 10000, got 1$"),
        ({"engine": "slow"}, ValueError, r"^engine must be .*'slow'$"),
        ({"scope": "all"}, ValueError, r"^scope must be .*'all'$"),
        ({"chunk_size": 0}, ValueError, r"^chunk_size must be at least 1, got 0$"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    settings: dict[str, Any],
    error: type[Exception],
    message: str,
    plain: nn.Module,
    images: tuple[Tensor, Tensor],
    adversarial: Tensor,
) -> None:
    with pytest.raises(error, match=message) as caught:
        measure_responses(plain, *images, adversarial, **settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y, z: (x * 255, y, z), r"^pixels must lie in \[0, 1\]"),
        (lambda x, y, z: (x, y, z - 1), r"must lie in \[0, 1\]"),
        (lambda x, y, z: (x, y, z[:-1]), r"must be "),
        (lambda x, y, z: (x, y, z[..., :-1]), r"^adversarial must have the shape of pixels \(14, 3, 8, 8\), got"),
        (lambda x, y, z: (x, y + 1, z), r"^labels must lie in 0 … 4 .*got 1 … 5$"),
        (lambda x, y, z: (x, y - 1, z), r"^labels must lie in 0 … 4 .*got -1 … 3$"),
        (lambda x, y, z: (x, y[:-1], z), r"^labels must be 14 integers"),
    ],
)
def test_images_and_labels_that_do_not_fit_are_refused(
    change: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]],
    message: str,
    plain: nn.Module,
    images: tuple[Tensor, Tensor],
    adversarial: Tensor,
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        measure_responses(plain, *change(*images, adversarial), num_thresholds=2)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("which", ["pixels", "adversarial"])
def test_pixels_that_are_nan_are_refused(
    which: str, plain: nn.Module, images: tuple[Tensor, Tensor], adversarial: Tensor
) -> None:
    given = {"pixels": images[0].clone(), "adversarial": adversarial.clone()}
    given[which][2, 0, 1, 1] = float("nan")
    with pytest.raises(NotFiniteError, match=r"NaN or infinity"):
        measure_responses(plain, labels=images[1], **given, num_thresholds=2)


@both_engines
@pytest.mark.parametrize("layers", [None, ["first"]])
def test_weights_that_are_nan_name_their_layer(engine: Any, layers: list[str] | None) -> None:
    model, (pixels, labels) = make_plain(), make_images(4)
    with torch.no_grad():
        model.get_parameter("second.weight")[0, 0, 0, 0] = float("nan")
    with pytest.raises(NotFiniteError, match=r"^layer 'second' has weights that are NaN or infinite"):
        measure_responses(model, pixels, labels, pixels, engine=engine, layers=layers)


@both_engines
@pytest.mark.parametrize("name", ["second.bias", "norm.weight", "norm.running_var"])
def test_other_parameters_that_are_nan_are_refused_too(engine: Any, name: str) -> None:
    model, (pixels, labels) = make_plain(), make_images(4)
    model.state_dict()[name][0] = float("nan")
    with pytest.raises(NotFiniteError, match=rf"^'{name}' holds NaN or infinity; [^\n]*$"):
        measure_responses(model, pixels, labels, pixels, engine=engine, num_thresholds=2)


def test_two_classes_are_not_near_chance_when_most_images_are_right() -> None:
    labels = np.arange(40) % 2
    classes = labels.copy()
    classes[:3] = 1 - classes[:3]
    found = Responses(
        spec=ResponseSpec(),
        attack=None,
        rows=(),
        labels=labels,
        num_classes=2,
        unfiltered=Predictions(clean=classes.astype(np.uint8), adversarial=classes.astype(np.uint8)),
        layers=(),
    )
    assert found.cautions == ()


def test_an_adaptive_measurement_says_that_it_is(plain: nn.Module, images: tuple[Tensor, Tensor]) -> None:
    attack = AttackSpec(epsilon=0.1)
    found = measure_responses(plain, *images, attack=attack, layers=["first"], num_thresholds=2)
    assert found.attack == replace(attack, mode="adaptive")
