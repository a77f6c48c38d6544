"""What a part of a graph overwrites is its own: not what it was given, is read again, or is kept for gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fss_core.graphs import Plan, trace


class Block(nn.Module):
    """A residual block whose sum and activations can be done in many ways."""

    def __init__(self, body: Callable[[Block, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.shortcut = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
        self.relu, self.body = nn.ReLU(inplace=True), body

    def forward(self, maps: Tensor) -> Tensor:
        return self.body(self, maps)


def plain(own: Block, maps: Tensor) -> Tensor:
    return own.relu(own.second(own.relu(own.first(maps))) + own.shortcut(maps))


def of_what_is_given(own: Block, maps: Tensor) -> Tensor:
    return torch.add(F.relu(maps) + maps, own.second(torch.relu(maps)))


def read_twice(own: Block, maps: Tensor) -> Tensor:
    once = own.first(maps)
    return F.relu(once) + once


def of_activations(own: Block, maps: Tensor) -> Tensor:
    return own.relu(own.first(maps)) + own.relu(own.second(maps))


def to_itself(own: Block, maps: Tensor) -> Tensor:
    once = own.first(maps)
    return once + once


def of_another_shape(own: Block, maps: Tensor) -> Tensor:
    return own.first(maps).mean((2, 3), keepdim=True) + own.second(maps[:, :, :1, :1]) + maps


def of_a_view(own: Block, maps: Tensor) -> Tensor:
    return own.relu(own.first(maps).flatten(1))


def of_numbers(own: Block, maps: Tensor) -> Tensor:
    return 2 + own.first(maps) + 3.5 + own.second(maps).argmax(1, keepdim=True) + (own.first(maps) > 0)


def of_shapes(own: Block, maps: Tensor) -> Tensor:
    pixels = maps.size(2) + maps.size(3) + 1
    shape = maps.shape[:1] + (3,) + maps.shape[2:]  # noqa: RUF005  (a sum of tuples is what is tested)
    return own.first(maps).view(shape) + pixels + own.second(maps)


def by_name(own: Block, maps: Tensor) -> Tensor:
    return own.relu(input=own.first(maps)) + torch.relu(input=own.second(maps))


def of_whole_numbers(own: Block, maps: Tensor) -> Tensor:
    return (own.first(maps).argmax(1) + own.second(maps).argmax(1)) + 0.5 + maps.mean(1)


BODIES = (
    plain,
    of_what_is_given,
    read_twice,
    of_activations,
    to_itself,
    of_another_shape,
    of_a_view,
    of_numbers,
    of_shapes,
    by_name,
    of_whole_numbers,
)


def in_place(module: nn.Module) -> list[str]:
    assert isinstance(module, fx.GraphModule)
    names = [node.target.__name__ for node in module.graph.nodes if callable(node.target)]
    return [name for name in names if name in ("relu_", "_add_into")]


@pytest.mark.parametrize("cut_at", ["first", "second"])
@pytest.mark.parametrize("body", BODIES)
def test_memory_is_reused_where_nobody_sees_it(body: Callable[[Block, Tensor], Tensor], cut_at: str) -> None:
    torch.manual_seed(0)
    model = Block(body).eval().requires_grad_(False)
    maps = torch.randn(4, 3, 5, 5)
    kept = maps.clone()
    expected = model(maps)
    root = trace(model)
    calls = [node for node in root.graph.nodes if node.target == cut_at]
    plan = Plan.split(root, {}, calls)
    with torch.no_grad():
        cut = plan.upstream(maps)
        tensors = [own for own in cut if isinstance(own, Tensor)]
        before = [own.clone() for own in tensors]
        for _ in range(2):
            assert torch.equal(plan.downstream(*cut), expected)
        assert all(map(torch.equal, tensors, before))
    assert torch.equal(maps, kept)
    leaf, other = maps.clone().requires_grad_(), maps.clone().requires_grad_()
    (wanted,), (found,) = (
        torch.autograd.grad(run(own * 1).square().sum(), own) for run, own in ((model, leaf), (plan.whole, other))
    )
    assert torch.equal(found, wanted)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (plain, ["relu_", "_add_into", "relu_"]),
        (read_twice, []),
        (of_activations, ["relu_", "relu_"]),
        (of_a_view, []),
    ],
)
def test_only_what_is_made_for_one_reader_is_overwritten(
    body: Callable[[Block, Tensor], Tensor], expected: list[str]
) -> None:
    assert in_place(Plan.split(trace(Block(body).eval()), {}, []).whole) == expected


def test_a_sum_of_another_type_is_a_new_tensor() -> None:
    torch.manual_seed(0)
    model = Block(lambda own, maps: own.first(maps) + maps).eval().requires_grad_(False)
    maps = torch.randn(4, 3, 5, 5)
    whole = Plan.split(trace(model), {}, []).whole
    assert in_place(whole) == ["_add_into"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected, found = model(maps), whole(maps)
    assert found.dtype == expected.dtype == torch.float32
    assert torch.equal(found, expected)
