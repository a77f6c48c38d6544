"""The resident process: what it answers is what is measured otherwise, and it comes back when it is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import bars
import lectures
import numpy as np
import pytest
import torch
from lectures import EPSILON, NUM_IMAGES, NUM_THRESHOLDS

from fss_core import attacks
from fss_core.checkpoints import load_network
from fss_core.data import load_dataset
from fss_core.filters import high_pass, layer_thresholds
from fss_core.live import (
    AttackRequest,
    Filtered,
    LayersRequest,
    Live,
    LiveError,
    RespondRequest,
    SweepRequest,
    join_responses,
)
from fss_core.live.answers import ANSWERS, Answer
from fss_core.live.laboratory import Laboratory
from fss_core.live.requests import Request
from fss_core.measuring import measure_responses
from fss_core.models import describe_layers
from fss_core.scores import score_responses
from fss_core.specs import CONTROL_FILTER, SYNAPTIC_FILTERS, AttackSpec, CheckpointError, UnknownLayerError
from fss_core.store.entries import decode

LAYER = "stage2.0.branch1.2"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    cache = tmp_path_factory.mktemp("live")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FSS_CACHE_DIR", str(cache))
        lectures.make_network(cache, cache / "images")
        yield cache


@pytest.fixture(autouse=True)
def _cache(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FSS_CACHE_DIR", str(world))


@pytest.fixture(scope="module")
def laboratory(world: Path) -> Laboratory:
    return Laboratory()


def images() -> tuple[torch.Tensor, torch.Tensor]:
    probe = load_dataset(bars.DATASET).probe
    return probe.pixels(0, NUM_IMAGES), torch.from_numpy(np.array(probe.labels[:NUM_IMAGES]))


# Answers --------------------------------------------------------------------------------------------------


def test_one_gradient_serves_all_sizes_to_the_bit() -> None:
    pixels, labels = images()
    pixels[0, 0, 0, :4] = torch.tensor([0.0, 1.0, 1 / 255, 254 / 255])
    model = bars.make_network(num_classes=4, num_channels=1)
    path = attacks.FgsmPath.of(model, pixels, labels)
    assert torch.equal(path.pixels(0), pixels)
    for epsilon in (0.25 / 255, 1 / 255, 8 / 255, 0.5, 1.0):
        attacked = attacks.run_attack(model, pixels, labels, AttackSpec(epsilon=epsilon))
        assert torch.equal(path.pixels(epsilon), attacked.pixels)
        assert torch.equal(path.zero_gradient, attacked.zero_gradient)


def test_an_attack_is_that_of_the_network(laboratory: Laboratory) -> None:
    pixels, labels = images()
    model = load_network(lectures.checkpoint())
    request = AttackRequest(network=lectures.network(), epsilon=EPSILON, index=5, num_images=NUM_IMAGES)
    found = laboratory.answer(request)
    attacked = attacks.run_attack(model, pixels, labels, AttackSpec(epsilon=EPSILON))
    with torch.no_grad():
        both = torch.stack([model(pixels), model(attacked.pixels)])
    assert np.array_equal(found.adversarial, attacked.pixels[5].numpy())
    assert np.array_equal(found.clean, pixels[5].numpy())
    assert np.abs(found.adversarial - found.clean).max() <= EPSILON + 1e-6
    np.testing.assert_allclose(found.probabilities, both[:, 5].softmax(1).numpy(), atol=1e-6)
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1, atol=1e-5)
    assert np.array_equal(found.right, (both.argmax(2) == labels).numpy())
    assert found.label == int(labels[5])
    nothing = laboratory.answer(replace(request, epsilon=0.0))
    assert np.array_equal(nothing.adversarial, nothing.clean)
    assert np.array_equal(nothing.right[0], nothing.right[1])


def test_a_filtered_network_is_attacked_anew_and_given_back(laboratory: Laboratory) -> None:
    pixels, labels = images()
    model = load_network(lectures.checkpoint())
    weight = dict(model.named_modules())["conv1.0"].weight
    thresholds = layer_thresholds(weight, NUM_THRESHOLDS)
    before = laboratory.answer(AttackRequest(network=lectures.network(), epsilon=EPSILON, index=0, num_images=10))
    for k in (1, NUM_THRESHOLDS - 1):
        request = AttackRequest(
            network=lectures.network(),
            epsilon=EPSILON,
            index=0,
            num_images=NUM_IMAGES,
            filtered=Filtered(layer="conv1.0", filter="high_pass", k=k, num_thresholds=NUM_THRESHOLDS),
        )
        found = laboratory.answer(request)
        other = load_network(lectures.checkpoint())
        own = dict(other.named_modules())["conv1.0"].weight
        own.data = high_pass(own.data, float(thresholds[k]))
        attacked = attacks.run_attack(other, pixels, labels, AttackSpec(epsilon=EPSILON))
        assert np.array_equal(found.adversarial, attacked.pixels[0].numpy())
        assert np.array_equal(found.zero_gradient, attacked.zero_gradient.numpy())
    # With nothing left of the layer the network is blind: there is no gradient, and the attack does nothing.
    assert found.zero_gradient.all()
    assert np.array_equal(found.adversarial, found.clean)
    assert np.array_equal(found.right[0], found.right[1])
    again = laboratory.answer(AttackRequest(network=lectures.network(), epsilon=EPSILON, index=0, num_images=10))
    assert np.array_equal(again.probabilities, before.probabilities)


def test_a_sweep_agrees_with_attacks_one_by_one(laboratory: Laboratory) -> None:
    sizes = (0.0, EPSILON, 32 / 255)
    sweep = laboratory.answer(SweepRequest(network=lectures.network(), epsilons=sizes, num_images=NUM_IMAGES))
    for size, right in zip(sizes, sweep.right, strict=True):
        own = AttackRequest(network=lectures.network(), epsilon=size, index=0, num_images=NUM_IMAGES)
        assert np.array_equal(laboratory.answer(own).right[1], right)


def test_rows_put_together_are_what_would_have_been_measured(laboratory: Laboratory) -> None:
    pixels, labels = images()
    model = load_network(lectures.checkpoint())
    frozen = attacks.attack(model, pixels, labels, epsilon=EPSILON)
    expected = measure_responses(
        model,
        pixels,
        labels,
        frozen,
        layers=[LAYER],
        filters=(*SYNAPTIC_FILTERS, CONTROL_FILTER),
        num_thresholds=NUM_THRESHOLDS,
    )
    asked = RespondRequest(
        network=lectures.network(),
        layer=LAYER,
        filter="high_pass",
        num_thresholds=NUM_THRESHOLDS,
        epsilon=EPSILON,
        num_images=NUM_IMAGES,
    )
    rows = [replace(asked, filter=name) for name in SYNAPTIC_FILTERS]
    rows += [replace(asked, filter=CONTROL_FILTER, draw=draw) for draw in range(3)]
    found = join_responses([laboratory.answer(own) for own in rows])
    assert found.rows == expected.rows
    assert found.spec == expected.spec
    [mine], [theirs] = found.layers, expected.layers
    for name in ("thresholds", "num_kept", "num_live_kept", "changes", "histogram", "histogram_edges"):
        assert np.array_equal(getattr(mine.facts, name), getattr(theirs.facts, name))
    assert np.array_equal(mine.predictions.clean, theirs.predictions.clean)
    assert np.array_equal(mine.predictions.adversarial, theirs.predictions.adversarial)
    assert score_responses(found).rows == score_responses(replace(expected, attack=found.attack)).rows


def everything() -> dict[str, Request]:
    network = lectures.network()
    return {
        "attack": AttackRequest(network=network, epsilon=EPSILON, index=1, num_images=20),
        "sweep": SweepRequest(network=network, epsilons=(0.0, EPSILON), num_images=20),
        "respond": RespondRequest(
            network=network, layer=LAYER, filter="pulse", num_thresholds=3, epsilon=EPSILON, num_images=20
        ),
        "layers": LayersRequest(network=network),
    }


@pytest.mark.parametrize("kind", ["attack", "sweep", "respond", "layers"])
def test_an_answer_travels_unchanged(laboratory: Laboratory, kind: str) -> None:
    answer: Answer = laboratory.answer(everything()[kind])
    content = answer.to_bytes()
    assert ANSWERS[kind].read(decode(kind, content)).to_bytes() == content


def test_layers_are_named_in_network_order(laboratory: Laboratory) -> None:
    found = laboratory.answer(LayersRequest(network=lectures.network()))
    expected = describe_layers(load_network(lectures.checkpoint()), (1, 8, 8))
    assert found.names == tuple(expected)
    assert found.kinds[0] == "stem"


def test_what_cannot_be_answered_is_refused(laboratory: Laboratory) -> None:
    asked = AttackRequest(network=lectures.network(), epsilon=EPSILON, index=0, num_images=500)
    with pytest.raises(ValueError, match="num_images must be at most 120, got 500"):
        laboratory.answer(asked)
    gone = replace(lectures.network(), sha256="0" * 64)
    with pytest.raises(CheckpointError, match="is not there any more; look again"):
        laboratory.answer(LayersRequest(network=gone))
    wrong = Filtered(layer="conv9", filter="pulse", k=0, num_thresholds=3)
    with pytest.raises(UnknownLayerError, match="conv9"):
        laboratory.answer(replace(asked, num_images=20, filtered=wrong))
    with pytest.raises(UnknownLayerError, match="no weights that can be filtered"):
        laboratory.answer(replace(asked, num_images=20, filtered=replace(wrong, layer="conv1.1")))
    with pytest.raises(ValueError, match="k must lie from 0 to 2, got 3"):
        replace(wrong, k=3)
    with pytest.raises(ValueError, match="index must lie from 0 to 19, got 20"):
        AttackRequest(network=lectures.network(), epsilon=EPSILON, index=20, num_images=20)


# The process ----------------------------------------------------------------------------------------------


@pytest.fixture
def live(world: Path) -> Iterator[Live]:
    own = Live(world)
    yield own
    own.stop()


@pytest.mark.slow
def test_it_answers_as_the_laboratory_does_and_comes_back_when_killed(live: Live, laboratory: Laboratory) -> None:
    asked = everything()
    assert live.pid is None
    assert not live.is_known(asked["attack"])
    found = live.ask(asked["attack"])
    assert found.to_bytes() == laboratory.answer(asked["attack"]).to_bytes()
    assert live.is_known(asked["attack"])
    with pytest.raises(LiveError, match="no filterable layer called 'conv9'"):
        live.ask(replace(asked["respond"], layer="conv9"))
    first = live.pid
    assert first is not None
    results: list[bytes] = []
    threads = [
        threading.Thread(target=lambda own=own: results.append(live.ask(own).to_bytes()))
        for own in (asked["sweep"], asked["layers"])
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == sorted(laboratory.answer(asked[name]).to_bytes() for name in ("sweep", "layers"))
    assert live.pid == first
    os.kill(first, signal.SIGKILL)
    assert live.ask(asked["attack"]).to_bytes() == found.to_bytes()  # known, whoever is gone
    assert live.ask(asked["respond"]).to_bytes() == laboratory.answer(asked["respond"]).to_bytes()
    assert live.pid not in (None, first)


@pytest.mark.slow
def test_it_is_bounded_in_memory_and_in_idleness(world: Path, laboratory: Laboratory) -> None:
    small = Live(world, ("--memory", "1000", "--idle-seconds", "60"))
    try:
        assert small.ask(LayersRequest(network=lectures.network())).kinds[0] == "stem"
        deadline = time.monotonic() + 30
        while small.pid is not None:
            assert time.monotonic() < deadline, "a process that is too large ends after its answer"
            time.sleep(0.05)
        assert small.ask(everything()["sweep"]).right.shape == (2, 20)  # and the next question has another
    finally:
        small.stop()


def test_one_that_cannot_start_is_said_in_a_line(world: Path) -> None:
    broken = Live(world, ("--nonsense",))
    with pytest.raises(LiveError, match=r"ended twice over the same question; live\.log says why"):
        broken.ask(LayersRequest(network=lectures.network()))
    assert "nonsense" in (world / "live.log").read_text()


def test_asking_needs_no_torch() -> None:
    code = "import sys, fss_core.live, fss_core.stories.studied; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
