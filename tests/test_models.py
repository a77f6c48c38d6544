"""The paper's networks, their filterable layers, and the weights that geometry makes dead."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import reference
import torch
import torchvision
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from networks import Branches, make_branches, snapshot, unsettle
from torch import Tensor, nn

from fss_core.conditions import seeded
from fss_core.data import DatasetCard, dataset_card
from fss_core.models import (
    LayerGeometry,
    Normalisation,
    build_network,
    describe_layers,
    filterable_modules,
    live_weights,
    select_layers,
)
from fss_core.specs import NETWORKS, NotFiniteError, UnknownLayerError, UnknownNameError

COLOUR = DatasetCard(
    name="colour",
    title="Colour",
    class_names=tuple("abcdefghijk"),
    image_shape=(3, 32, 32),
    mean=(0.5, 0.4, 0.3),
    std=(0.2, 0.25, 0.3),
    split_sizes={},
    fingerprints={},
)
STEMS = {
    "resnet18": "conv1",
    "resnet50": "conv1",
    "squeezenet1_1": "features.0",
    "shufflenet_v2_x1_0": "conv1.0",
}
CLASSIFIERS = {"resnet18": "fc", "resnet50": "fc", "squeezenet1_1": "classifier.1", "shufflenet_v2_x1_0": "fc"}
KINDS = {
    "resnet18": {"stem": 1, "3x3": 16, "downsample": 3, "classifier": 1},
    "resnet50": {"stem": 1, "1x1": 32, "3x3": 16, "downsample": 4, "classifier": 1},
    "squeezenet1_1": {"stem": 1, "1x1": 16, "3x3": 8, "classifier": 1},
    "shufflenet_v2_x1_0": {"stem": 1, "1x1": 36, "depthwise": 19, "classifier": 1},
}

every_network = pytest.mark.parametrize("name", NETWORKS)


def kinds_of(layers: dict[str, LayerGeometry]) -> dict[str, int]:
    kinds = [geometry.layer.kind for geometry in layers.values()]
    return {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}


# The four networks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "num_layers"),
    [("resnet18", 21), ("resnet50", 54), ("squeezenet1_1", 26), ("shufflenet_v2_x1_0", 57)],
)
@pytest.mark.parametrize("dataset", ["mnist5k", COLOUR], ids=["one channel", "three channels"])
def test_layers_of_the_networks(name: str, num_layers: int, dataset: str | DatasetCard) -> None:
    card = dataset_card(dataset) if isinstance(dataset, str) else dataset
    network = build_network(name, dataset=dataset)
    layers = describe_layers(network, card.image_shape)
    names = list(layers)
    assert len(names) == num_layers
    assert set(names) == set(filterable_modules(network))
    assert kinds_of(layers) == KINDS[name]
    assert names[0] == STEMS[name]
    assert names[-1] == CLASSIFIERS[name]
    assert [geometry.layer.name for geometry in layers.values()] == names
    depths = [geometry.layer.relative_depth for geometry in layers.values()]
    assert depths == [index / (num_layers - 1) for index in range(num_layers)]
    for geometry in layers.values():
        assert torch.equal(geometry.weight, network.get_parameter(f"{geometry.layer.name}.weight").detach())
        assert geometry.layer.num_weights == geometry.weight.numel()
        assert geometry.layer.num_live == int(geometry.live.sum()) > 0
        assert geometry.layer.num_products > 0


@every_network
@pytest.mark.parametrize("dataset", ["mnist5k", COLOUR], ids=["one channel", "three channels"])
def test_networks_are_torchvision_s_adapted_to_the_data(name: str, dataset: str | DatasetCard) -> None:
    """Same parameter names and, but for the stem and the classifier, the same shapes; so it is x1.0 and v1.1."""
    card = dataset_card(dataset) if isinstance(dataset, str) else dataset
    network = build_network(name, dataset=dataset)
    with torch.device("meta"):
        stock = torchvision.models.get_model(name, weights=None, num_classes=card.num_classes)
    ours = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    theirs = {key: tuple(value.shape) for key, value in stock.state_dict().items()}
    assert ours.pop("normalise.mean") == ours.pop("normalise.std") == (card.image_shape[0], 1, 1)
    stem = f"{STEMS[name]}.weight"
    assert ours.pop(stem) == (theirs[stem][0], card.image_shape[0], *theirs.pop(stem)[2:])
    assert ours == theirs
    own, other = (model.get_submodule(STEMS[name]) for model in (network, stock))
    assert (own.stride, own.padding, own.bias is None) == (other.stride, other.padding, other.bias is None)


@every_network
def test_logits_are_torchvision_s_of_normalised_pixels(name: str) -> None:
    network = build_network(name, dataset=COLOUR).eval()
    stock = torchvision.models.get_model(name, weights=None, num_classes=COLOUR.num_classes).eval()
    weights = {key: value for key, value in network.state_dict().items() if not key.startswith("normalise.")}
    stock.load_state_dict(weights, strict=True)
    pixels = torch.rand(2, *COLOUR.image_shape, generator=torch.Generator().manual_seed(0))
    by_hand = torch.stack(
        [(pixels[:, c] - COLOUR.mean[c]) / COLOUR.std[c] for c in range(COLOUR.image_shape[0])], dim=1
    )
    with torch.no_grad():
        logits = network(pixels)
        assert logits.shape == (2, COLOUR.num_classes)
        torch.testing.assert_close(logits, stock(by_hand), rtol=1e-4, atol=1e-5)


@every_network
def test_nothing_works_in_place(name: str) -> None:
    network = build_network(name)
    assert network.training
    assert [key for key, module in network.named_modules() if getattr(module, "inplace", False)] == []
    assert any(hasattr(module, "inplace") for module in network.modules())
    pixels = torch.rand(2, 1, 28, 28)
    before = pixels.clone()
    network.eval()(pixels)
    assert torch.equal(pixels, before)


@every_network
def test_a_seed_is_an_initialisation(name: str) -> None:
    first, again, other = (build_network(name, seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[key], again[key]) for key in first)
    for layer in filterable_modules(build_network(name)):
        assert not torch.equal(first[f"{layer}.weight"], other[f"{layer}.weight"]), layer


def test_building_leaves_the_global_random_state_alone() -> None:
    torch.manual_seed(3)
    np_state = np.random.get_state()[1].copy()  # noqa: NPY002
    torch_state = torch.get_rng_state()
    build_network("squeezenet1_1", seed=5)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == np_state).all()  # noqa: NPY002


def test_normalisation_by_hand() -> None:
    normalise = Normalisation((0.5, 0.25), (0.5, 0.125))
    pixels = torch.tensor([[[[1.0]], [[0.5]]]])
    assert normalise(pixels).flatten().tolist() == [1.0, 2.0]
    assert set(normalise.state_dict()) == {"mean", "std"}
    assert list(normalise.parameters()) == []


def test_unknown_names_are_refused_in_one_line() -> None:
    with pytest.raises(UnknownNameError, match=r"^no network 'vgg11'; choose from resnet18, .*$"):
        build_network("vgg11")
    with pytest.raises(UnknownNameError, match=r"^no data set 'svhn'[^\n]*$"):
        build_network("resnet18", dataset="svhn")


# Dead weights ---------------------------------------------------------------------------------------------


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[nn.Conv2d, int, int]:
    """A small convolution, and the height and width of its input."""
    pair = st.tuples(st.integers(1, 4), st.integers(1, 4))
    kernel, size = draw(pair), draw(st.tuples(st.integers(1, 6), st.integers(1, 6)))
    dilation = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    groups = draw(st.sampled_from([1, 2]))
    if draw(st.booleans()):
        padding: str | tuple[int, int] = draw(st.sampled_from(["same", "valid"]))
        stride = (1, 1) if padding == "same" else draw(pair)
    else:
        padding, stride = draw(st.tuples(st.integers(0, 4), st.integers(0, 4))), draw(pair)
    for axis in range(2):
        around = 2 * padding[axis] if not isinstance(padding, str) else 0
        assume(padding == "same" or size[axis] + around >= dilation[axis] * (kernel[axis] - 1) + 1)
    with seeded(0):
        conv = nn.Conv2d(2, 2, kernel, stride=stride, padding=padding, dilation=dilation, groups=groups)
    return conv, *size


@settings(max_examples=150, deadline=None)
@given(convolutions())
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_dead_weights_equal_the_reference(case: tuple[nn.Conv2d, int, int]) -> None:
    conv, height, width = case
    live = live_weights(conv, (1, 2, height, width))
    assert torch.equal(~live, reference.dead_mask(conv, height, width))


@pytest.mark.parametrize(
    ("size", "live_taps"),
    [
        ((1, 1), [[0, 0, 0], [0, 1, 0], [0, 0, 0]]),
        ((1, 2), [[0, 0, 0], [1, 1, 1], [0, 0, 0]]),
        ((2, 2), [[1, 1, 1], [1, 1, 1], [1, 1, 1]]),
    ],
)
def test_dead_taps_of_a_3x3_by_hand(size: tuple[int, int], live_taps: list[list[int]]) -> None:
    assert live_weights(nn.Conv2d(1, 1, 3, padding=1), (1, 1, *size))[0, 0].int().tolist() == live_taps


def test_a_strided_3x3_on_a_2x2_map_never_reads_above_or_left() -> None:
    live = live_weights(nn.Conv2d(1, 1, 3, stride=2, padding=1), (1, 1, 2, 2))
    assert live[0, 0].int().tolist() == [[0, 0, 0], [0, 1, 1], [0, 1, 1]]


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_padding_with_pixels_kills_nothing(mode: str) -> None:
    conv = nn.Conv2d(1, 1, 3, padding=1, padding_mode=mode)
    size = (1, 1, 1, 1) if mode == "replicate" else (1, 1, 2, 2)
    assert live_weights(conv, size).all()


def test_every_weight_of_a_linear_layer_lives() -> None:
    assert live_weights(nn.Linear(3, 2), (7, 3)).all()


def test_sixty_two_percent_of_resnet18_are_dead_at_32_pixels() -> None:
    geometry = describe_layers(build_network("resnet18", dataset=COLOUR), (3, 32, 32))
    layers = [own.layer for own in geometry.values()]
    dead = 1 - sum(layer.num_live for layer in layers) / sum(layer.num_weights for layer in layers)
    assert dead == pytest.approx(0.62, abs=0.005)
    assert geometry["layer4.1.conv2"].layer.num_live * 9 == geometry["layer4.1.conv2"].layer.num_weights


@every_network
def test_perturbing_dead_weights_changes_nothing_and_live_ones_do(name: str) -> None:
    network = build_network(name, dataset=COLOUR).eval()
    layers = describe_layers(network, (3, 32, 32))
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = network(pixels)
        num_dead = 0
        for layer, geometry in layers.items():
            weight = network.get_parameter(f"{layer}.weight")
            num_dead += int((~geometry.live).sum())
            weight.masked_fill_(~geometry.live, 1e6)
        assert torch.equal(network(pixels), before)
        assert num_dead > 0
        weight = network.get_parameter(f"{list(layers)[-1]}.weight")
        weight.masked_fill_(layers[list(layers)[-1]].live, 1e6)
        assert not torch.equal(network(pixels), before)


# Describing any network -----------------------------------------------------------------------------------


class _Model(nn.Module):
    """A network given as a function of its layers."""

    def __init__(self, run: Callable[[nn.Module, Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.run(self, pixels)


def test_layers_come_in_the_order_in_which_they_run() -> None:
    model = _Model(
        lambda own, x: own.classifier(own.early(own.late_in_name(x)).mean((2, 3))),
        classifier=nn.Linear(2, 3),
        early=nn.Conv2d(4, 2, 1),
        late_in_name=nn.Conv2d(3, 4, 3),
    )
    layers = describe_layers(model, (3, 8, 8))
    assert list(layers) == ["late_in_name", "early", "classifier"]
    assert [geometry.layer.kind for geometry in layers.values()] == ["stem", "1x1", "classifier"]
    assert [geometry.layer.relative_depth for geometry in layers.values()] == [0, 0.5, 1]
    assert [geometry.layer.num_products for geometry in layers.values()] == [3 * 4 * 9 * 36, 4 * 2 * 36, 2 * 3]


def test_a_shared_module_and_a_tied_weight_are_one_layer() -> None:
    tied = nn.Conv2d(2, 2, 3, padding=1)
    other = nn.Conv2d(2, 2, 3, padding=1)
    other.weight = tied.weight
    model = _Model(
        lambda own, x: own.other(own.shared(own.tied(own.shared(own.tied(x))))).mean((2, 3)),
        tied=tied,
        shared=nn.Conv2d(2, 2, 1),
        other=other,
    )
    layers = describe_layers(model, (2, 4, 4))
    assert list(layers) == ["tied", "shared"]
    assert [geometry.layer.num_products for geometry in layers.values()] == [3 * 36 * 16, 2 * 4 * 16]


def test_a_weight_is_live_if_any_of_its_uses_is() -> None:
    conv = nn.Conv2d(1, 1, 3, padding=1)
    small = _Model(lambda own, x: own.conv(x.mean((2, 3), keepdim=True)).flatten(1), conv=conv)
    both = _Model(lambda own, x: own.conv(own.conv(x).mean((2, 3), keepdim=True)).flatten(1), conv=conv)
    assert describe_layers(small, (1, 4, 4))["conv"].layer.num_live == 1
    assert describe_layers(both, (1, 4, 4))["conv"].layer.num_live == 9


def test_dead_weights_depend_on_the_size_of_the_images() -> None:
    conv = _Model(lambda own, x: own.conv(x).mean((2, 3)), conv=nn.Conv2d(1, 2, 3, padding=1))
    assert [describe_layers(conv, (1, size, size))["conv"].layer.num_live for size in (1, 2)] == [2, 18]


def test_a_layer_that_never_runs_comes_last_and_is_not_the_classifier() -> None:
    model = _Model(
        lambda own, x: own.classifier(own.used(x).mean((2, 3))),
        idle=nn.Conv2d(3, 4, 3),
        used=nn.Conv2d(3, 4, 1),
        classifier=nn.Linear(4, 2),
    )
    layers = describe_layers(model, (3, 8, 8))
    assert list(layers) == ["used", "classifier", "idle"]
    assert layers["classifier"].layer.kind == "classifier"
    assert layers["idle"].layer.kind == "3x3"
    assert layers["idle"].layer.relative_depth == layers["classifier"].layer.relative_depth == 1


def test_a_weight_used_without_its_module_is_not_called_dead() -> None:
    model = _Model(
        lambda own, x: own.classifier(nn.functional.conv2d(x, own.inner.weight).mean((2, 3))),
        inner=nn.Conv2d(3, 4, 3, bias=False),
        classifier=nn.Linear(4, 2),
    )
    assert describe_layers(model, (3, 8, 8))["inner"].layer.num_live == 3 * 4 * 9


def test_a_layer_that_only_some_images_run_through_is_not_called_dead() -> None:
    model = _Model(
        lambda own, x: own.classifier((own.bright if float(x.mean()) > 0.3 else own.dark)(x).mean((2, 3))),
        bright=nn.Conv2d(3, 4, 1),
        dark=nn.Conv2d(3, 4, 1),
        classifier=nn.Linear(4, 2),
    )
    layers = describe_layers(model, (3, 8, 8))
    assert [layers[name].layer.num_live for name in ("bright", "dark")] == [12, 12]


@pytest.mark.parametrize(
    "normalise",
    [nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm, nn.utils.spectral_norm],
)
def test_a_weight_that_is_computed_anew_is_refused(normalise: Callable[[nn.Module], nn.Module]) -> None:
    model = nn.Sequential(normalise(nn.Conv2d(3, 2, 1)), nn.Flatten(), nn.Linear(2, 2)).eval()
    with pytest.raises(ValueError, match=r"^layer '0' must own its weight, [^\n]*$"):
        describe_layers(model, (3, 1, 1))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_name_their_layer(value: float) -> None:
    model = make_branches()
    with torch.no_grad():
        model.get_parameter("grouped.weight")[3, 1, 0, 0] = value
    with pytest.raises(NotFiniteError, match=r"^layer 'grouped' has weights that are NaN or infinite; [^\n]*$"):
        describe_layers(model, (3, 8, 8))


def test_describing_leaves_the_model_as_it_was() -> None:
    model = unsettle(make_branches())
    before = snapshot(model)
    layers = describe_layers(model, (3, 8, 8))
    assert snapshot(model) == before
    assert not any(geometry.weight.requires_grad for geometry in layers.values())
    assert list(layers) == list(dict.fromkeys(layers))
    assert set(layers) == {
        name for name, module in Branches().named_modules() if isinstance(module, nn.Conv2d | nn.Linear)
    }


def test_describing_draws_no_random_number() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(12, 2)).train()
    state = torch.get_rng_state()
    describe_layers(model, (3, 2, 2))
    assert torch.equal(torch.get_rng_state(), state)


# Choosing layers ------------------------------------------------------------------------------------------


def test_chosen_layers_come_in_network_order_and_once() -> None:
    known = ["a", "b", "c"]
    assert select_layers(known, None) == known
    for wanted in itertools.permutations(["a", "c", "c"]):
        assert select_layers(known, list(wanted)) == ["a", "c"]
    assert select_layers(known, []) == []


def test_an_unknown_layer_lists_the_choices() -> None:
    with pytest.raises(
        UnknownLayerError, match=r"^no filterable layer in resnet18 called 'conv9'; choose from conv1, fc$"
    ):
        select_layers(["conv1", "fc"], ["conv1", "conv9"], network="resnet18")
