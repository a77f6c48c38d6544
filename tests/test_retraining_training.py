"""Retraining itself: what moves and what stands still, the same batches for all, and going on bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lanes
import numpy as np
import pytest
import reference
import tiny
import torch
from torch import Tensor, nn
from torch.nn import functional

from fss_core import data
from fss_core.checkpoints import Checkpoint, load_network, load_state, load_weights
from fss_core.data import load_dataset
from fss_core.filters import layer_thresholds, pulse, pulse_edges
from fss_core.models import describe_layers
from fss_core.retraining import freezing
from fss_core.retraining import training as retraining_module
from fss_core.retraining.criticality import worst_loss
from fss_core.retraining.freezing import hash_frozen, pulse_mask, train_only
from fss_core.retraining.judging import Judge
from fss_core.retraining.rules import Part, Selection
from fss_core.retraining.training import Retrainer
from fss_core.specs import Cancelled, TrainingError, TrainingSpec
from fss_core.training import epoch_batches, train, training_images

EVERY_LAYER = tuple(Part(layer=name) for name in lanes.LAYERS)
SELECTIONS = {
    "one layer": Selection(parts=(Part(layer="conv2"),)),
    "two layers": Selection(parts=(Part(layer="conv1"), Part(layer="fc"))),
    "all": Selection(parts=EVERY_LAYER),
    "all with norms": Selection(parts=EVERY_LAYER, with_norms=True),
    "pulses": Selection(parts=(Part(layer="conv2", pulses=(1, 2)), Part(layer="fc", pulses=(4,))), num_thresholds=5),
}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("lanes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FSS_CACHE_DIR", str(root))
        return lanes.make_cache(root)


@pytest.fixture(autouse=True)
def cache(template: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FSS_CACHE_DIR", str(template))
    return template


def make_retrainer(selection: Selection, seed: int = 0) -> Retrainer:
    return Retrainer(lanes.checkpoint(seed), load_dataset(lanes.DATASET), selection, factory=lanes.make_network)


def keep_going(step: int) -> None:
    """Never stops."""


def tensors_of(network: nn.Module) -> dict[str, Tensor]:
    return {name: own.detach().clone() for name, own in network.state_dict().items()}


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


NORMS = {f"norm{n}.{name}" for n in (1, 2) for name in ("weight", "bias")}
STATISTICS = {f"norm{n}.{name}" for n in (1, 2) for name in ("running_mean", "running_var", "num_batches_tracked")}
OWN = {"conv1.weight", "conv2.weight", "conv2.bias", "conv3.weight", "conv3.bias", "fc.weight", "fc.bias"}


# What moves -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("one layer", {"conv2.weight", "conv2.bias"}),
        ("two layers", {"conv1.weight", "fc.weight", "fc.bias"}),
        ("all", OWN),
        ("all with norms", OWN | NORMS | STATISTICS),
        ("pulses", {"conv2.weight", "fc.weight"}),
    ],
)
def test_only_what_is_selected_moves(name: str, expected: set[str]) -> None:
    retrainer = make_retrainer(SELECTIONS[name])
    before = tensors_of(retrainer.network)
    with_gradients = {own for own, parameter in retrainer.network.named_parameters() if parameter.requires_grad}
    assert with_gradients == expected - STATISTICS
    for _ in range(2):
        retrainer.train_epoch(keep_going)
    assert moved(before, tensors_of(retrainer.network)) == expected
    assert retrainer.frozen_sha256() == retrainer.start.frozen_sha256


def test_masked_weights_never_move_and_the_others_do() -> None:
    selection = SELECTIONS["pulses"]
    retrainer = make_retrainer(selection)
    before = tensors_of(retrainer.network)
    retrainer.train_epoch(keep_going)
    after = tensors_of(retrainer.network)
    for part in selection.parts:
        weight = before[f"{part.layer}.weight"]
        edges = pulse_edges(layer_thresholds(weight, 5))
        chosen = torch.zeros(weight.shape, dtype=torch.bool)
        assert part.pulses is not None
        for k in part.pulses:
            chosen |= pulse(torch.ones_like(weight) * weight, edges[k], edges[k + 1]) != weight
        change = (after[f"{part.layer}.weight"] != weight) & (weight != 0)
        assert torch.equal(change, chosen)
        assert 0 < int(chosen.sum()) < chosen.numel()


def test_moments_of_masked_weights_are_forgotten() -> None:
    retrainer = make_retrainer(SELECTIONS["pulses"])
    state = load_state(lanes.checkpoint())
    mask = retrainer.trained.masks["conv2.weight"]
    for moment in ("exp_avg", "exp_avg_sq"):
        own = torch.from_numpy(retrainer.state()[f"moment/conv2.weight.{moment}"])
        assert torch.equal(own[mask], state[f"conv2.weight.{moment}"][mask])
        assert not own[~mask].any()
        assert state[f"conv2.weight.{moment}"][~mask].any()


@pytest.mark.parametrize("num_thresholds", [2, 5, 25])
def test_pulse_masks_partition_the_weights(num_thresholds: int) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 3, 3, 3, generator=generator).to(memory_format=torch.channels_last)
    masks = [pulse_mask(weight, num_thresholds, (k,)) for k in range(num_thresholds)]
    assert torch.equal(torch.stack(masks).sum(0), torch.ones(weight.shape, dtype=torch.int64))
    for k, mask in enumerate(masks):
        assert torch.equal(~mask, reference.keep_mask(weight, "pulse", k, num_thresholds))
    assert torch.equal(pulse_mask(weight, num_thresholds, (0, 1)), masks[0] | masks[1])


def test_a_constant_layer_belongs_to_its_last_pulse() -> None:
    assert bool(pulse_mask(torch.full((3,), 0.5), 4, (3,)).all())
    assert not bool(pulse_mask(torch.full((3,), 0.5), 4, (0, 1, 2)).any())


def test_live_weights_are_counted_without_dead_ones_and_biases() -> None:
    assert make_retrainer(SELECTIONS["all"]).start.num_live_trained == 54 + 324 + 324 + 384
    network = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Flatten(), nn.Linear(2, 2))
    geometry = describe_layers(network, (1, 1, 1))
    assert train_only(network, Selection(parts=(Part(layer="0"),)), geometry).num_live == 2
    with torch.no_grad():
        network[0].weight.copy_(torch.linspace(-1, 1, 18).reshape(2, 1, 3, 3))  # the live ones: one below 0, one above
    lower = Selection(parts=(Part(layer="0", pulses=(0,)),), num_thresholds=2)
    trained = train_only(network, lower, geometry)
    assert int(trained.masks["0.weight"].sum()) == 9
    assert trained.num_live == 1


def test_retraining_sees_the_images_that_training_saw(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[int] = set()
    step = retraining_module.train_step

    def watched(network: nn.Module, optimiser: Any, split: Any, indices: np.ndarray) -> object:
        seen.update(indices.tolist())
        return step(network, optimiser, split, indices)

    monkeypatch.setattr(retraining_module, "train_step", watched)
    whole = lanes.checkpoint()
    part = replace(whole, spec=replace(whole.spec, num_train=130))
    retrainer = Retrainer(part, load_dataset(lanes.DATASET), SELECTIONS["all"], factory=lanes.make_network)
    assert retrainer.start.steps_per_epoch == 1
    for _ in range(5):
        retrainer.train_epoch(keep_going)
    assert seen <= set(training_images(part.spec, 240).tolist())
    assert len(seen) > 100


# Frozen means frozen --------------------------------------------------------------------------------------


def test_the_hash_sees_every_way_of_moving() -> None:
    retrainer = make_retrainer(SELECTIONS["pulses"])
    network, trained = retrainer.network, retrainer.trained
    before = hash_frozen(network, trained)
    mask = trained.masks["fc.weight"]
    held = tuple(int(index) for index in (~mask).nonzero()[0])
    free = tuple(int(index) for index in mask.nonzero()[0])
    with torch.no_grad():
        network.get_parameter("fc.weight")[free] += 1
    assert hash_frozen(network, trained) == before
    changes: list[Callable[[], object]] = [
        lambda: network.get_parameter("fc.weight")[held].add_(1e-6),
        lambda: network.get_parameter("conv1.weight")[0, 0, 0, 0].add_(1e-6),
        lambda: network.get_parameter("norm1.weight")[0].add_(1e-6),
        lambda: network.get_buffer("norm2.running_var")[0].add_(1e-6),
        lambda: network.get_buffer("norm2.num_batches_tracked").add_(1),
    ]
    for change in changes:
        with torch.no_grad():
            change()
        after = hash_frozen(network, trained)
        assert len([name for name in before if before[name] != after[name]]) == 1
        before = after


class Decaying(torch.optim.Adam):
    def __init__(self, parameters: Any, lr: float) -> None:
        super().__init__(parameters, lr=lr, weight_decay=0.1)


def test_weight_decay_on_masked_weights_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.optim, "Adam", Decaying)
    with pytest.raises(TrainingError, match=r"2 frozen tensors moved in retraining, 'conv2.weight' among them"):
        make_retrainer(SELECTIONS["pulses"]).train_epoch(keep_going)


def test_moments_that_coast_on_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retraining_module, "mask_moments", lambda *_: None)
    with pytest.raises(TrainingError, match="2 frozen tensors moved"):
        make_retrainer(SELECTIONS["pulses"]).train_epoch(keep_going)


def test_gradients_that_are_not_masked_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freezing, "_where", lambda mask, tensor: tensor)
    with pytest.raises(TrainingError, match="2 frozen tensors moved"):
        make_retrainer(SELECTIONS["pulses"]).train_epoch(keep_going)


def test_statistics_that_move_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retraining_module, "enter_training", lambda network, **_: network.train())
    with pytest.raises(TrainingError, match=r"6 frozen tensors moved in retraining, 'norm1.num_batches_tracked' among"):
        make_retrainer(SELECTIONS["all"]).train_epoch(keep_going)


def test_normalisation_is_in_eval_mode_and_dropout_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[dict[str, bool]] = []
    for name, expected in (("all", False), ("all with norms", True)):
        retrainer = make_retrainer(SELECTIONS[name])
        network = retrainer.network
        retrainer.train_epoch(
            lambda step, network=network: modes.append({own: m.training for own, m in network.named_modules()})  # type: ignore[misc]
        )
        assert modes[-1]["dropout"]
        assert modes[-1]["norm1"] is modes[-1]["norm2"] is expected
        assert not any(module.training for module in network.modules())


# The same for every rule ----------------------------------------------------------------------------------


def test_every_selection_sees_the_same_batches_in_the_same_order(monkeypatch: pytest.MonkeyPatch) -> None:
    step = retraining_module.train_step
    batches: dict[str, list[list[int]]] = {}
    noise: dict[str, list[bytes]] = {}
    for name, selection in SELECTIONS.items():
        seen, drawn = batches.setdefault(name, []), noise.setdefault(name, [])

        def noted(
            network: nn.Module, optimiser: Any, split: data.Split, indices: Any, seen: Any = seen, drawn: Any = drawn
        ) -> Any:
            seen.append(indices.tolist())
            drawn.append(torch.get_rng_state().numpy().tobytes())
            return step(network, optimiser, split, indices)

        monkeypatch.setattr(retraining_module, "train_step", noted)
        retrainer = make_retrainer(selection)
        for _ in range(2):
            retrainer.train_epoch(keep_going)
    expected = [
        batch.tolist()
        for epoch in (lanes.EPOCH + 1, lanes.EPOCH + 2)
        for batch in epoch_batches(240, batch_size=100, seed=0, epoch=epoch)
    ]
    assert batches == {name: expected for name in SELECTIONS}
    assert len(expected) == 2 * lanes.STEPS_PER_EPOCH
    assert len({tuple(own) for own in noise.values()}) == 1


def test_one_epoch_is_adam_on_one_layer_written_out() -> None:
    retrainer = make_retrainer(Selection(parts=(Part(layer="fc"),)))
    spec, split = lanes.measurement().training, load_dataset(lanes.DATASET).train
    network = load_network(lanes.checkpoint(), factory=lanes.make_network)
    network.dropout = nn.Identity()
    retrainer.network.dropout = nn.Identity()
    state = load_state(lanes.checkpoint())
    weight = network.fc.weight.detach().double().clone()
    mean, square = (state[f"fc.weight.{name}"].double() for name in ("exp_avg", "exp_avg_sq"))
    bias = network.fc.bias.detach().double().clone()
    step = int(state["fc.weight.step"])
    bias_mean, bias_square = (state[f"fc.bias.{name}"].double() for name in ("exp_avg", "exp_avg_sq"))
    for indices in epoch_batches(240, batch_size=100, seed=0, epoch=lanes.EPOCH + 1):
        pixels = torch.from_numpy(np.array(split.images[indices])).float() / 255
        with torch.no_grad():
            features = network[:-2](pixels).double()
        labels = torch.from_numpy(split.labels[indices])
        error = functional.softmax(features @ weight.T + bias, dim=1) - functional.one_hot(labels, 4)
        step += 1
        for value, gradient, first, second in (
            (weight, error.T @ features / 100, mean, square),
            (bias, error.mean(0), bias_mean, bias_square),
        ):
            first.mul_(0.9).add_(0.1 * gradient)
            second.mul_(0.999).add_(0.001 * gradient**2)
            root = (second / (1 - 0.999**step)).sqrt() + 1e-8
            value -= spec.learning_rate * first / (1 - 0.9**step) / root
    retrainer.train_epoch(keep_going)
    assert torch.allclose(retrainer.network.fc.weight.double(), weight, atol=1e-6)
    assert torch.allclose(retrainer.network.fc.bias.double(), bias, atol=1e-6)
    assert step == lanes.EPOCH * lanes.STEPS_PER_EPOCH + 2


@pytest.mark.parametrize("network", ["shufflenet_v2_x1_0", "squeezenet1_1"])
def test_all_with_norms_is_ordinary_further_training(
    network: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FSS_CACHE_DIR", str(tmp_path))
    dataset = tiny.install(monkeypatch)
    first, last = train(TrainingSpec(network=network, dataset=tiny.NAME, batch_size=12), [1, 3])
    layers = describe_layers(load_network(first), dataset.image_shape)
    everything = Selection(parts=tuple(Part(layer=name) for name in layers), with_norms=True)
    retrainer = Retrainer(first, dataset, everything)
    for _ in range(2):
        retrainer.train_epoch(keep_going)
    assert moved(load_weights(last), tensors_of(retrainer.network)) == set()
    moments = {f"moment/{name}": own.numpy() for name, own in load_state(last).items()}
    state = retrainer.state()
    assert all(np.array_equal(state[name], own) for name, own in moments.items())


# Going on -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SELECTIONS)
@pytest.mark.parametrize("seed", [0, lanes.IMPORTED_SEED])
def test_going_on_equals_retraining_at_once(name: str, seed: int) -> None:
    at_once = make_retrainer(SELECTIONS[name], seed)
    losses = [at_once.train_epoch(keep_going)[0] for _ in range(3)]
    first = make_retrainer(SELECTIONS[name], seed)
    assert first.train_epoch(keep_going)[0] == losses[0]
    kept = first.state()
    second = make_retrainer(SELECTIONS[name], seed)
    second.restore(1, kept)
    assert [second.train_epoch(keep_going)[0] for _ in range(2)] == losses[1:]
    assert moved(tensors_of(at_once.network), tensors_of(second.network)) == set()
    state = second.state()
    assert state.keys() == at_once.state().keys()
    assert all(np.array_equal(own, state[name]) for name, own in at_once.state().items())


def test_moments_go_on_from_the_checkpoint_where_there_are_some() -> None:
    continued, fresh = make_retrainer(SELECTIONS["all"], 0), make_retrainer(SELECTIONS["all"], lanes.IMPORTED_SEED)
    assert continued.start.optimiser == "continued"
    assert fresh.start.optimiser == "fresh"
    assert not any(name.startswith("moment/") for name in fresh.state())
    steps = lanes.EPOCH * lanes.STEPS_PER_EPOCH
    assert continued.state()["moment/conv1.weight.step"] == steps
    fresh.train_epoch(keep_going)
    assert fresh.state()["moment/conv1.weight.step"] == lanes.STEPS_PER_EPOCH


def test_stopping_is_looked_at_between_batches() -> None:
    retrainer = make_retrainer(SELECTIONS["all"])

    def stop(step: int) -> None:
        if step == 1:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        retrainer.train_epoch(stop)
    assert retrainer.epoch == 0


def test_the_callers_random_state_is_left_alone() -> None:
    retrainer = make_retrainer(SELECTIONS["all"])  # a factory may draw what it likes
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    retrainer.train_epoch(keep_going)
    assert torch.equal(torch.rand(3), expected)


def test_a_weight_that_is_not_finite_ends_it() -> None:
    retrainer = make_retrainer(SELECTIONS["all"])
    with torch.no_grad():
        retrainer.network.get_parameter("fc.bias")[0] = float("inf")
    with pytest.raises(TrainingError, match="became NaN or infinite in epoch 1 after the checkpoint"):
        retrainer.train_epoch(keep_going)


def test_fewer_images_than_a_batch_are_refused() -> None:
    checkpoint: Checkpoint = replace(lanes.checkpoint(), spec=replace(lanes.measurement().training, batch_size=241))
    with pytest.raises(TrainingError, match="240 training images, fewer than one batch of 241"):
        Retrainer(checkpoint, load_dataset(lanes.DATASET), SELECTIONS["all"], factory=lanes.make_network)


# Judging --------------------------------------------------------------------------------------------------


def test_judging_equals_attacking_by_hand() -> None:
    before = load_network(lanes.checkpoint(0), factory=lanes.make_network)
    after = load_network(lanes.checkpoint(1), factory=lanes.make_network)
    report = load_dataset(lanes.DATASET).report
    seen: list[tuple[str, float]] = []
    judge = Judge(before, report, 120, 0.05, device="cpu", on_pass=lambda *part: seen.append(part))
    judgement = judge.judge(after)
    pixels, labels = report.pixels(0, 120), torch.from_numpy(report.labels[:120])
    images = {
        "clean": pixels,
        "fgsm": reference.fgsm(after, pixels, labels, 0.05),
        "transfer": reference.fgsm(before, pixels, labels, 0.05),
    }
    for kind, own in images.items():
        with torch.no_grad():
            right = (after(own).argmax(1) == labels).numpy()
        assert np.array_equal(judgement.right(kind), right)  # type: ignore[arg-type]
        assert judgement.accuracy(kind) == right.mean()  # type: ignore[arg-type]
    assert judgement.num_images == 120
    assert judgement.accuracy("pgd") <= judgement.accuracy("fgsm") + 0.02
    assert judgement.accuracy("fgsm") < judgement.accuracy("transfer") < judgement.accuracy("clean")
    shares = [share for _, share in seen[2:]]
    assert shares == sorted(shares)
    assert [what for what, _ in seen] == ["FGSM images"] * 4 + ["PGD images"] * 2


def test_before_retraining_transfer_is_white_box() -> None:
    network = load_network(lanes.checkpoint(0), factory=lanes.make_network)
    report = load_dataset(lanes.DATASET).report
    judgement = Judge(network, report, 150, 0.05, device="cpu", on_pass=lambda *_: None).judge(network)
    assert np.array_equal(judgement.right("fgsm"), judgement.right("transfer"))
    assert 0 < judgement.accuracy("fgsm") < judgement.accuracy("clean")


# Criticality ----------------------------------------------------------------------------------------------


class OneWeight(nn.Module):
    """Logits (0, w · mean pixel)."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1, bias=False)
        nn.init.constant_(self.layer.weight, weight)

    def forward(self, pixels: Tensor) -> Tensor:
        logit = self.layer(pixels.mean((1, 2, 3))[:, None])
        return torch.cat([torch.zeros_like(logit), logit], dim=1)


def test_the_worst_loss_of_one_weight_is_at_the_end_of_its_interval() -> None:
    pixels, labels = torch.full((8, 1, 2, 2), 0.5), torch.ones(8, dtype=torch.int64)
    network = OneWeight(2.0)
    found = worst_loss(network, "layer", pixels, labels, radius=0.1)
    assert found == pytest.approx(np.log1p(np.exp(-0.5 * 1.8)), abs=1e-6)
    assert network.layer.weight.item() == 2.0


class OneHill(OneWeight):
    """A loss, for label 0, that is highest where w · mean pixel is 1.05."""

    def forward(self, pixels: Tensor) -> Tensor:
        logit = -((self.layer(pixels.mean((1, 2, 3))[:, None]) - 1.05) ** 2)
        return torch.cat([torch.zeros_like(logit), logit], dim=1)


def test_the_worst_loss_may_lie_inside_the_ball() -> None:
    pixels, labels = torch.full((8, 1, 2, 2), 0.5), torch.zeros(8, dtype=torch.int64)
    # Steps of a quarter of the radius, 0.4, lead from w = 2 to 2.1, the top of the hill.
    found = worst_loss(OneHill(2.0), "layer", pixels, labels, radius=0.2)
    assert found == pytest.approx(np.log(2), abs=1e-6)


def test_the_worst_loss_is_worse_than_random_changes_of_the_same_size() -> None:
    network = load_network(lanes.checkpoint(0), factory=lanes.make_network)
    before = tensors_of(network)
    probe = load_dataset(lanes.DATASET).probe
    pixels, labels = probe.pixels(), torch.from_numpy(probe.labels)
    generator = torch.Generator().manual_seed(0)
    for name in lanes.LAYERS:
        found = worst_loss(network, name, pixels, labels)
        weight = network.get_submodule(name).weight
        origin = weight.detach().clone()
        losses = []
        for _ in range(20):
            change = torch.randn(origin.shape, generator=generator)
            with torch.no_grad():
                weight.copy_(origin + change * 0.1 * origin.norm() / change.norm())
                losses.append(float(functional.cross_entropy(network(pixels), labels)))
                weight.copy_(origin)
        with torch.no_grad():
            assert found > max(*losses, float(functional.cross_entropy(network(pixels), labels)))
    assert moved(before, tensors_of(network)) == set()


def test_a_ball_of_no_size_and_a_layer_without_gradient_leave_the_loss_as_it_is() -> None:
    pixels, labels = torch.full((8, 1, 2, 2), 0.5), torch.ones(8, dtype=torch.int64)
    expected = pytest.approx(np.log1p(np.exp(-1.0)), abs=1e-6)
    assert worst_loss(OneWeight(2.0), "layer", pixels, labels, radius=0.0) == expected
    network = OneWeight(2.0)
    network.unused = nn.Linear(2, 2)
    assert worst_loss(network, "unused", pixels, labels) == expected
