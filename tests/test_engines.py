"""Two engines, one answer: ``fast`` predicts what plain full forward passes predict, on whatever network."""

from __future__ import annotations

import copy
import itertools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from networks import (
    IMAGE_SHAPE,
    NUM_CLASSES,
    Plain,
    make_branches,
    make_data_dependent,
    make_images,
    make_lively,
    make_plain,
    on_every_device,
    snapshot,
    unsettle,
)
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torchvision.models.shufflenetv2 import channel_shuffle

from fss_core import fast_engine, recalling
from fss_core.attacks import attack
from fss_core.data import load_dataset
from fss_core.engines import ReferenceEngine, UntraceableNetworkWarning, make_engine
from fss_core.fast_engine import FastEngine
from fss_core.measuring import measure_responses
from fss_core.models import build_network, describe_layers
from fss_core.recording import Record, Run, recorder
from fss_core.responses import Responses
from fss_core.specs import AttackSpec

EPSILON = 16 / 255


def different_cells(one: Responses, other: Responses) -> list[int]:
    """For each accuracy of a response, clean or adversarial: how many images are predicted otherwise."""
    counts: list[int] = []
    for a, b in zip(one.layers, other.layers, strict=True):
        assert a.facts.name == b.facts.name
        for own, others in (
            (a.predictions.clean, b.predictions.clean),
            (a.predictions.adversarial, b.predictions.adversarial),
        ):
            counts += (own != others).sum(-1).flatten().tolist()
    return counts


def num_distinct(responses: Responses) -> int:
    """How many filtered networks answer differently: a comparison of constants would show nothing."""
    rows = [layer.predictions.clean.reshape(-1, responses.num_images) for layer in responses.layers]
    return len({row.tobytes() for row in np.concatenate(rows)})


def answers(model: nn.Module, pixels: Tensor) -> npt.NDArray[np.int64]:
    with torch.no_grad():
        return model(pixels.clone()).argmax(1).numpy()


# The paper's networks -------------------------------------------------------------------------------------


FOUR = [
    ("resnet18", ["conv1", "layer1.1.conv2", "layer2.0.downsample.0", "layer3.0.conv1", "layer4.1.conv2", "fc"], "fc"),
    ("resnet50", ["conv1", "layer3.0.downsample.0", "layer4.0.conv2", "fc"], "fc"),
    (
        "squeezenet1_1",
        ["features.0", "features.3.squeeze", "features.4.expand3x3", "features.12.expand1x1", "classifier.1"],
        "classifier.1",
    ),
    (
        "shufflenet_v2_x1_0",
        [
            "conv1.0",
            "stage2.0.branch1.0",
            "stage2.0.branch2.3",
            "stage3.4.branch2.5",
            "stage4.3.branch2.3",
            "conv5.0",
            "fc",
        ],
        "fc",
    ),
]


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    probe = load_dataset("mnist5k").probe
    return probe.pixels()[:60], torch.from_numpy(np.array(probe.labels[:60]))


def make_network(name: str, classifier: str, pixels: Tensor) -> nn.Module:
    return make_lively(build_network(name, dataset="mnist5k"), pixels, classifier)


@pytest.mark.parametrize(
    ("name", "layers", "classifier"),
    [pytest.param(*row, id=row[0], marks=[pytest.mark.slow] if row[0] == "resnet50" else []) for row in FOUR],
)
@on_every_device
def test_fast_equals_reference_on_the_paper_s_networks(
    name: str, layers: list[str], classifier: str, digits: tuple[Tensor, Tensor], device: str
) -> None:
    pixels, labels = (tensor[:10] for tensor in digits)
    model = make_network(name, classifier, digits[0])
    adversarial = attack(model, pixels, labels, epsilon=EPSILON)
    fast, reference = (
        measure_responses(
            model, pixels, labels, adversarial, layers=layers, num_thresholds=3, engine=engine, device=device
        )
        for engine in ("fast", "reference")
    )
    assert fast.notes == ()
    assert len(set(reference.unfiltered.clean)) > 3
    assert num_distinct(reference) > 10
    counts = different_cells(fast, reference)
    assert len(counts) == 2 * 3 * 3 * len(layers)
    assert sum(counts) == 0


def test_fast_equals_reference_on_every_layer(digits: tuple[Tensor, Tensor]) -> None:
    pixels, labels = (tensor[:6] for tensor in digits)
    model = make_network("squeezenet1_1", "classifier.1", digits[0])
    adversarial = attack(model, pixels, labels, epsilon=EPSILON)
    fast, reference = (
        measure_responses(model, pixels, labels, adversarial, num_thresholds=7, engine=engine)  # type: ignore[arg-type]
        for engine in ("fast", "reference")
    )
    counts = different_cells(fast, reference)
    assert len(counts) > 1000
    assert max(counts) <= 1
    assert sum(counts) <= len(counts) / 1000


@on_every_device
def test_fast_equals_reference_when_every_filtered_network_is_attacked(
    digits: tuple[Tensor, Tensor], device: str
) -> None:
    pixels, labels = (tensor[:12] for tensor in digits)
    model = make_network("shufflenet_v2_x1_0", "fc", digits[0])
    spec = AttackSpec(epsilon=EPSILON, mode="adaptive")
    layers = ["conv1.0", "stage3.0.branch2.3", "fc"]
    fast, reference = (
        measure_responses(
            model, pixels, labels, attack=spec, layers=layers, num_thresholds=4, engine=engine, device=device
        )
        for engine in ("fast", "reference")
    )
    counts = np.array(different_cells(fast, reference))
    assert (counts <= 2).mean() >= 0.99
    assert num_distinct(reference) > 5


# A network with everything that engines trip over ---------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("scope", ["local", "global"])
@on_every_device
def test_fast_equals_reference_on_branches(seed: int, scope: str, device: str) -> None:
    model, (pixels, labels) = make_branches(seed), make_images(30, seed=seed)
    adversarial = attack(model, pixels, labels, epsilon=EPSILON)
    filters = ("high_pass", "low_pass", "pulse", "random")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fast, reference = (
            measure_responses(
                model,
                pixels,
                labels,
                adversarial,
                filters=filters,  # type: ignore[arg-type]
                num_thresholds=9,
                engine=engine,
                scope=scope,  # type: ignore[arg-type]
                device=device,
            )
            for engine in ("fast", "reference")
        )
    assert sum(different_cells(fast, reference)) == 0
    assert num_distinct(reference) > (10 if scope == "global" else 50)
    assert np.array_equal(reference.unfiltered.clean, answers(model, pixels))


@pytest.mark.parametrize("name", ["fast", "reference"])
@on_every_device
def test_an_engine_s_parts_agree_with_the_network(name: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever layers are lent other weights, alone or together, prepared or as a whole network."""
    model, (pixels, _) = make_branches(), make_images(30)
    engine = make_engine(name, model, IMAGE_SHAPE, device)  # type: ignore[arg-type]
    assert isinstance(engine, FastEngine if name == "fast" else ReferenceEngine)
    assert engine.num_classes == NUM_CLASSES
    layers = list(describe_layers(model, IMAGE_SHAPE))
    chosen = [[], *([layer] for layer in layers), *itertools.combinations(layers[::3], 2), layers]
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    for group in chosen:
        weights = {layer: model.get_parameter(f"{layer}.weight").detach() * -0.7 for layer in group}
        changed = make_branches()
        with torch.no_grad():
            for layer, weight in weights.items():
                changed.get_parameter(f"{layer}.weight").copy_(weight)
            expected = changed(pixels)
        prepared = engine.prepare(pixels.to(device), group)
        assert prepared.predict(weights).tolist() == expected.argmax(1).tolist(), group
        with prepared.network(weights) as network, torch.no_grad():
            torch.testing.assert_close(network(pixels.to(device)).cpu(), expected, rtol=1e-4, atol=1e-4)
        unchanged = {layer: model.get_parameter(f"{layer}.weight").detach() for layer in group}
        assert prepared.predict(unchanged).tolist() == answers(model, pixels).tolist()


@pytest.mark.parametrize("name", ["fast", "reference"])
def test_what_is_lent_is_given_back_also_after_an_error(name: str) -> None:
    model, (pixels, _) = make_branches(), make_images(10)
    engine = make_engine(name, model, IMAGE_SHAPE)  # type: ignore[arg-type]
    zeros = {"stem": torch.zeros_like(model.get_parameter("stem.weight")).detach()}

    def fail() -> None:
        with engine.prepare(pixels, ["stem"]).network(zeros):
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert engine.prepare(pixels, []).predict({}).tolist() == answers(model, pixels).tolist()
    assert engine.prepare(pixels, ["hidden"]).predict(
        {"hidden": model.get_parameter("hidden.weight").detach()}
    ).tolist() == (answers(model, pixels).tolist())


@pytest.mark.parametrize("name", ["fast", "reference"])
def test_gradients_reach_the_pixels_through_a_lent_network(name: str) -> None:
    model, (pixels, labels) = make_branches(), make_images(10)
    engine = make_engine(name, model, IMAGE_SHAPE)  # type: ignore[arg-type]
    weights = {"grouped": model.get_parameter("grouped.weight").detach() * 0.5}
    with engine.prepare(pixels.flip(0), ["grouped"]).network(weights) as network:
        inputs = pixels.clone().requires_grad_()
        functional.cross_entropy(network(inputs), labels).backward()
    with torch.no_grad():
        model.get_parameter("grouped.weight").mul_(0.5)
    expected = pixels.clone().requires_grad_()
    functional.cross_entropy(model(expected), labels).backward()
    torch.testing.assert_close(inputs.grad, expected.grad, rtol=1e-3, atol=1e-7)


class _Skipping(nn.Module):
    """A network in which the pixels, a tuple, and what has no gradient reach what lies downstream of a layer, too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(2))
        self.classify = nn.Linear(9, NUM_CLASSES)

    def forward(self, pixels: Tensor) -> Tensor:
        maps = self.first(pixels).relu()
        where = maps.detach() > maps.detach().mean()
        parts = (maps * 2).chunk(3, 1)
        maps = torch.cat(parts + (self.second(maps) * where, pixels), 1)  # noqa: RUF005  (a sum of tuples)
        logits: Tensor = self.classify(maps.mean((2, 3)))
        return logits


@pytest.mark.parametrize(
    ("make", "layer"), [(make_branches, "grouped"), (make_branches, "stem"), (_Skipping, "second")]
)
@on_every_device
def test_images_that_are_attacked_reach_the_filtered_layers_once(
    make: Callable[[], nn.Module], layer: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And give the same gradients; other images, or parts of them, are run as a whole."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    remembered = counting(monkeypatch)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, (pixels, labels) = make().eval(), make_images(10)
    pixels, labels = pixels.to(device), labels.to(device)
    engine = make_engine("fast", model, IMAGE_SHAPE, device)
    assert isinstance(engine, FastEngine)
    prepared = engine.prepare(pixels, [layer])
    for scale in (0.5, 1.0, -0.7):
        weights = {layer: model.get_parameter(f"{layer}.weight").detach() * scale}
        changed = copy.deepcopy(model).to(device)
        changed.get_parameter(f"{layer}.weight").data = weights[layer].to(device)
        for batch in (slice(0, 10), slice(0, 4), slice(2, 10)):
            leaf, expected = (pixels[batch].clone().requires_grad_() for _ in range(2))
            with prepared.network(weights) as network:
                functional.cross_entropy(network(leaf), labels[batch]).backward()
            functional.cross_entropy(changed(expected), labels[batch]).backward()
            torch.testing.assert_close(leaf.grad, expected.grad, rtol=1e-3, atol=1e-7)
        with prepared.network(weights) as network, torch.no_grad():
            torch.testing.assert_close(network(pixels), changed(pixels), rtol=1e-4, atol=1e-4)
    assert remembered == [10]


def counting(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count how many images are remembered, each time that some are."""
    counted: list[int] = []
    remember = recalling._Remembered.of

    def count(upstream: nn.Module, images: Tensor) -> recalling._Remembered:
        counted.append(len(images))
        return remember(upstream, images)

    monkeypatch.setattr(recalling._Remembered, "of", count)
    return counted


@pytest.mark.parametrize(("kind", "times"), [("fgsm", 3), ("pgd", 0)])
def test_a_measurement_remembers_what_an_attack_starts_at(
    kind: str, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once a layer; PGD starts elsewhere."""
    remembered = counting(monkeypatch)
    model, (pixels, labels) = make_branches(), make_images(12)
    how: dict[str, Any] = {"num_thresholds": 4, "layers": list(describe_layers(model, IMAGE_SHAPE))[1:4]}
    spec = AttackSpec(kind=kind, epsilon=0.05, steps=2)
    got = measure_responses(model, pixels, labels, **how, attack=spec)
    assert remembered == [12] * times
    expected = measure_responses(model, pixels, labels, **how, attack=spec, engine="reference")
    assert sum(different_cells(got, expected)) == 0


class _Wide(nn.Module):
    """A network whose convolutions are done by minimal filtering when it predicts."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 48, 3, padding=1)
        self.second, self.third = (nn.Conv2d(48, 48, 3, padding=1) for _ in range(2))
        self.classify = nn.Linear(48, NUM_CLASSES)

    def forward(self, pixels: Tensor) -> Tensor:
        maps = self.third(self.second(self.first(pixels).relu()).relu()).relu()
        logits: Tensor = self.classify(maps.amax((2, 3)))
        return logits


def test_a_gradient_that_is_zero_stays_zero() -> None:
    """Attacks take signs: pixels that no weight left connects with the answer are not to be changed."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model, (pixels, labels) = _Wide().eval(), make_images(10)
    weight = torch.zeros_like(model.third.weight)
    weight[0, 5, 1, 1] = 1.0
    gradients = []
    for name in ("fast", "reference"):
        prepared = make_engine(name, model, IMAGE_SHAPE).prepare(pixels, ["third"])  # type: ignore[arg-type]
        leaf = pixels.clone().requires_grad_()
        with prepared.network({"third": weight}) as network:
            functional.cross_entropy(network(leaf), labels).backward()
        gradients.append(leaf.grad)
    got, expected = gradients
    assert got is not None
    assert expected is not None
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-7)
    assert 0.2 < float((expected == 0).float().mean()) < 0.9
    assert torch.equal(got == 0, expected == 0)


@pytest.mark.parametrize("name", ["fast", "reference"])
@pytest.mark.parametrize("make", [make_branches, make_data_dependent])
@pytest.mark.filterwarnings("ignore::fss_core.engines.UntraceableNetworkWarning")
def test_an_engine_leaves_the_model_as_it_was(name: str, make: Callable[[], nn.Module]) -> None:
    model = unsettle(make())
    before = snapshot(model)
    engine = make_engine(name, model, IMAGE_SHAPE)  # type: ignore[arg-type]
    layer = next(iter(describe_layers(model, IMAGE_SHAPE)))
    engine.prepare(make_images(4)[0], [layer]).predict(
        {layer: torch.zeros(model.get_parameter(f"{layer}.weight").shape)}
    )
    assert snapshot(model) == before


# Recording ------------------------------------------------------------------------------------------------


class _Tape(TorchDispatchMode):
    """A CUDA graph in Python: what is recorded is done again on the same tensors, whatever they hold by then."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], Any]] = []
        self.num_replayed = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.done.append((func, *tree_map_only(Tensor, Tensor.detach, (args, kwargs or {}, made))))
        return made

    def record(self, run: Run) -> Run:
        with self:
            result = run()
        return lambda: self._replay(result)

    def _replay(self, result: Tensor) -> Tensor:
        self.num_replayed += 1
        for func, args, kwargs, made in self.done:
            for place, own in zip(_tensors(made), _tensors(func(*args, **kwargs)), strict=True):
                if own.data_ptr() != place.data_ptr():
                    place.copy_(own)
        return result


def _tensors(made: Any) -> list[Tensor]:
    return [made] if isinstance(made, Tensor) else [own for own in made if isinstance(own, Tensor)]


@pytest.mark.parametrize("scope", ["local", "global"])
@pytest.mark.parametrize("make", [make_branches, make_plain])
def test_what_is_recorded_and_replayed_predicts_the_same(
    make: Callable[[], nn.Module], scope: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, (pixels, labels) = make(), make_images(20)
    how: dict[str, Any] = {"num_thresholds": 7, "scope": scope, "chunk_size": 8}
    expected = measure_responses(model, pixels, labels, pixels.flip(0), **how)
    tapes: list[_Tape] = []

    def record(run: Run) -> Run:
        tapes.append(_Tape())
        return tapes[-1].record(run)

    monkeypatch.setattr(fast_engine, "recorder", lambda device: record)
    got = measure_responses(model, pixels, labels, pixels.flip(0), **how)
    assert sum(different_cells(got, expected)) == 0
    assert num_distinct(expected) > 5
    assert len(tapes) == 3 * len(expected.layers)  # one a chunk
    assert sum(tape.num_replayed for tape in tapes) > 5 * len(tapes)


def test_recording_holds_for_the_layers_it_was_made_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_engine, "recorder", lambda device: _Tape().record)
    model, (pixels, _) = make_branches(), make_images(30)
    prepared = make_engine("fast", model, IMAGE_SHAPE).prepare(pixels, ["stem", "grouped"])
    raw = {name: model.get_parameter(f"{name}.weight").detach() for name in ("stem", "grouped")}
    others = {name: -weight for name, weight in raw.items()}
    got = [prepared.predict(weights) for weights in (raw, others, raw, {"stem": raw["stem"]}, others)]
    assert got[0].tolist() == got[2].tolist() == got[3].tolist() == answers(model, pixels).tolist()


class _Offset(Plain):
    """Adds a number that lies on the CPU: a GPU is waited for, which no recording can do."""

    def forward(self, pixels: Tensor) -> Tensor:
        x = functional.relu(self.norm(self.first(pixels)))
        return self.classifier((self.second(x) + torch.tensor(0.5).to(x.device)).mean((2, 3)))


@on_every_device
def test_a_gpu_records_what_it_can_and_runs_the_rest(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[bool] = []

    def watched(where: torch.device) -> Record | None:
        record = recorder(where)

        def watch(run: Run) -> Run:
            assert record is not None
            done.append(False)
            replay = record(run)
            done[-1] = True
            return replay

        return watch if record is not None else None

    monkeypatch.setattr(fast_engine, "recorder", watched)
    pixels, labels = make_images(20)
    on_gpu = device != "cpu"
    with torch.random.fork_rng():
        torch.manual_seed(3)
        offset = make_lively(_Offset(), make_images(64, seed=1)[0], "classifier")
    for model, is_recorded in ((make_branches(), True), (offset, False), (make_plain(), True)):
        done.clear()
        usual = torch.cuda.current_stream() if on_gpu else None
        how: dict[str, Any] = {"num_thresholds": 7, "chunk_size": 10}
        got = measure_responses(model, pixels, labels, pixels.flip(0), **how, device=device)
        assert (torch.cuda.current_stream() if on_gpu else None) == usual
        expected = measure_responses(model, pixels, labels, pixels.flip(0), **how, engine="reference")
        assert sum(different_cells(got, expected)) == 0
        assert done == ([True] * 2 * len(got.layers) if is_recorded else [False]) * on_gpu


def test_what_cannot_be_recorded_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Run] = []

    def refuse(run: Run) -> Run:
        asked.append(run)
        raise RuntimeError("operation not permitted when stream is capturing")

    model, (pixels, labels) = make_branches(), make_images(20)
    expected = measure_responses(model, pixels, labels, pixels, num_thresholds=5)
    monkeypatch.setattr(fast_engine, "recorder", lambda device: refuse)
    assert sum(different_cells(measure_responses(model, pixels, labels, pixels, num_thresholds=5), expected)) == 0
    assert len(asked) == 1


# Networks that are hard to follow -------------------------------------------------------------------------


class _Statement(Plain):
    """In-place operations as statements, whose results are used under the old name."""

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.norm(self.first(pixels))
        x.relu_()
        x = self.second(x)
        functional.relu_(x)
        return self.classifier(x.mean((2, 3)))


class _RareStatement(Plain):
    """An in-place statement that redder images feel, and a ramp from black to white does not."""

    def forward(self, pixels: Tensor) -> Tensor:
        redness = functional.relu(pixels[:, :1] - pixels[:, 2:])[..., ::2, ::2]
        x = functional.relu(self.norm(self.first(pixels))) + 100 * redness
        x.clamp_(max=20)
        return self.classifier(functional.relu(self.second(x)).mean((2, 3)))


class _ViewOfMap(Plain):
    """``view`` where ``flatten`` would do: it asks for a layout."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Linear(96, NUM_CLASSES)

    def forward(self, pixels: Tensor) -> Tensor:
        x = functional.relu(self.second(functional.relu(self.norm(self.first(pixels)))))
        return self.classifier(x.view(x.size(0), -1))


class _PreActivation(Plain):
    """The shortcut sees what the in-place activation left behind."""

    def __init__(self) -> None:
        super().__init__()
        self.activation = nn.ReLU(inplace=True)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.norm(self.first(pixels))
        y = self.second(self.activation(x))
        return self.classifier((x + y).mean((2, 3)))


class _Attention(Plain):
    """A module of torch's own that uses the weights of the layers inside it without running them."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)

    def forward(self, pixels: Tensor) -> Tensor:
        x = functional.relu(self.norm(self.first(pixels))).flatten(2).transpose(1, 2)
        return self.classifier(self.attention(x, x, x)[0].mean(1))


class _Transformer(Plain):
    """A module of torch's own with layers inside it."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoderLayer(6, 2, 12, batch_first=True)

    def forward(self, pixels: Tensor) -> Tensor:
        x = functional.relu(self.norm(self.first(pixels))).flatten(2).transpose(1, 2)
        return self.classifier(self.encoder(x).mean(1))


class _FunctionalWeight(Plain):
    """A layer's weight used without the layer."""

    def forward(self, pixels: Tensor) -> Tensor:
        x = functional.conv2d(pixels, self.first.weight, stride=2, padding=1)
        x = functional.relu(self.second(functional.relu(self.norm(x))))
        return self.classifier(x.mean((2, 3)))


class _OneOfTwo(Plain):
    """Bright and dark images run through different layers."""

    def __init__(self) -> None:
        super().__init__()
        self.dark = nn.Conv2d(6, 6, 3, padding=1)

    def forward(self, pixels: Tensor) -> Tensor:
        x = functional.relu(self.norm(self.first(pixels)))
        x = self.second(x) if float(pixels.mean()) > 0.1 else self.dark(x)
        return self.classifier(functional.relu(x).mean((2, 3)))


class _Tied(Plain):
    """Two modules with one weight and different biases, and one normalisation used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Conv2d(6, 6, 3, padding=1, groups=2)
        self.other.weight = self.second.weight

    def forward(self, pixels: Tensor) -> Tensor:
        x = functional.relu(self.norm(self.first(pixels)))
        x = self.norm(self.other(functional.relu(self.second(x))))
        return self.classifier(functional.relu(x).mean((2, 3)))


class _Forked(Plain):
    """A convolution's output used both before and after its normalisation, which must then not be folded."""

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.first(pixels)
        return self.classifier(functional.relu(self.second(self.norm(x) * 0.5 + x)).mean((2, 3)))


class _NormalisesInPlace(Plain):
    """A network that overwrites the images it is given."""

    def forward(self, pixels: Tensor) -> Tensor:
        return super().forward(pixels.sub_(0.1).mul_(2))


class _Hooked(Plain):
    """A hook that changes what a layer returns."""

    def __init__(self) -> None:
        super().__init__()
        self.first.register_forward_hook(_negate)


class _Shuffled(Plain):
    """Channels of even and uneven parts, of one part, and of parts that are needed again, are shuffled."""

    def forward(self, pixels: Tensor) -> Tensor:
        x = functional.relu(self.norm(self.first(pixels)))
        y = functional.relu(self.second(x))
        even = channel_shuffle(torch.cat((x, y), dim=1), 2)
        uneven = channel_shuffle(torch.cat([even[:, :2], y], 1), 2)
        joined = torch.cat((x, uneven[:, 2:]), 1)
        again = channel_shuffle(channel_shuffle(joined, 3), 2) + joined + channel_shuffle(torch.cat((x, y), 1), 4)
        rows = channel_shuffle(torch.cat((again, again), 2), 3)
        return self.classifier((rows[:, 1:7] - rows[:, 6:]).mean((2, 3)))


class _Lowered(Plain):
    """A hook that changes what an activation returns, of few images only."""

    def __init__(self) -> None:
        super().__init__()
        self.activation = nn.ReLU()
        self.activation.register_forward_hook(lambda module, inputs, output: output.clamp(max=1.5))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.classifier(self.activation(self.second(self.activation(self.first(pixels)))).mean((2, 3)))


class _Ablated(Plain):
    """A hook that has a layer return what it was given, which others read, too."""

    def __init__(self) -> None:
        super().__init__()
        self.third = nn.Conv2d(self.second.out_channels, self.second.out_channels, 1)
        self.third.register_forward_hook(lambda module, inputs, output: inputs[0])
        self.shortcut = nn.Conv2d(self.second.out_channels, self.second.out_channels, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        x = functional.relu(self.second(functional.relu(self.first(pixels))))
        return self.classifier((self.third(x) + self.shortcut(x)).mean((2, 3)))


def _negate(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return -output


HARD = [
    _Statement,
    _RareStatement,
    _ViewOfMap,
    _PreActivation,
    _Attention,
    _Transformer,
    _FunctionalWeight,
    _OneOfTwo,
    _Tied,
    _Forked,
    _NormalisesInPlace,
    _Hooked,
    _Lowered,
    _Ablated,
    _Shuffled,
]


@pytest.mark.parametrize("network", HARD)
@pytest.mark.filterwarnings("ignore::fss_core.engines.UntraceableNetworkWarning")
@on_every_device
def test_fast_is_right_or_falls_back_on_networks_that_are_hard_to_follow(network: type[nn.Module], device: str) -> None:
    """Against the network itself, with one layer's weights changed at a time by hand."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = make_lively(network(), make_images(64, seed=1)[0], "classifier")
    pixels, labels = make_images(30)
    before = pixels.clone()
    both = {
        engine: measure_responses(
            model,
            pixels,
            labels,
            pixels,
            num_thresholds=5,
            engine=engine,  # type: ignore[arg-type]
            device=device,
        )
        for engine in ("reference", "fast")
    }
    assert torch.equal(pixels, before)
    assert num_distinct(both["reference"]) > 8
    for engine, responses in both.items():
        assert np.array_equal(responses.unfiltered.clean, answers(model, pixels)), engine
        for layer in responses.layers:
            weight = model.get_parameter(f"{layer.facts.name}.weight")
            raw = weight.detach().clone()
            for k, threshold in enumerate(layer.facts.thresholds):
                with torch.no_grad():
                    weight.copy_(raw.masked_fill(raw.double() <= threshold, 0))
                expected = answers(model, torch.cat([pixels, pixels]))[: len(pixels)]
                with torch.no_grad():
                    weight.copy_(raw)
                assert np.array_equal(layer.predictions.clean[0, k], expected), (engine, layer.facts.name, k)


# Falling back ---------------------------------------------------------------------------------------------


def test_a_network_that_cannot_be_traced_is_measured_by_the_reference_engine_and_says_so() -> None:
    model, (pixels, labels) = make_data_dependent(), make_images(20)
    with pytest.warns(
        UntraceableNetworkWarning, match=r"^the network cannot be traced \([^\n]*\); the reference engine"
    ):
        responses = measure_responses(model, pixels, labels, pixels, num_thresholds=5)
    assert responses.notes == ("measured by the reference engine: the network cannot be traced",)
    assert responses.notes[0] in responses.cautions
    expected = measure_responses(make_plain(), pixels, labels, pixels, num_thresholds=5, engine="reference")
    assert sum(different_cells(responses, expected)) == 0
    assert expected.notes == ()


@pytest.mark.parametrize("place", ["", "second", "norm"])
@pytest.mark.parametrize("kind", ["forward_hook", "forward_pre_hook", "full_backward_hook", "full_backward_pre_hook"])
def test_hooks_are_left_to_the_reference_engine(place: str, kind: str) -> None:
    model = make_plain()
    getattr(model.get_submodule(place), f"register_{kind}")(lambda *_: None)
    with pytest.warns(UntraceableNetworkWarning, match=f"{place or 'the network'} has hooks"):
        assert isinstance(make_engine("fast", model, IMAGE_SHAPE), ReferenceEngine)


def test_the_reference_engine_never_traces() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert isinstance(make_engine("reference", make_data_dependent(), IMAGE_SHAPE), ReferenceEngine)
        for network in (make_plain(), _Shuffled().eval()):
            assert isinstance(make_engine("fast", network, IMAGE_SHAPE), FastEngine)


def test_falling_back_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.warns(UntraceableNetworkWarning):
        make_engine("fast", make_data_dependent(), IMAGE_SHAPE)
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        make_engine("fast", _ViewOfMap().eval(), IMAGE_SHAPE)
    assert capfd.readouterr() == ("", "")


def test_engines_leave_the_random_state_alone() -> None:
    state = torch.get_rng_state()
    for name in ("fast", "reference"):
        make_engine(name, make_branches(), IMAGE_SHAPE).prepare(make_images(2)[0], ["stem"])  # type: ignore[arg-type]
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", ["fast", "reference"])
def test_images_of_any_size_and_a_network_without_convolutions(name: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(7 * 3, 9), nn.ReLU(), nn.Linear(9, 4))
    pixels = torch.rand(11, 1, 7, 3, generator=torch.Generator().manual_seed(0))
    responses = measure_responses(
        model,
        pixels,
        torch.arange(11) % 4,
        pixels,
        num_thresholds=3,
        engine=name,  # type: ignore[arg-type]
    )
    assert [layer.facts.name for layer in responses.layers] == ["1", "3"]
    assert responses.unfiltered.clean.tolist() == answers(model, pixels).tolist()
