"""The fast engine: only what lies downstream of the replaced layers is run, on a simplified graph.

- what lies upstream is computed once per batch of images and shared by all filters of a layer, also where each
  filtered network is attacked (:mod:`fss_core.recalling`);
- batch normalisation is folded into the convolution before it (masks are made from the raw weights);
- tensors are kept channels-last, also where ShuffleNet shuffles channels;
- convolutions on small maps become matrix products (:mod:`fss_core.products`), on a CPU and in float32 by fewer
  products than they have taps (:mod:`fss_core.winograd`);
- activations and sums write over what was made for them alone;
- on a GPU that can, what lies downstream is recorded once and replayed (:mod:`fss_core.recording`).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn

from fss_core.attacks import IMAGES_PER_PASS
from fss_core.conditions import device_of, exact, swapped
from fss_core.graphs import Plan, tensor_shapes, trace
from fss_core.models import filterable_modules
from fss_core.products import StandInConv, as_product
from fss_core.recalling import RecallingNetwork
from fss_core.recording import Run, recorder
from fss_core.winograd import by_winograd

Purpose = Literal["predictions", "gradients"]
MakeStandIn = Callable[[nn.Conv2d, tuple[int, ...]], StandInConv | None]
"""Makes what does a convolution on maps (C, H, W) in its place, where that is faster."""


def _has_hooks(module: nn.Module) -> bool:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(module, kind) for kind in kinds)


class FastEngine:
    """Runs only what lies downstream of the replaced layers, on a simplified graph.

    Args:
        model: in eval mode; the engine's own.
        sample: at least two images of the size to be measured.
        saves_products: use minimal filtering, too, whose sums shorter arithmetic would spoil.

    Raises:
        Exception: the network cannot be traced, has hooks, or the simplified graph does not give the same logits.
    """

    def __init__(self, model: nn.Module, sample: Tensor, *, saves_products: bool = True) -> None:
        """Trace, simplify, and check the result against the plain network."""
        with torch.no_grad():
            expected: Tensor = model(sample.clone())
            self.num_classes = int(expected.shape[-1])
            if hooked := [name or "the network" for name, module in model.named_modules() if _has_hooks(module)]:
                raise ValueError(f"{hooked[0]} has hooks, which a simplified graph might not run")
            self._owner = {id(module.weight): name for name, module in filterable_modules(model).items()}
            self._root = trace(model)
            self._graph = self._root.graph
            self._modules: dict[str, nn.Module] = dict(self._root.named_modules(remove_duplicate=False))
            self._scales: dict[str, Tensor] = {}
            self._calls = self._find_calls()
            self._fold_batch_norms()
            for module in self._modules.values():
                if isinstance(module, nn.Conv2d):
                    module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
            products = self._make_stand_ins(sample, as_product)
            shorter = self._make_stand_ins(sample, by_winograd) if saves_products else {}
            self._stand_ins = {"gradients": products, "predictions": products | shorter}
            self._plans: dict[tuple[frozenset[str], Purpose], Plan] = {}
            self._record = recorder(sample.device)
            got = self.prepare(sample, [])
            difference = (got.logits({}) - expected).abs().max()
            if not difference <= 1e-3 * expected.abs().max() + 1e-6:
                raise ValueError(f"its traced graph gives other logits, by {float(difference):.2g}")

    def _module(self, node: fx.Node) -> nn.Module:
        return self._modules[str(node.target)]

    def _find_calls(self) -> dict[str, list[fx.Node]]:
        """Layer name → the nodes that use its weight (several when a module is shared or a weight is tied)."""
        calls: dict[str, list[fx.Node]] = {name: [] for name in self._owner.values()}
        for node in self._graph.nodes:
            module = self._module(node) if node.op == "call_module" else None
            if isinstance(module, nn.Conv2d | nn.Linear):
                calls[self._owner[id(module.weight)]].append(node)
            elif node.op == "get_attr" and id(operator.attrgetter(node.target)(self._root)) in self._owner:
                raise ValueError(f"{node.target} is used outside its module")
            elif module is not None and any(isinstance(part, nn.Conv2d | nn.Linear) for part in module.modules()):
                raise ValueError(f"{node.target} runs layers of its own")
        return calls

    def _fold_batch_norms(self) -> None:
        """Fold each batch normalisation that follows a convolution used once, and nothing else, into it."""
        for name, nodes in self._calls.items():
            conv = self._module(nodes[0]) if len(nodes) == 1 else None
            following = list(nodes[0].users) if nodes else []
            if not isinstance(conv, nn.Conv2d) or len(following) != 1 or following[0].op != "call_module":
                continue
            norm = self._module(following[0])
            if not isinstance(norm, nn.BatchNorm2d) or norm.running_mean is None or norm.running_var is None:
                continue
            scale = torch.rsqrt(exact(norm.running_var) + norm.eps)
            shift = -exact(norm.running_mean) * scale
            if norm.affine:
                scale, shift = scale * exact(norm.weight), shift * exact(norm.weight) + exact(norm.bias)
            if conv.bias is not None:
                shift = shift + exact(conv.bias) * scale
            self._scales[name] = scale.float().reshape(-1, 1, 1, 1).to(conv.weight.device)
            conv.weight.data = conv.weight.data * self._scales[name]
            conv.bias = nn.Parameter(shift.float().to(conv.weight.device), requires_grad=False)
            following[0].replace_all_uses_with(nodes[0])
            self._graph.erase_node(following[0])

    def _make_stand_ins(self, sample: Tensor, make: MakeStandIn) -> dict[fx.Node, str]:
        """Put what is faster than the library on a small map in a convolution's place; return node → its name."""
        shapes = tensor_shapes(self._root, sample)
        names: dict[fx.Node, str] = {}
        for node in (node for nodes in self._calls.values() for node in nodes):
            conv, map_shape = self._module(node), shapes[node.all_input_nodes[0]][1:]
            if not isinstance(conv, nn.Conv2d):
                continue
            if (stand_in := make(conv, map_shape)) is not None:
                names[node] = f"stand_in_{len(self._modules)}"
                self._root.add_module(names[node], stand_in)
                self._modules[names[node]] = stand_in
        return names

    def plan(self, layers: Collection[str], purpose: Purpose = "predictions") -> Plan:
        """Cut the graph at layers, with what stands in for convolutions for a purpose."""
        key = frozenset(layers), purpose
        if key not in self._plans:
            replaced = [node for name in layers for node in self._calls[name]]
            self._plans[key] = Plan.split(self._root, self._stand_ins[purpose], replaced)
        return self._plans[key]

    def scaled(self, weights: Mapping[str, Tensor], purpose: Purpose = "predictions") -> dict[str, Tensor]:
        """Turn raw weights, by layer, into what the graph of :meth:`plan` multiplies with, by module."""
        device = device_of(self._root)
        result = {}
        for name, weight in weights.items():
            own = weight.to(device)
            if name in self._scales:
                own = own * self._scales[name]
            if own.ndim == 4:
                own = own.contiguous(memory_format=torch.channels_last)
            for node in self._calls[name]:
                target = self._stand_ins[purpose].get(node, str(node.target))
                module = self._modules[target]
                result[target] = module.of_conv(own) if isinstance(module, StandInConv) else own
        return result

    def prepare(self, pixels: Tensor, layers: Collection[str]) -> _PreparedDownstream:
        """Run a batch up to the layers that will be replaced."""
        plan = self.plan(layers)
        with torch.no_grad():
            cut = plan.upstream(pixels.contiguous(memory_format=torch.channels_last))
        return _PreparedDownstream(self, plan, cut, pixels)

    def swapped(self, scaled: Mapping[str, Tensor]) -> AbstractContextManager[None]:
        """Lend the graph's modules other folded weights for a block."""
        return swapped(self._modules, scaled)

    @property
    def records(self) -> bool:
        """Whether computations can be recorded, as far as is known."""
        return self._record is not None

    def recorded(self, run: Run, places: Mapping[str, Tensor]) -> Run | None:
        """Record a computation with modules' folded weights in these places; ``None`` where that cannot be done."""
        assert self._record is not None
        try:
            with self.swapped(places):
                return self._record(run)
        except RuntimeError:  # an operation that must be asked for each time, or too little memory to record
            self._record = None
            return None


class _PreparedDownstream:
    """Images as they reach the replaced layers; to be asked in one arithmetic, as recorded predictions stay in theirs.

    Args:
        engine: whose weights are replaced.
        plan: the graph, cut.
        cut: what crosses the cut.
        pixels: the images.
    """

    def __init__(self, engine: FastEngine, plan: Plan, cut: tuple[Any, ...], pixels: Tensor) -> None:
        self._engine = engine
        self._plan = plan
        self._cut = cut
        self._pixels = pixels
        self._network: RecallingNetwork | None = None
        self._num_predicted = 0
        self._places: dict[str, Tensor] = {}
        self._replay: Run | None = None

    @contextmanager
    def network(self, weights: Mapping[str, Tensor]) -> Iterator[nn.Module]:
        if self._network is None:
            plan = self._engine.plan(weights, "gradients")
            self._network = RecallingNetwork(plan, self._pixels[:IMAGES_PER_PASS])
        with self._engine.swapped(self._engine.scaled(weights, "gradients")):
            yield self._network

    def logits(self, weights: Mapping[str, Tensor]) -> Tensor:
        with self._engine.swapped(self._engine.scaled(weights)):
            return self._downstream()

    def predict(self, weights: Mapping[str, Tensor]) -> Tensor:
        scaled = self._engine.scaled(weights)
        self._num_predicted += 1
        if self._num_predicted == 2 and self._engine.records:  # what is asked for once need not be recorded
            self._places = {name: weight.clone() for name, weight in scaled.items()}
            self._replay = self._engine.recorded(lambda: self._downstream().argmax(1), self._places)
        if self._replay is None or scaled.keys() != self._places.keys():
            with self._engine.swapped(scaled):
                return self._downstream().argmax(1)
        for name, weight in scaled.items():
            self._places[name].copy_(weight)
        return self._replay().clone()

    def _downstream(self) -> Tensor:
        with torch.no_grad():
            return self._plan.downstream(*self._cut)  # type: ignore[no-any-return]
