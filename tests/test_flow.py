"""From a data set to responses: every step done once, resumable, shared, and never half."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import bars
import numpy as np
import pytest
import tiny
import torch

from fss_core import attacks, data, measurement
from fss_core import flow as flow_module
from fss_core.attacks import attack
from fss_core.checkpoints import import_checkpoint
from fss_core.data import load_dataset
from fss_core.flow import Flow, Measured, Progress, find_measured
from fss_core.measuring import Measurer, measure_responses
from fss_core.responses import Predictions, Responses
from fss_core.specs import (
    AttackSpec,
    Cancelled,
    CheckpointError,
    MeasurementSpec,
    NotFiniteError,
    ResponseSpec,
    StaleResultError,
    StoreError,
    TrainingSpec,
    UnknownLayerError,
    UnknownNameError,
)
from fss_core.store import Store, leases

SPEC = MeasurementSpec(
    training=TrainingSpec(network=bars.NETWORK, dataset=bars.DATASET),
    epoch=bars.EPOCH,
    num_images=60,
    epsilon=0.1,
    response=ResponseSpec(num_thresholds=5),
)
NUM_CELLS = len(bars.LAYERS) * 3 * 5
"""Filters at thresholds of both layers: what one chunk asks for."""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bars.make_template(tmp_path_factory)


@pytest.fixture
def measured_calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[str, ...], int]]:
    """Which layer, filters and number of images were measured, one entry per batch."""
    calls: list[tuple[str, tuple[str, ...], int]] = []
    measure = Measurer.measure

    def counted(self: Measurer, name: str, pixels: torch.Tensor, *arguments: Any, **named: Any) -> Predictions:
        filters = tuple(dict.fromkeys(row.filter for row in named.get("rows") or self.rows))
        calls.append((name, filters, len(pixels)))
        return measure(self, name, pixels, *arguments, **named)

    monkeypatch.setattr(Measurer, "measure", counted)
    return calls


@contextmanager
def counted_forwards() -> Iterator[list[int]]:
    """Count the calls of every torch module, whoever makes them."""
    count = [0]

    def note(*_: Any) -> None:
        count[0] += 1

    handle = torch.nn.modules.module.register_module_forward_pre_hook(note)
    try:
        yield count
    finally:
        handle.remove()


def measure(store: Store, spec: MeasurementSpec = SPEC, **options: Any) -> Measured:
    own = {name: options.pop(name) for name in ("on_progress", "should_stop") if name in options}
    return Flow(store, factory=bars.make_network, **own).measure(spec, **options)


def assert_same(found: Responses, expected: Responses) -> None:
    assert found.rows == expected.rows
    assert [layer.facts.name for layer in found.layers] == [layer.facts.name for layer in expected.layers]
    np.testing.assert_array_equal(found.labels, expected.labels)
    pairs = [(found.unfiltered, expected.unfiltered)]
    pairs += [(a.predictions, b.predictions) for a, b in zip(found.layers, expected.layers, strict=True)]
    for own, other in pairs:
        np.testing.assert_array_equal(own.clean, other.clean)
        np.testing.assert_array_equal(own.adversarial, other.adversarial)
    for a, b in zip(found.layers, expected.layers, strict=True):
        np.testing.assert_array_equal(a.facts.num_kept, b.facts.num_kept)
        np.testing.assert_array_equal(a.facts.changes, b.facts.changes)


def in_memory(spec: MeasurementSpec, **more: Any) -> Responses:
    """The same measurement by the Python contract, without flow or store."""
    split = load_dataset(bars.DATASET).probe
    pixels, labels = split.pixels(0, spec.num_images), torch.from_numpy(np.array(split.labels[: spec.num_images]))
    network = bars.make_network(num_classes=4, num_channels=1).eval()
    assert spec.epsilon is not None
    if spec.attack_mode == "frozen":
        more["adversarial"] = attack(network, pixels, labels, kind=spec.attack_kind, epsilon=spec.epsilon)
    else:
        more["attack"] = spec.attack(spec.epsilon)
    return measure_responses(network, pixels, labels, num_thresholds=5, filters=spec.response.filters, **more)


# What is measured -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["frozen", "adaptive"])
def test_flow_measures_what_python_measures(store: Store, mode: Any) -> None:
    spec = replace(SPEC, attack_mode=mode, num_images=bars.NUM_PROBE)
    found, expected = measure(store, spec), in_memory(spec)
    assert_same(found.responses, expected)
    assert found.missing == ()
    assert found.responses.attack == AttackSpec(epsilon=0.1, mode=mode)
    assert (found.checkpoint.origin, found.card.name) == ("imported", bars.DATASET)
    # The fixture would show a mix-up of layers, thresholds or images only where predictions differ.
    assert len(np.unique(found.responses.to_dataframe()[["clean_accuracy", "adversarial_accuracy"]])) > 10
    for layer, other in zip(found.responses.layers, expected.layers, strict=True):
        if mode == "frozen":
            assert layer.predictions.zero_gradient is None
        else:
            np.testing.assert_array_equal(layer.predictions.zero_gradient, other.predictions.zero_gradient)


def test_frozen_and_adaptive_share_nothing_but_the_attacked_images(store: Store) -> None:
    frozen, adaptive = measure(store), measure(store, replace(SPEC, attack_mode="adaptive"))
    assert frozen.key != adaptive.key
    assert len(store.keys("adversarial/")) == 1
    assert not np.array_equal(
        frozen.responses.layers[1].predictions.adversarial, adaptive.responses.layers[1].predictions.adversarial
    )


def test_the_whole_network_at_once(store: Store) -> None:
    spec = replace(SPEC, response=ResponseSpec(num_thresholds=5, scope="global"))
    assert_same(measure(store, spec).responses, in_memory(spec, scope="global"))


def test_epsilon_is_calibrated_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    stages: list[str] = []
    spec = replace(SPEC, epsilon=None)
    found = measure(store, spec, on_progress=lambda now: stages.append(now.stage))
    assert "calibrate" in stages
    calibration = found.calibration
    assert calibration is not None
    assert calibration.num_images == len(load_dataset(bars.DATASET).calibration) == 30
    assert found.responses.attack == AttackSpec(epsilon=calibration.epsilon)
    assert calibration.pgd_accuracy[-1] <= calibration.target
    assert all(accuracy > calibration.target for accuracy in calibration.pgd_accuracy[:-1])
    stages.clear()
    again = measure(
        store,
        replace(spec, response=ResponseSpec(num_thresholds=4)),
        on_progress=lambda now: stages.append(now.stage),
    )
    assert again.calibration == calibration
    assert "calibrate" not in stages
    given = measure(store, replace(SPEC, epsilon=calibration.epsilon))
    assert given.calibration is None
    assert given.key == found.key


def test_imported_weights_are_measured_like_trained_ones(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.install(monkeypatch)
    monkeypatch.setattr(flow_module, "dataset_card", data.dataset_card)
    monkeypatch.setattr(measurement, "load_dataset", data.load_dataset)
    trained = TrainingSpec(network="shufflenet_v2_x1_0", dataset=tiny.NAME, batch_size=12)
    spec = replace(SPEC, training=trained, epoch=0, num_images=32, response=ResponseSpec(num_thresholds=3))
    first = Flow(store).measure(spec, layers=["fc"])
    assert first.checkpoint.origin == "trained"
    again = import_checkpoint(
        first.checkpoint.path / "weights.safetensors", network=trained.network, dataset=tiny.NAME, epoch=7, seed=5
    )
    assert again.origin == "imported"
    second = Flow(store).measure(
        replace(spec, training=TrainingSpec(network=trained.network, dataset=tiny.NAME, seed=5), epoch=7), layers=["fc"]
    )
    assert_same(second.responses, first.responses)
    assert second.responses.layers[0].predictions.clean.any()


# Going on -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_calls", [3, 20, 40, 60])
def test_an_interrupted_run_goes_on_where_it_stopped(
    store: Store, measured_calls: list[tuple[str, tuple[str, ...], int]], num_calls: int
) -> None:
    spec = replace(SPEC, num_images=bars.NUM_PROBE)
    with pytest.raises(Cancelled, match="run again to go on"):
        measure(store, spec, should_stop=bars.stop_after(num_calls))
    pieces = set(store.keys("responses/"))
    finished = sum("/layer/" in piece for piece in pieces) // 3
    begun = len(measured_calls)
    found = measure(store, spec)
    assert len(measured_calls) - begun == 2 * len(bars.LAYERS) - finished
    assert begun - finished <= 1
    assert pieces <= set(store.keys("responses/"))
    assert_same(found.responses, in_memory(spec))


def test_some_interruption_comes_after_the_first_chunk(store: Store) -> None:
    """Otherwise the test above would only ever begin again."""
    with pytest.raises(Cancelled):
        measure(store, replace(SPEC, num_images=bars.NUM_PROBE), should_stop=bars.stop_after(40))
    assert 3 <= sum("/layer/" in key for key in store.keys("responses/")) < 12


def test_an_interruption_releases_what_was_claimed(store: Store) -> None:
    with pytest.raises(Cancelled):
        measure(store, should_stop=bars.stop_after(12))
    with store.index.connect() as connection:
        assert connection.execute("SELECT count(*) FROM leases").fetchone() == (0,)


@pytest.mark.parametrize("mode", ["frozen", "adaptive"])
def test_more_images_re_use_fewer(
    store: Store, measured_calls: list[tuple[str, tuple[str, ...], int]], mode: Any
) -> None:
    few = replace(SPEC, attack_mode=mode)
    measure(store, few)
    assert [images for _, _, images in measured_calls] == [60, 60]
    measured_calls.clear()
    many = replace(few, num_images=bars.NUM_PROBE)
    found = measure(store, many)
    assert sorted((name, images) for name, _, images in measured_calls) == [
        ("conv", 20),
        ("conv", 40),
        ("fc", 20),
        ("fc", 40),
    ]
    assert_same(found.responses, in_memory(many))


def test_images_that_filtered_networks_saw_are_not_attacked_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    attacked = []
    run = attacks.run_attack

    def counted(model: Any, pixels: torch.Tensor, *arguments: Any, **named: Any) -> Any:
        attacked.append(len(pixels))
        return run(model, pixels, *arguments, **named)

    monkeypatch.setattr(attacks, "run_attack", counted)
    first = measure(store).responses.unfiltered
    grown = measure(store, replace(SPEC, num_images=bars.NUM_PROBE)).responses.unfiltered
    assert attacked == [60, 40, 20]
    np.testing.assert_array_equal(grown.adversarial[:60], first.adversarial)


def test_the_catalogue_keeps_the_most_that_was_asked_for(store: Store) -> None:
    measure(store)
    measure(store, replace(SPEC, num_images=20, response=replace(SPEC.response, filters=("random",))))
    (record,) = store.list_records()
    asked: Any = record.spec["measurement"]
    assert asked["num_images"] == 60
    assert asked["response"]["filters"] == ["high_pass", "low_pass", "pulse", "random"]


def test_fewer_images_cost_nothing(store: Store) -> None:
    measure(store, replace(SPEC, num_images=bars.NUM_PROBE))
    with counted_forwards() as forwards:
        found = [measure(store, replace(SPEC, num_images=number)) for number in (1, 60, 100, 110)]
    assert forwards == [0]
    assert_same(found[1].responses, in_memory(SPEC))
    assert [own.responses.num_images for own in found] == [1, 60, 100, 110]


def test_a_control_asked_for_later_is_all_that_is_measured(
    store: Store, measured_calls: list[tuple[str, tuple[str, ...], int]]
) -> None:
    measure(store)
    measured_calls.clear()
    response = ResponseSpec(num_thresholds=5, filters=("high_pass", "low_pass", "pulse", "random"))
    spec = replace(SPEC, response=response)
    found = measure(store, spec)
    assert measured_calls == [("conv", ("random",), 60), ("fc", ("random",), 60)]
    assert_same(found.responses, in_memory(spec))


def test_images_and_a_control_asked_for_at_once(store: Store) -> None:
    measure(store)
    response = ResponseSpec(num_thresholds=5, filters=("random", "high_pass", "low_pass", "pulse"))
    spec = replace(SPEC, response=response, num_images=110)
    assert_same(measure(store, spec).responses, in_memory(spec))


def test_layers_asked_for_later_are_all_that_is_measured(
    store: Store, measured_calls: list[tuple[str, tuple[str, ...], int]]
) -> None:
    found = measure(store, layers=["fc"])
    assert [layer.facts.name for layer in found.responses.layers] == ["fc"]
    known = find_measured(store, SPEC)
    assert known is not None
    assert known.missing == ("conv",)
    whole = measure(store)
    assert [name for name, _, _ in measured_calls] == ["fc", "conv"]
    assert_same(whole.responses, in_memory(SPEC))


def test_a_cached_rerun_calls_no_network(store: Store) -> None:
    with counted_forwards() as forwards:
        first = measure(store, replace(SPEC, epsilon=None))
        assert forwards[0] > NUM_CELLS / 2
        forwards[0] = 0
        second = measure(store, replace(SPEC, epsilon=None))
        assert forwards == [0]
    assert_same(second.responses, first.responses)


@pytest.mark.parametrize(
    "other",
    [
        {"epsilon": 0.2},
        {"attack_kind": "pgd"},
        {"response": ResponseSpec(num_thresholds=6)},
        {"response": ResponseSpec(num_thresholds=5, engine="reference")},
        {"response": ResponseSpec(num_thresholds=5, seed=1)},
        {"response": ResponseSpec(num_thresholds=5, scope="global")},
    ],
)
def test_what_changes_the_numbers_is_not_shared(
    store: Store, measured_calls: list[tuple[str, tuple[str, ...], int]], other: dict[str, Any]
) -> None:
    first = measure(store)
    assert find_measured(store, replace(SPEC, **other)) is None
    measured_calls.clear()
    assert measure(store, replace(SPEC, **other)).key != first.key
    assert measured_calls


def test_refresh_measures_anew(store: Store, measured_calls: list[tuple[str, tuple[str, ...], int]]) -> None:
    first = measure(store)
    measured_calls.clear()
    assert_same(measure(store, refresh=True).responses, first.responses)
    assert len(measured_calls) == 2


# Found again ----------------------------------------------------------------------------------------------


def test_nothing_is_found_before_anything_was_measured(store: Store) -> None:
    assert find_measured(store, SPEC) is None
    assert find_measured(store, replace(SPEC, epsilon=None)) is None
    assert find_measured(store, replace(SPEC, epoch=4)) is None
    assert store.list_records() == []


@pytest.mark.parametrize("num_calls", [0, 1, 2, 3, 10])
def test_whatever_was_interrupted_can_be_looked_up(store: Store, num_calls: int) -> None:
    with pytest.raises(Cancelled):
        measure(store, should_stop=bars.stop_after(num_calls))
    for every_image in (False, True):
        found = find_measured(store, SPEC, every_image=every_image)
        if found is not None:
            assert len(found.missing) + len(found.responses.layers) == 2
            assert found.responses.num_images == 60


def test_every_image_is_as_many_as_were_measured(store: Store) -> None:
    measure(store, replace(SPEC, num_images=110))
    found = find_measured(store, replace(SPEC, num_images=5), every_image=True)
    assert found is not None
    assert found.responses.num_images == 110
    assert found.spec == replace(SPEC, num_images=110)
    fewer = find_measured(store, replace(SPEC, num_images=5))
    assert fewer is not None
    assert fewer.responses.num_images == fewer.spec.num_images == 5


def test_an_interrupted_growth_does_not_hide_what_is_complete(store: Store) -> None:
    """More images were asked for, and only the unfiltered network had been run on them."""
    measure(store)
    with pytest.raises(Cancelled):
        measure(store, replace(SPEC, num_images=bars.NUM_PROBE), should_stop=bars.stop_after(5))
    found = find_measured(store, SPEC, every_image=True)
    assert found is not None
    assert [layer.facts.name for layer in found.responses.layers] == list(bars.LAYERS)


def test_the_catalogue_says_what_was_measured(store: Store) -> None:
    found = measure(store)
    (record,) = store.list_records()
    assert record.key == found.key
    described: Any = record.spec
    assert described["measurement"]["training"]["network"] == bars.NETWORK
    assert described["measurement"]["num_images"] == 60
    assert described["attack"]["epsilon"] == 0.1
    assert described["checkpoint"] == found.checkpoint.sha256
    assert described["probe"] == found.card.fingerprints["probe"]


# Refused --------------------------------------------------------------------------------------------------


def test_more_images_than_the_probe_split_has(store: Store) -> None:
    with pytest.raises(ValueError, match=r"^num_images must be at most 120, .* got 121; use --images 120$"):
        measure(store, replace(SPEC, num_images=bars.NUM_PROBE + 1))
    assert store.keys() == []


def test_an_unknown_layer_is_refused_before_and_after_measuring(store: Store) -> None:
    for _ in range(2):
        with pytest.raises(
            UnknownLayerError, match=r"no filterable layer in bars_net called 'conv9'; choose from conv, fc"
        ):
            measure(store, layers=["fc", "conv9"])
        assert not any("/layer/" in key for key in store.keys())
        assert store.list_records() == []


def test_an_unknown_attack_leaves_no_record(store: Store) -> None:
    with pytest.raises(UnknownNameError, match="no L∞ attack 'nonsense'"):
        measure(store, replace(SPEC, attack_kind="nonsense"))
    assert store.list_records() == []


def test_an_epoch_of_an_own_network_that_is_not_there(store: Store) -> None:
    with pytest.raises(CheckpointError, match=r"^no epoch 9 of bars_net on bars, seed 0; networks of your own come in"):
        measure(store, replace(SPEC, epoch=9))


def test_an_own_network_needs_its_factory(store: Store) -> None:
    with pytest.raises(CheckpointError, match="--factory bars:make_network"):
        Flow(store).measure(SPEC)
    measure(store)
    assert Flow(store).measure(SPEC).missing == ()


@pytest.mark.parametrize(
    ("piece", "damage"),
    [
        ("header", "altered"),
        ("facts/fc/pulse", "altered"),
        ("unfiltered/0", "altered"),
        ("epsilon", "altered"),
        ("layer/conv/low_pass/0", "cut"),
        ("layer/conv/low_pass/0", "another schema"),
        ("layer/conv/low_pass/0", "not bytes"),
    ],
)
def test_a_damaged_piece_is_one_line_and_refresh_repairs_it(store: Store, piece: str, damage: str) -> None:
    spec = replace(SPEC, epsilon=None)
    first = measure(store, spec)
    (key,) = store.keys("epsilon/") if piece == "epsilon" else [f"responses/{first.key}/{piece}"]
    harm(store, key, damage)
    error = StaleResultError if damage == "another schema" else StoreError
    with pytest.raises(error, match="--refresh") as caught:
        measure(store, spec)
    assert "\n" not in str(caught.value)
    assert_same(measure(store, spec, refresh=True).responses, first.responses)
    assert_same(measure(store, spec).responses, first.responses)


def harm(store: Store, key: str, damage: str) -> None:
    cache = store._cache()
    entry = bytearray(cache.get(key))
    if damage == "not bytes":
        with cache._transact() as (sql, _):
            sql("UPDATE Cache SET mode = 4, value = ?, filename = NULL WHERE key = ?", (b"cos\nsystem\n.", key))
        return
    if damage == "altered":
        entry[-1] ^= 1
    elif damage == "another schema":
        entry[4] ^= 0x7F
    cache.set(key, bytes(entry[:-5] if damage == "cut" else entry))


def test_damaged_adversarial_images_are_repaired_too(store: Store) -> None:
    measure(store, layers=["fc"])
    (key,) = store.keys("adversarial/")
    harm(store, key, "altered")
    with pytest.raises(StoreError, match="--refresh"):
        measure(store)
    assert_same(measure(store, refresh=True).responses, in_memory(SPEC))


@pytest.mark.parametrize("piece", ["adversarial/", "header", "unfiltered/0", "facts/conv/pulse"])
def test_refreshing_one_layer_repairs_what_is_damaged_and_keeps_the_others(
    store: Store, piece: str, measured_calls: list[tuple[str, tuple[str, ...], int]]
) -> None:
    expected = measure(store).responses
    (key,) = [key for key in store.keys() if piece in key]
    harm(store, key, "cut")
    measured_calls.clear()
    measure(store, layers=["fc"], refresh=True)
    assert [name for name, _, _ in measured_calls] == ["fc"]
    assert_same(measure(store).responses, expected)
    assert [name for name, _, _ in measured_calls] == ["fc"]


def test_a_network_without_numbers_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.nn.Linear, "forward", lambda self, pixels: torch.full((len(pixels), 4), torch.nan))
    with pytest.raises(NotFiniteError, match="logits are NaN or infinite"):
        measure(store)


def test_far_too_many_images_are_refused_at_once_also_by_a_look_up(store: Store) -> None:
    measure(store)
    for act in (find_measured, measure):
        with pytest.raises(ValueError, match="num_images must be at most 120"):
            act(store, replace(SPEC, num_images=10**18))


# Progress -------------------------------------------------------------------------------------------------


def test_progress_grows_to_its_end(store: Store) -> None:
    told: list[Progress] = []
    measure(store, replace(SPEC, epsilon=None), on_progress=told.append)
    assert list(dict.fromkeys(now.stage for now in told)) == ["calibrate", "attack", "measure"]
    shares = [now.done / now.total for now in told if now.stage == "measure"]
    assert shares == sorted(shares)
    assert shares[0] == 0
    assert shares[-1] == pytest.approx(1)
    assert len(shares) > NUM_CELLS


# Several at once ------------------------------------------------------------------------------------------


def test_whoever_waited_for_the_unfiltered_network_looks_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process measures more images while this one waits: nothing is done twice, nothing cut short."""
    claim, unfiltered = Flow.claim, Measurer.unfiltered
    calls: list[int] = []
    others: list[Measured] = []

    @contextmanager
    def late(self: Flow, name: str, what: str) -> Iterator[None]:
        if name.startswith("unfiltered/") and not others:
            monkeypatch.setattr(Flow, "claim", claim)
            others.append(measure(store, replace(SPEC, num_images=bars.NUM_PROBE)))
        with claim(self, name, what):
            yield

    def counted(self: Measurer, pixels: torch.Tensor, *arguments: Any) -> Predictions:
        calls.append(len(pixels))
        return unfiltered(self, pixels, *arguments)

    monkeypatch.setattr(Flow, "claim", late)
    monkeypatch.setattr(Measurer, "unfiltered", counted)
    measure(store)
    assert calls == [100, 20]
    found = find_measured(store, SPEC, every_image=True)
    assert found is not None
    assert found.responses.num_images == bars.NUM_PROBE


SCRIPT = """
import json, sys, time
import bars
from fss_core.store import leases
from fss_core.flow import Flow
from fss_core.measuring import Measurer
from fss_core.specs import MeasurementSpec, ResponseSpec, TrainingSpec
from fss_core.store import Store

pause, lease_seconds = float(sys.argv[1]), float(sys.argv[2])
calls, measure, unfiltered, claim = [], Measurer.measure, Measurer.unfiltered, Store.claim

def slow_measure(self, name, pixels, *arguments, **named):
    calls.append((name, len(pixels)))
    print("measuring", name, flush=True)
    time.sleep(pause)
    return measure(self, name, pixels, *arguments, **named)

def slow_unfiltered(self, pixels, *arguments):
    calls.append(("unfiltered", len(pixels)))
    time.sleep(pause)
    return unfiltered(self, pixels, *arguments)

def short_claim(self, key, **named):
    return claim(self, key, **named | {"lease_seconds": lease_seconds})

Measurer.measure, Measurer.unfiltered, Store.claim = slow_measure, slow_unfiltered, short_claim
spec = MeasurementSpec(
    training=TrainingSpec(network=bars.NETWORK, dataset=bars.DATASET), epoch=bars.EPOCH, num_images=60, epsilon=0.1,
    response=ResponseSpec(num_thresholds=5),
)
print("ready", flush=True)
sys.stdin.readline()
with Store() as store:
    found = Flow(store, factory=bars.make_network).measure(spec)
accuracy = found.responses.to_dataframe()["adversarial_accuracy"].tolist()
print(json.dumps({"calls": calls, "accuracy": accuracy}), flush=True)
"""


def start(cache: Path, *, pause: float, lease_seconds: float = 30) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(pause), str(lease_seconds)],
        env=bars.environment(cache),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def tell_to_go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def wait_for(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdout is not None
    for found in process.stdout:
        if found.strip() == line:
            return
    raise AssertionError(f"the process ended without {line!r}")


@pytest.mark.slow
def test_two_processes_compute_each_layer_once(
    cache: Path, store: Store, measured_calls: list[tuple[str, tuple[str, ...], int]]
) -> None:
    process = start(cache, pause=1)
    wait_for(process, "ready")
    tell_to_go(process)
    wait_for(process, "measuring conv")
    found = measure(store)
    output, _ = process.communicate(timeout=60)
    other = json.loads(output.splitlines()[-1])
    calls = [tuple(call) for call in other["calls"]] + [(name, images) for name, _, images in measured_calls]
    assert sorted(calls) == [("conv", 60), ("fc", 60), ("unfiltered", 60)]
    expected = in_memory(SPEC)
    assert_same(found.responses, expected)
    assert other["accuracy"] == expected.to_dataframe()["adversarial_accuracy"].tolist()


@pytest.mark.slow
def test_when_a_process_is_killed_another_goes_on_at_once(cache: Path, store: Store) -> None:
    process = start(cache, pause=0.5, lease_seconds=600)
    wait_for(process, "ready")
    tell_to_go(process)
    wait_for(process, "measuring fc")
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    killed = time.monotonic()
    stages: list[str] = []
    found = measure(store, on_progress=lambda now: stages.append(now.stage))
    assert time.monotonic() - killed < 20
    assert "wait" not in stages
    assert_same(found.responses, in_memory(SPEC))
    assert leases.LEASE_SECONDS == 30
