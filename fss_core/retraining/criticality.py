"""How critical a layer is for robustness: the worst loss that a small change of its weights can bring about.

Module robust criticality of RiFT, as METHOD defines it: the loss on adversarial images, which are made once on the
unchanged network, where it is highest within a ball around the layer's weights. RiFT subtracts the loss of the
unchanged network; that is the same for every layer, so the order is the same without it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fss_core.conditions import full_precision
from fss_core.models import FilterableModule
from fss_core.retraining.archive import CRITICALITY_RADIUS, CRITICALITY_STEPS

IMAGES_PER_PASS = 100
_STEP = 2.5
"""Steps add up to this many radii, as PGD's do in METHOD."""


def worst_loss(
    model: nn.Module,
    layer: str,
    pixels: Tensor,
    labels: Tensor,
    *,
    radius: float = CRITICALITY_RADIUS,
    num_steps: int = CRITICALITY_STEPS,
    on_step: Callable[[int], None] | None = None,
) -> float:
    """Search the highest loss within a ball around one layer's weights, by projected gradient ascent.

    Args:
        model: pixels → logits; copied, never changed; run in eval mode.
        layer: whose weight may change.
        pixels: float32 (N, C, H, W) on [0, 1]: adversarial images of ``model``, on its device.
        labels: int64 (N,).
        radius: of the ball ‖Δ‖₂ ≤ radius · ‖W‖₂.
        num_steps: each along the gradient, 2.5 radii in all.
        on_step: called before each step with the number of those that are done; what it raises stops the work.

    Returns:
        The highest mean cross-entropy that was met, in nats; at least that of the unchanged network.

    Source: Zhu et al., "Improving generalization of adversarial training via robust critical fine-tuning", 2023
    (module robust criticality, relative ball of 0.1); step size and number of steps are this project's.
    """
    model = copy.deepcopy(model).eval().requires_grad_(False)
    module = model.get_submodule(layer)
    assert isinstance(module, FilterableModule)
    weight = module.weight.requires_grad_(True)
    origin = weight.detach().clone()
    limit = radius * float(origin.norm())
    worst = -float("inf")
    with full_precision():
        for step in range(num_steps + 1):
            if on_step is not None:
                on_step(step)
            loss, gradient = _loss_and_gradient(model, weight, pixels, labels)
            worst = max(worst, loss)
            length = float(gradient.norm())
            if length == 0:
                break
            with torch.no_grad():
                moved = weight - origin + gradient * (_STEP * limit / num_steps / length)
                weight.copy_(origin + moved * min(1.0, limit / max(float(moved.norm()), 1e-30)))
    return worst


def _loss_and_gradient(model: nn.Module, weight: Tensor, pixels: Tensor, labels: Tensor) -> tuple[float, Tensor]:
    total, gradient = 0.0, torch.zeros_like(weight)
    for start in range(0, len(labels), IMAGES_PER_PASS):
        part = slice(start, start + IMAGES_PER_PASS)
        loss = F.cross_entropy(model(pixels[part]), labels[part], reduction="sum")
        own = torch.autograd.grad(loss, weight, allow_unused=True)[0] if loss.requires_grad else None
        gradient = gradient if own is None else gradient + own / len(labels)
        total += float(loss.detach())
    return total / len(labels), gradient
