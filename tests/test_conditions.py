"""The conditions under which networks run, and devices that have no float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lanes
import pytest
import torch
from networks import IMAGE_SHAPE, NUM_CLASSES, Branches
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fss_core.attacks import attack, calibrate_epsilon
from fss_core.conditions import computing_in, device_of, exact, full_precision, seeded, swapped
from fss_core.data import load_dataset
from fss_core.filters import high_pass, low_pass, pulse
from fss_core.measuring import measure_responses
from fss_core.retraining.rules import Part, Selection
from fss_core.retraining.training import Retrainer
from fss_core.specs import AttackSpec, Engine, Filter, TrainingSpec
from fss_core.training import train


class NoFloat64(TorchFunctionMode):
    """Refuses, as Apple's GPUs do, to make a tensor float64 that was not taken off the device by ``cpu()`` before."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = [own for own in (*args, *(kwargs or {}).values()) if isinstance(own, Tensor)]
        result = func(*args, **(kwargs or {}))
        if func is Tensor.cpu:
            result = result.view_as(result)
            result.taken_off = True
        elif isinstance(result, Tensor) and result.dtype is torch.float64 and given:
            elsewhere = any(own.dtype is torch.float64 or hasattr(own, "taken_off") for own in given)
            assert elsewhere, f"{func} makes a float64 tensor on the device"
        return result


@pytest.fixture
def no_float64() -> Iterator[None]:
    with NoFloat64():
        yield


# What a block chooses -------------------------------------------------------------------------------------


def test_a_seed_is_for_a_block_only() -> None:
    torch.manual_seed(3)
    state = torch.get_rng_state()
    with seeded(1):
        first = torch.rand(3)
    assert torch.equal(torch.get_rng_state(), state)
    with seeded(1):
        assert torch.equal(torch.rand(3), first)


def test_arithmetic_is_chosen_for_a_block_only() -> None:
    flags = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [own.allow_tf32 for own in flags]
    with computing_in("tf32", "cpu"):
        assert [own.allow_tf32 for own in flags] == [True, True]
        with full_precision():
            assert [own.allow_tf32 for own in flags] == [False, False]
        assert [own.allow_tf32 for own in flags] == [True, True]
    assert [own.allow_tf32 for own in flags] == before
    with computing_in("bf16", "cpu"), full_precision("cpu"):
        assert not torch.is_autocast_enabled("cpu")


def test_weights_are_lent_for_a_block_only_also_when_it_fails() -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2))
    modules, own = dict(model.named_modules()), model[0].weight.detach().clone()
    with swapped(modules, {"0": torch.zeros(2, 2)}), torch.no_grad():
        assert torch.equal(model(torch.ones(1, 2))[0], model[1].bias)
    assert torch.equal(model[0].weight, own)
    with pytest.raises(RuntimeError, match="stop"), swapped(modules, {"0": torch.zeros(2, 2)}):
        raise RuntimeError("stop")
    assert torch.equal(model[0].weight, own)


def test_a_network_without_weights_is_on_the_cpu() -> None:
    assert device_of(nn.ReLU()) == torch.device("cpu")
    assert device_of(nn.Linear(2, 2, device="meta")) == torch.device("meta")


# Devices without float64 ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_float64")
def test_the_device_without_float64_is_one() -> None:
    values = torch.rand(3)
    for make in (Tensor.double, lambda own: own.to(torch.float64), lambda own: own.mean(dtype=torch.float64)):
        with pytest.raises(AssertionError, match="makes a float64 tensor on the device"):
            make(values)
    assert exact(values).mean().dtype is torch.float64


@pytest.mark.usefixtures("no_float64")
@pytest.mark.parametrize("engine", ["fast", "reference"])
@pytest.mark.parametrize("frozen", [True, False])
def test_measuring_asks_the_device_for_no_float64(engine: Engine, frozen: bool) -> None:
    with seeded(0):
        model, pixels = Branches().eval(), torch.rand(6, *IMAGE_SHAPE)
    labels = torch.arange(6) % NUM_CLASSES
    adversarial = attack(model, pixels, labels, kind="pgd", epsilon=0.1)
    ways: dict[str, Any] = {"adversarial": adversarial} if frozen else {"attack": AttackSpec(epsilon=0.1)}
    filters: tuple[Filter, ...] = ("high_pass", "low_pass", "pulse", "random")
    measured = measure_responses(model, pixels, labels, filters=filters, num_thresholds=4, engine=engine, **ways)
    assert not measured.notes
    assert len(measured.layers) == 8


@pytest.mark.usefixtures("no_float64")
def test_filters_and_calibration_ask_the_device_for_no_float64() -> None:
    weight = torch.tensor([-1.0, 0.0, 1.0])
    assert high_pass(weight, 0.0).tolist() == [0, 0, 1]
    assert low_pass(weight, 0.0).tolist() == [-1, 0, 0]
    assert pulse(weight, 0.0, 1.0).tolist() == [-1, 0, 1]
    with seeded(0):
        calibrate_epsilon(Branches().eval(), torch.rand(6, *IMAGE_SHAPE), torch.arange(6) % NUM_CLASSES)


@pytest.mark.usefixtures("no_float64")
def test_training_and_retraining_ask_the_device_for_no_float64(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FSS_CACHE_DIR", str(tmp_path))
    lanes.make_cache(tmp_path)
    spec = TrainingSpec(network="resnet18", dataset=lanes.DATASET, batch_size=20)
    [trained] = train(spec, [1])
    assert trained.epoch == 1
    parts = (Part(layer="conv2", pulses=(1, 2)), Part(layer="fc", pulses=(4,)))
    retrainer = Retrainer(
        lanes.checkpoint(0),
        load_dataset(lanes.DATASET),
        Selection(parts=parts, num_thresholds=5),
        factory=lanes.make_network,
    )
    loss, _ = retrainer.train_epoch(lambda step: None)
    assert loss > 0
