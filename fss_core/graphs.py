"""Surgery on a traced network: what the fast engine does to a graph before it runs parts of it."""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torchvision.models.shufflenetv2 import channel_shuffle

from fss_core.products import StandInConv, channels_first, channels_last


def _shuffle_channels(maps: Tensor, groups: int) -> Tensor:
    """Deal the channels of each group out in turn, as torchvision's ``channel_shuffle``, but channels-last."""
    last = channels_last(maps)
    grouped = last.reshape(*last.shape[:3], groups, -1)
    return channels_first(grouped.transpose(3, 4).flatten(3))


def _shuffle_parts(parts: Sequence[Tensor], groups: int) -> Tensor:
    """Put tensors side by side along the channels, and shuffle these: at once where each is one group."""
    if len(parts) != groups or len({part.shape for part in parts}) > 1:
        return _shuffle_channels(torch.cat(tuple(parts), 1), groups)
    return channels_first(torch.stack([channels_last(part) for part in parts], -1).flatten(3))


_OUT_OF_PLACE: dict[Any, Any] = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
}


def _is_in_place(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return bool(getattr(modules[str(node.target)], "inplace", False))
    if node.op not in ("call_function", "call_method"):
        return False
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    ends = name.endswith("_") and not name.endswith("__")
    return bool(node.kwargs.get("inplace")) or node.target in _OUT_OF_PLACE or ends


def forbid_in_place(graph: fx.Graph, modules: Mapping[str, nn.Module]) -> None:
    """Make every operation return a new tensor, since what several filters share must not be overwritten.

    Raises:
        ValueError: an in-place operation has no counterpart, or what it overwrites is used again.
    """
    place = {node: index for index, node in enumerate(graph.nodes)}
    # All of them first: switching off a module that is called twice would hide its second call.
    in_place = [node for node in graph.nodes if _is_in_place(node, modules)]
    for node in in_place:
        overwritten = node.all_input_nodes[0]
        if any(place[user] > place[node] for user in overwritten.users):
            raise ValueError(f"{overwritten} is overwritten by {node} and used again")
    for node in in_place:
        if node.op == "call_module":
            modules[str(node.target)].inplace = False  # type: ignore[assignment]
        elif node.kwargs.get("inplace"):
            node.kwargs = {**node.kwargs, "inplace": False}
        elif node.op == "call_function":
            name = getattr(node.target, "__name__", "")[:-1]
            node.target = _OUT_OF_PLACE.get(node.target) or getattr(torch, name, None) or getattr(F, name)
        else:
            if not hasattr(Tensor, str(node.target)[:-1]):
                raise ValueError(f"in-place operation {node.target} cannot be replaced")
            node.target = str(node.target)[:-1]


def keep_channels_last(graph: fx.Graph) -> None:
    """Replace operations that need, or make, tensors in the other memory format."""
    for node in graph.nodes:
        if node.target is channel_shuffle:
            node.target = _shuffle_channels
            joined = node.all_input_nodes[0]
            where = (*joined.args[1:], *joined.kwargs.values())
            if joined.target is torch.cat and where == (1,) and len(joined.users) == 1:
                node.target, node.args = _shuffle_parts, (joined.args[0], *node.args[1:])
                graph.erase_node(joined)
        elif node.op == "call_method" and node.target == "view" and torch.dtype not in map(type, node.args):
            node.target = "reshape"


_ACTIVATIONS = (nn.ReLU, torch.relu, F.relu)
_SUMS = (operator.add, torch.add)


def reuse_memory(built: fx.GraphModule) -> None:
    """Let activations and sums write over what they read, where that was made for them alone; gradients stay right.

    That is so of what a convolution, a product or a sum made, if nothing else reads it: their gradients do not look at
    what they made. SqueezeNet and ShuffleNet take 1.07 and 1.09 times as long without it, the ResNets as long as with
    it: ``python -m benchmarks.ideas``.

    Args:
        built: modules in it have no hooks.
    """
    modules = dict(built.named_modules(remove_duplicate=False))

    def is_spare(node: fx.node.Argument) -> bool:
        if not isinstance(node, fx.Node) or len(node.users) > 1:
            return False
        made_by = modules[str(node.target)] if node.op == "call_module" else node.target
        return isinstance(made_by, nn.Conv2d | nn.Linear | StandInConv) or made_by in (*_SUMS, _add_into)

    for node in built.graph.nodes:
        does = type(modules[str(node.target)]) if node.op == "call_module" else node.target
        spare = [index for index, own in enumerate(node.args) if is_spare(own)]
        if does in _ACTIVATIONS and spare == [0]:
            node.op, node.target, node.args, node.kwargs = "call_function", torch.relu_, node.args[:1], {}
        elif does in _SUMS and not node.kwargs and len(node.args) == 2 and spare:
            node.target, node.args = _add_into, (*node.args, spare[0])
    built.recompile()


def _add_into(left: Any, right: Any, spare: int) -> Any:
    """Add, in place of the left (0) or the right (1) one if that is a tensor like the sum."""
    place, other = (left, right) if spare == 0 else (right, left)
    if not isinstance(place, Tensor) or torch.result_type(place, other) != place.dtype:
        return left + right
    fits = not isinstance(other, Tensor) or other.shape == place.shape
    return place.add_(other) if fits else left + right


def trace(model: nn.Module) -> fx.GraphModule:
    """Trace a network whose every operation returns a new tensor, channels-last where that is faster.

    Args:
        model: in eval mode; its modules are shared with the result, and in-place ones are switched over.

    Returns:
        The traced network, open to further surgery.

    Raises:
        Exception: the network cannot be traced, or an in-place operation cannot be replaced.
    """
    root = fx.GraphModule(model, fx.Tracer(autowrap_functions=(channel_shuffle,)).trace(model))
    forbid_in_place(root.graph, dict(root.named_modules(remove_duplicate=False)))
    keep_channels_last(root.graph)
    return root


def tensor_shapes(root: fx.GraphModule, sample: Tensor) -> dict[fx.Node, tuple[int, ...]]:
    """Run a graph and note the shape of every tensor in it."""
    shapes = _Shapes(root)
    shapes.run(sample.clone())
    return shapes.found


class _Shapes(fx.Interpreter):
    def __init__(self, root: fx.GraphModule) -> None:
        super().__init__(root)
        self.found: dict[fx.Node, tuple[int, ...]] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.found[n] = tuple(result.shape)
        return result


@dataclass(frozen=True, slots=True)
class Plan:
    """A graph cut in two: what some nodes depend on not at all, and what they do.

    Attributes:
        upstream: pixels → the values that cross the cut, in order.
        downstream: those values → logits.
        whole: pixels → logits.
    """

    upstream: nn.Module
    downstream: nn.Module
    whole: nn.Module

    @classmethod
    def split(cls, root: fx.GraphModule, stand_ins: Mapping[fx.Node, str], replaced: Collection[fx.Node]) -> Plan:
        """Cut a graph at the nodes whose weights will be replaced; with none, at the logits."""
        (pixels,) = (node for node in root.graph.nodes if node.op == "placeholder")
        (output,) = (node for node in root.graph.nodes if node.op == "output")
        after: set[fx.Node] = set()
        for node in root.graph.nodes:
            if node in replaced or any(source in after for source in node.all_input_nodes):
                after.add(node)
        after.discard(output)
        every = [node for node in root.graph.nodes if node not in (pixels, output)]
        before = [node for node in every if node not in after]
        behind = [node for node in every if node in after]
        logits = output.args[0]
        needed = {source for node in behind for source in node.all_input_nodes} | ({logits} - after)
        cut = [node for node in (pixels, *before) if node in needed]
        build = _Builder(root, stand_ins)
        return cls(
            upstream=build([pixels], before, tuple(cut)),
            downstream=build(cut, behind, logits),
            whole=build([pixels], every, logits),
        )


@dataclass(frozen=True, slots=True)
class _Builder:
    root: fx.GraphModule
    stand_ins: Mapping[fx.Node, str]

    def __call__(self, inputs: list[fx.Node], nodes: list[fx.Node], result: fx.node.Argument) -> nn.Module:
        needed: set[fx.Node] = set()
        fx.node.map_arg(result, needed.add)
        for node in reversed(nodes):
            if node in needed:
                needed.update(node.all_input_nodes)
        graph = fx.Graph()
        copies = {node: graph.placeholder(f"given_{index}") for index, node in enumerate(inputs)}
        for node in nodes:
            if node in needed:
                copies[node] = graph.node_copy(node, copies.__getitem__)
                if node in self.stand_ins:
                    copies[node].target = self.stand_ins[node]
        graph.output(fx.node.map_arg(result, copies.__getitem__))
        built = fx.GraphModule(self.root, graph)
        reuse_memory(built)
        return built
