"""Training: what it saves, that it goes on bit for bit, and how it stops."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from torch import nn

from fss_core import data, models, specs, training
from fss_core.checkpoints import (
    Checkpoint,
    available_epochs,
    list_checkpoints,
    load_network,
    load_state,
    load_weights,
    weights_sha256,
)
from fss_core.checkpoints.sidecars import read_sidecar
from fss_core.specs import Cancelled, TrainingError, TrainingSpec, UnknownNameError
from fss_core.training import TrainingProgress, image_order, train, training_images

SHUFFLENET = TrainingSpec(network="shufflenet_v2_x1_0", dataset=tiny.NAME, batch_size=12)
SQUEEZENET = TrainingSpec(network="squeezenet1_1", dataset=tiny.NAME, batch_size=12)


@pytest.fixture(autouse=True)
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> data.Dataset:
    use_cache(monkeypatch, tmp_path / "cache")
    return tiny.install(monkeypatch)


def use_cache(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    monkeypatch.setenv("FSS_CACHE_DIR", str(path))


def files_of(checkpoint: Checkpoint) -> list[str]:
    """SHA-256 of weights and state: two such files that differ would take a test's report minutes to compare."""
    return [weights_sha256(checkpoint.path / f"{name}.safetensors") for name in ("weights", "state")]


def stop_after(num_batches: int) -> training.ShouldStop:
    asked = iter(range(num_batches))
    return lambda: next(asked, None) is None


# What is saved --------------------------------------------------------------------------------------------


def test_saves_the_epochs_asked_for_and_no_others() -> None:
    checkpoints = train(SQUEEZENET, [3, 0, 1, 3])
    assert [checkpoint.epoch for checkpoint in checkpoints] == [0, 1, 3]
    assert available_epochs(SQUEEZENET) == [0, 1, 3]
    assert [checkpoint.epoch for checkpoint in list_checkpoints()] == [0, 1, 3]
    assert all(checkpoint.has_state and checkpoint.origin == "trained" for checkpoint in checkpoints)
    assert not list(checkpoints[0].path.parent.glob(".*"))


def test_epoch_0_is_the_untrained_network() -> None:
    (checkpoint,) = train(SHUFFLENET, [0])
    untrained = models.build_network(SHUFFLENET.network, dataset=tiny.NAME, seed=0).state_dict()
    assert load_weights(checkpoint).keys() == untrained.keys()
    assert all(torch.equal(weight, untrained[name]) for name, weight in load_weights(checkpoint).items())
    assert load_state(checkpoint) == {}
    assert checkpoint.history == ()


def test_history_and_provenance_are_recorded() -> None:
    (checkpoint,) = train(SQUEEZENET, [2])
    assert [record.epoch for record in checkpoint.history] == [1, 2]
    for record in checkpoint.history:
        assert 0 < record.loss < 3
        assert record.train_accuracy * 24 == pytest.approx(round(record.train_accuracy * 24))
        assert record.seconds > 0
    assert checkpoint.hardware == {"device": "cpu", "num_threads": torch.get_num_threads()}
    assert checkpoint.versions["torch"].startswith(torch.__version__.split("+")[0])
    assert checkpoint.random_state["scheme"] == training.RANDOM_SCHEME
    assert checkpoint.random_state["next_epoch"] == 3
    generator = torch.Generator().manual_seed(int(checkpoint.random_state["next_order_seed"]))
    order = torch.randperm(tiny.NUM_IMAGES, generator=generator).tolist()
    assert order == image_order(tiny.NUM_IMAGES, seed=0, epoch=3).tolist()


def test_it_learns() -> None:
    spec = replace(SHUFFLENET, batch_size=16)
    (checkpoint,) = train(spec, [8])
    assert checkpoint.history[-1].train_accuracy > 0.9
    assert checkpoint.history[-1].loss < checkpoint.history[0].loss / 2
    network = load_network(checkpoint)
    assert not network.training


def test_epochs_that_exist_are_returned_without_work(monkeypatch: pytest.MonkeyPatch) -> None:
    before = train(SQUEEZENET, [1, 2])
    monkeypatch.setattr(data, "load_dataset", lambda name: pytest.fail("nothing is left to train"))
    assert train(SQUEEZENET, [2, 1]) == before


def test_initialisations_differ() -> None:
    first, second = (load_weights(train(replace(SHUFFLENET, seed=seed), [0])[0]) for seed in (0, 1))
    same = [name for name, weight in first.items() if weight.ndim == 4 and torch.equal(weight, second[name])]
    assert same == []
    assert image_order(100, seed=0, epoch=1).tolist() != image_order(100, seed=1, epoch=1).tolist()


# The step -------------------------------------------------------------------------------------------------


class OneLayer(nn.Module):
    """Logits from the mean pixel, so that Adam's first steps can be worked by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(28 * 28, 4, bias=False)
        nn.init.zeros_(self.linear.weight)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.linear(pixels.flatten(1))
        return logits


def test_an_epoch_equals_adam_written_out_in_numpy(dataset: data.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "build_network", lambda name, **_: OneLayer())
    (checkpoint,) = train(SQUEEZENET, [2])

    pixels = dataset.train.images.reshape(tiny.NUM_IMAGES, -1) / 255.0
    weight, mean, square, step = np.zeros((4, 784)), np.zeros((4, 784)), np.zeros((4, 784)), 0
    for epoch in (1, 2):
        order = image_order(tiny.NUM_IMAGES, seed=0, epoch=epoch)
        for batch in (order[:12], order[12:24]):  # the last 8 are an incomplete batch
            logits = pixels[batch] @ weight.T
            chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
            chances[np.arange(12), dataset.train.labels[batch]] -= 1
            gradient = chances.T @ pixels[batch] / 12
            step += 1
            mean = 0.9 * mean + 0.1 * gradient
            square = 0.999 * square + 0.001 * gradient**2
            weight -= 1e-3 * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
    np.testing.assert_allclose(load_weights(checkpoint)["linear.weight"], weight, atol=2e-6)
    np.testing.assert_allclose(load_state(checkpoint)["linear.weight.exp_avg"], mean, atol=1e-6)
    assert load_state(checkpoint)["linear.weight.step"] == 4


def test_every_epoch_takes_another_order_of_all_images() -> None:
    first, second = (image_order(50, seed=0, epoch=epoch) for epoch in (1, 2))
    assert sorted(first) == sorted(second) == list(range(50))
    assert first.tolist() != second.tolist()


def test_a_part_of_the_images_is_all_that_training_sees(
    dataset: data.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = replace(SQUEEZENET, num_train=25)
    seen: list[list[int]] = []
    step = training.train_step

    def watched(network: nn.Module, optimiser: torch.optim.Optimizer, split: data.Split, indices: np.ndarray) -> object:
        seen.append(indices.tolist())
        return step(network, optimiser, split, indices)

    monkeypatch.setattr(training, "train_step", watched)
    (checkpoint,) = train(spec, [3])
    chosen = set(training_images(spec, tiny.NUM_IMAGES).tolist())
    assert [len(batch) for batch in seen] == [12] * 6  # two steps an epoch; the last image is an incomplete batch
    assert {index for batch in seen for index in batch} <= chosen
    assert len(chosen) == 25
    for first, second in zip(seen[::2], seen[1::2], strict=True):
        assert len({*first, *second}) == 24
    assert checkpoint.spec.num_train == read_sidecar(checkpoint.path).spec.num_train == 25
    (whole,) = train(SQUEEZENET, [3])
    assert whole.path.parent != checkpoint.path.parent
    assert whole.sha256 != checkpoint.sha256
    assert "num_train" not in (whole.path / "checkpoint.json").read_text("utf-8")

    use_cache(monkeypatch, tmp_path / "other")
    train(spec, [1])
    assert files_of(train(spec, [3])[0]) == files_of(checkpoint)


def test_a_part_is_the_same_for_all_and_a_larger_one_holds_it() -> None:
    parts = [
        set(training_images(replace(spec, num_train=number), 32).tolist())
        for spec, number in ((SQUEEZENET, 14), (replace(SHUFFLENET, seed=3), 14), (SQUEEZENET, 20))
    ]
    assert parts[0] == parts[1] < parts[2]
    assert training_images(SQUEEZENET, 32).tolist() == list(range(32))
    with pytest.raises(TrainingError, match="num_train must be at most 32, the training images of tiny, got 33"):
        train(replace(SQUEEZENET, num_train=33), [1])


# Going on -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [SHUFFLENET, SQUEEZENET], ids=lambda spec: spec.network)
def test_going_on_equals_training_at_once(spec: TrainingSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (at_once,) = train(spec, [4])
    expected = files_of(at_once)
    use_cache(monkeypatch, tmp_path / "other")
    train(spec, [2])
    torch.rand(7)  # the caller's random state must not matter
    (went_on,) = train(spec, [4])
    assert files_of(went_on) == expected
    assert [record.loss for record in went_on.history] == [record.loss for record in at_once.history]


def test_going_on_needs_the_moments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (at_once,) = train(SHUFFLENET, [2])
    use_cache(monkeypatch, tmp_path / "other")
    train(SHUFFLENET, [1])
    monkeypatch.setattr(training, "load_optimiser_state", lambda *_: None)
    assert train(SHUFFLENET, [2])[0].sha256 != at_once.sha256


KILLED = """
import os, signal
import tiny
from fss_core.specs import TrainingSpec
from fss_core.training import train

class Patch:
    setattr = staticmethod(setattr)

def kill(progress):
    if progress.epoch == 3:
        os.kill(os.getpid(), signal.SIGKILL)

tiny.install(Patch)
train(TrainingSpec(network="squeezenet1_1", dataset="tiny", batch_size=12), [1, 4], on_progress=kill)
"""


def test_a_killed_process_loses_one_epoch_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(__file__).parents[1]
    environment = os.environ | {
        "PYTHONPATH": f"{root}{os.pathsep}{root / 'tests'}",
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
    }
    killed = subprocess.run([sys.executable, "-c", KILLED], env=environment, cwd=tmp_path, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert {checkpoint.epoch: checkpoint.kept for checkpoint in list_checkpoints()} == {1: True, 2: False}

    seen: list[int] = []
    (went_on,) = train(SQUEEZENET, [4], on_progress=lambda progress: seen.append(progress.epoch))
    assert set(seen) == {3, 4}
    assert available_epochs(SQUEEZENET) == [1, 4]
    use_cache(monkeypatch, tmp_path / "other")
    assert files_of(train(SQUEEZENET, [4])[0]) == files_of(went_on)


def test_an_epoch_that_was_not_asked_for_can_be_asked_for_later() -> None:
    with pytest.raises(Cancelled):
        train(SQUEEZENET, [5], should_stop=stop_after(5))
    assert available_epochs(SQUEEZENET) == []
    assert [(checkpoint.epoch, checkpoint.kept) for checkpoint in list_checkpoints()] == [(2, False)]
    assert train(SQUEEZENET, [2])[0].kept
    train(SQUEEZENET, [3])
    assert available_epochs(SQUEEZENET) == [2, 3]


def test_an_earlier_epoch_can_be_asked_for_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_order = train(SHUFFLENET, [1, 3, 4])
    use_cache(monkeypatch, tmp_path / "other")
    train(SHUFFLENET, [3])
    train(SHUFFLENET, [4, 1])
    assert available_epochs(SHUFFLENET) == [1, 3, 4]
    assert [checkpoint.sha256 for checkpoint in list_checkpoints()] == [checkpoint.sha256 for checkpoint in in_order]


def test_what_a_killed_process_left_half_written_is_removed() -> None:
    (checkpoint,) = train(SQUEEZENET, [0])
    half = checkpoint.path.with_name(".epoch_001-abcd")
    half.mkdir()
    (half / "weights.safetensors").write_bytes(b"half")
    train(SQUEEZENET, [1])
    assert not half.exists()


# Stopping -------------------------------------------------------------------------------------------------


def test_stopping_keeps_finished_epochs() -> None:
    with pytest.raises(Cancelled, match="stop in epoch 2; finished epochs are kept"):
        train(SQUEEZENET, [1, 3], should_stop=stop_after(3))
    assert available_epochs(SQUEEZENET) == [1]


def test_a_loss_that_is_not_finite_names_epoch_and_step(monkeypatch: pytest.MonkeyPatch) -> None:
    true_loss, calls = torch.nn.functional.cross_entropy, iter(range(100))

    def loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        value = true_loss(logits, labels)
        return value * float("nan") if next(calls) == 3 else value

    monkeypatch.setattr(training.F, "cross_entropy", loss)
    message = r"squeezenet1_1 on tiny: the loss became nan at epoch 2, step 2; take a learning_rate below 0.001"
    with pytest.raises(TrainingError, match=message):
        train(SQUEEZENET, [1, 3])
    assert available_epochs(SQUEEZENET) == [1]


def test_weights_that_are_not_finite_are_not_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    class Diverging(torch.optim.Adam):
        def step(self, closure: None = None) -> None:
            super().step(closure)
            self.param_groups[0]["params"][0].data.fill_(float("inf"))

    monkeypatch.setattr(torch.optim, "Adam", Diverging)
    with pytest.raises(TrainingError, match=r"'features.0.weight' became NaN or infinite at epoch 1, step 1"):
        train(replace(SQUEEZENET, batch_size=32), [1])
    assert list_checkpoints() == []


def test_progress_counts_batches() -> None:
    seen: list[TrainingProgress] = []
    train(SQUEEZENET, [2], on_progress=seen.append)
    last = [progress for progress in seen if progress.step == progress.steps_per_epoch]
    assert [progress.epoch for progress in last] == [1, 2]
    assert all(progress.steps_per_epoch == 2 and progress.images_per_second > 0 for progress in seen)


def test_the_callers_random_state_is_left_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(SQUEEZENET, [1])
    assert torch.equal(torch.rand(3), expected)


# Refusals -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("epochs", [[], [-1, 2]])
def test_epochs_must_be_some_and_not_negative(epochs: list[int]) -> None:
    with pytest.raises(ValueError, match="each at least 0 and at most 1,000,000, got"):
        train(SQUEEZENET, epochs)


def test_fewer_images_than_a_batch_are_refused() -> None:
    with pytest.raises(TrainingError, match="32 training images, fewer than one batch of 100"):
        train(TrainingSpec(network="squeezenet1_1", dataset=tiny.NAME), [1])


def test_a_network_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="no network 'alexnet'"):
        train(replace(SQUEEZENET, network="alexnet"), [1])


@pytest.mark.slow
def test_the_embedded_digits_are_learnt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    use_cache(monkeypatch, tmp_path)
    monkeypatch.setenv("FSS_DATA_DIR", str(tmp_path / "data"))
    spec = TrainingSpec(network="shufflenet_v2_x1_0", dataset="mnist5k")
    (checkpoint,) = train(spec, [2])
    probe = data.load_dataset("mnist5k").probe
    with torch.no_grad():
        predicted = load_network(checkpoint)(probe.pixels()).argmax(dim=1)
    assert (predicted.numpy() == probe.labels).mean() > 0.5
    assert specs.cache_dir() in checkpoint.path.parents
