"""Pixels → adversarial pixels through torchattacks, and the choice of ε.

Pixels live on [0, 1]; normalisation belongs to the model. The result of FGSM, of PGD and of every attack whose only
randomness is a uniform start does not depend on how images are batched: the start is drawn image by image, from a
generator seeded by the image itself. Other randomness (APGD's, Square's) is drawn per batch, under the attack's seed.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import torch
import torchattacks
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fss_core.conditions import full_precision, seeded
from fss_core.intervals import is_above_chance
from fss_core.specs import AttackSpec, CalibrationError, EpsilonCalibration, NotFiniteError, choose

IMAGES_PER_PASS = 100
_STEP = 0.5 / 255
"""Smaller than the distance of any 8-bit pixel from the ends it does not lie on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attacked:
    """Adversarial images, and where the attack had nothing to go by.

    Attributes:
        pixels: float32 (N, C, H, W) on [0, 1].
        zero_gradient: bool (N,), True where the loss has no gradient at the first step: there a gradient attack does
            nothing. All False for attacks that use no gradient.
        classes: int64 (N,), predicted for the images themselves, where the attack's first look was at them, as FGSM's
            is; ``None`` otherwise.
    """

    pixels: Tensor
    zero_gradient: Tensor
    classes: Tensor | None = None


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Put every module into eval mode for a block, and each back into its own mode afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield model
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def _weights_held(model: nn.Module) -> Iterator[None]:
    """Let no parameter need a gradient for a block: that of the pixels alone costs 1/8 less (ShuffleNet, 2 threads)."""
    held = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in held:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in held:
            parameter.requires_grad_(True)


def check_images(pixels: Tensor, labels: Tensor) -> None:
    """Refuse images that no network should see.

    Args:
        pixels: floating point (N, C, H, W), N ≥ 1.
        labels: integers (N,).

    Raises:
        NotFiniteError: a pixel is NaN or infinite.
        ValueError: shapes or types do not fit, or pixels lie outside [0, 1].
    """
    if pixels.ndim != 4 or not pixels.is_floating_point() or len(pixels) == 0:
        raise ValueError(
            f"pixels must be floating point (N, C, H, W) with N ≥ 1, got {pixels.dtype} {tuple(pixels.shape)}"
        )
    if labels.shape != pixels.shape[:1] or labels.is_floating_point():
        raise ValueError(f"labels must be {len(pixels)} integers, got {labels.dtype} {tuple(labels.shape)}")
    if not bool(torch.isfinite(pixels).all()):
        raise NotFiniteError("pixels must be finite, got NaN or infinity; decode the images again")
    low, high = (float(bound) for bound in torch.aminmax(pixels))
    if low < 0 or high > 1:
        raise ValueError(f"pixels must lie in [0, 1], got {low:g} to {high:g}; divide 8-bit images by 255")


def check_labels(labels: Tensor, num_classes: int) -> None:
    """Refuse labels that the network has no logit for.

    Raises:
        ValueError: a label is below 0 or not below ``num_classes``.
    """
    low, high = (int(bound) for bound in torch.aminmax(labels))
    if low < 0 or high >= num_classes:
        raise ValueError(
            f"labels must lie in 0 … {num_classes - 1} (the network has {num_classes} logits), got {low} … {high}"
        )


@cache
def known_attacks() -> dict[str, type[torchattacks.attack.Attack]]:
    """List the L∞ attacks of torchattacks that take ε, by lower-case name."""
    found = {}
    for name, item in inspect.getmembers(torchattacks, inspect.isclass):
        if "Linf" in (item.__doc__ or "") and "eps" in inspect.signature(item).parameters:
            found[name.lower()] = item
    return found


class _StartPerImage(TorchFunctionMode):
    """Draws an attack's uniform random start image by image, so that it does not depend on the batch."""

    def __init__(self, pixels: Tensor, seed: int) -> None:
        super().__init__()
        self._pixels = pixels
        self._seed = seed

    @cached_property
    def _generators(self) -> list[torch.Generator]:
        """One an image, which the image seeds; an attack that draws nothing needs none."""
        generators = []
        for image in self._pixels.detach().cpu():
            identity = hashlib.sha256(
                self._seed.to_bytes(8, "big", signed=True) + image.contiguous().numpy().tobytes()
            ).digest()
            generators.append(torch.Generator().manual_seed(int.from_bytes(identity[:8], "big") >> 1))
        return generators

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.Tensor.uniform_ and len(args[0]) == len(self._pixels):
            start, bounds, named = args[0], args[1:], kwargs or {}
            rows = [torch.empty(start.shape[1:]).uniform_(*bounds, **named, generator=own) for own in self._generators]
            return start.copy_(torch.stack(rows))
        return func(*args, **(kwargs or {}))


class _Watched(nn.Module):
    """A model that tells of every call, and notes at its first differentiable one which images have no gradient.

    It also notes what was predicted there, if what it was shown are the images themselves.
    """

    def __init__(self, model: nn.Module, images: Tensor, on_pass: Callable[[], None]) -> None:
        super().__init__()
        self.model = model
        self._images = images
        self._on_pass = on_pass
        self.zero_gradient = torch.zeros(len(images), dtype=torch.bool)
        self.classes: Tensor | None = None
        self._waiting = True

    def _note(self, gradient: Tensor) -> None:
        if len(gradient) == len(self.zero_gradient):
            self.zero_gradient = (gradient == 0).flatten(1).all(dim=1).cpu()

    def forward(self, pixels: Tensor) -> Tensor:
        self._on_pass()
        logits: Tensor = self.model(pixels)
        if self._waiting and pixels.requires_grad:
            self._waiting = False
            pixels.register_hook(self._note)  # type: ignore[no-untyped-call]
            if torch.equal(pixels, self._images):
                self.classes = logits.detach().argmax(1)
        return logits


def _make_attack(watched: _Watched, spec: AttackSpec, num_classes: int) -> torchattacks.attack.Attack:
    name = choose(spec.kind.lower(), known_attacks(), what="L∞ attack")
    attack_class = known_attacks()[name]
    settings = {
        "eps": spec.epsilon,
        "alpha": spec.resolved_step_size,
        "steps": spec.steps,
        "norm": "Linf",
        "seed": spec.seed,
        "n_classes": num_classes,
        "verbose": False,
    }
    taken = inspect.signature(attack_class).parameters
    if "steps" not in taken:
        del settings["alpha"]  # a single step has a size of its own
    return attack_class(watched, **{key: value for key, value in settings.items() if key in taken})


def run_attack(
    model: nn.Module,
    pixels: Tensor,
    labels: Tensor,
    spec: AttackSpec,
    *,
    num_classes: int | None = None,
    on_pass: Callable[[], None] = lambda: None,
) -> Attacked:
    """Attack a model and report where it had no gradient.

    Args:
        model: pixels (N, C, H, W) on [0, 1] → logits; put into eval mode for the attack, and left as it was.
        pixels: float32 (N, C, H, W) on [0, 1], on the model's device.
        labels: int64 (N,), the true classes.
        spec: which attack.
        num_classes: how many logits the model has; by default one image is run to find out.
        on_pass: called before the network sees a batch; what it raises ends the attack.

    Returns:
        The adversarial images, on the device of ``pixels``, within ε of them and on [0, 1].

    Raises:
        NotFiniteError: pixels are NaN or infinite.
        UnknownNameError: torchattacks has no such L∞ attack.
        ValueError: pixels outside [0, 1], or labels that the network has no logit for.

    Source: METHOD, "Adversarial images"; torchattacks 3.3.0.
    """
    check_images(pixels, labels)
    labels = labels.long()
    parts, gradients, classes = [], [], []
    with evaluating(model), _weights_held(model), full_precision(pixels.device.type), seeded(spec.seed):
        if num_classes is None:
            with torch.no_grad():
                num_classes = int(model(pixels[:1]).shape[-1])
        check_labels(labels, num_classes)
        for start in range(0, len(pixels), IMAGES_PER_PASS):
            part = pixels[start : start + IMAGES_PER_PASS]
            watched = _Watched(model, part, on_pass).eval()
            attack_now = _make_attack(watched, spec, num_classes)
            with torch.enable_grad(), _StartPerImage(part, spec.seed):
                parts.append(attack_now(part, labels[start : start + IMAGES_PER_PASS]).detach())
            gradients.append(watched.zero_gradient)
            classes.append(watched.classes)
    seen = [own for own in classes if own is not None]
    return Attacked(
        pixels=torch.cat(parts),
        zero_gradient=torch.cat(gradients),
        classes=torch.cat(seen) if len(seen) == len(classes) else None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class FgsmPath:
    """FGSM of every size from one gradient: the direction does not depend on ε.

    Attributes:
        clean: float32 (N, C, H, W) on [0, 1].
        direction: float32 like ``clean``, of −1, 0 and 1: which way each pixel goes; 0 also where it cannot.
        zero_gradient: bool (N,), as in :class:`Attacked`.
    """

    clean: Tensor
    direction: Tensor
    zero_gradient: Tensor

    @staticmethod
    def of(model: nn.Module, pixels: Tensor, labels: Tensor) -> FgsmPath:
        """Attack once, and read the direction off; arguments and errors as of :func:`run_attack`."""
        attacked = run_attack(model, pixels, labels, AttackSpec(epsilon=_STEP))
        return FgsmPath(clean=pixels, direction=(attacked.pixels - pixels).sign(), zero_gradient=attacked.zero_gradient)

    def pixels(self, epsilon: float) -> Tensor:
        """Return what :func:`run_attack` returns at this ε, to the bit; at 0 the images themselves.

        Source: METHOD, "Adversarial images"; that one gradient serves all sizes, this project.
        """
        return (self.clean + epsilon * self.direction).clamp(0, 1)


def attack(
    model: nn.Module,
    pixels: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    kind: str = "fgsm",
    steps: int = 10,
    step_size: float | None = None,
    seed: int = 0,
    on_pass: Callable[[], None] = lambda: None,
) -> Tensor:
    """Make adversarial images for a model.

    Args:
        model: pixels (N, C, H, W) on [0, 1] → logits; left as it was.
        pixels: float32 (N, C, H, W) on [0, 1].
        labels: int64 (N,), the true classes.
        epsilon: radius of the L∞ ball, in pixels: 8/255, or an :class:`EpsilonCalibration`.
        kind: ``"fgsm"``, ``"pgd"``, or the name of another L∞ attack in torchattacks.
        steps: of an iterative attack.
        step_size: in pixels; ``None`` means 2.5 ε / ``steps``.
        seed: of the random start.
        on_pass: called before the network sees a batch; what it raises ends the attack.

    Returns:
        float32 like ``pixels``, within ε of them and on [0, 1].

    Raises:
        NotFiniteError: pixels are NaN or infinite.
        UnknownNameError: there is no such attack.
        ValueError: ε, pixels or labels are out of range.

    Source: METHOD, "Adversarial images".
    """
    spec = AttackSpec(kind=kind, epsilon=float(epsilon), steps=steps, step_size=step_size, seed=seed)
    return run_attack(model, pixels, labels, spec, on_pass=on_pass).pixels


def count_right(model: nn.Module, pixels: Tensor, labels: Tensor) -> int:
    """Count the images that a model gets right.

    Args:
        model: left as it was; run in eval mode.
        pixels: float32 (N, C, H, W).
        labels: int64 (N,).
    """
    with evaluating(model), full_precision(pixels.device.type), torch.no_grad():
        return sum(
            int(
                (
                    model(pixels[start : start + IMAGES_PER_PASS]).argmax(1) == labels[start : start + IMAGES_PER_PASS]
                ).sum()
            )
            for start in range(0, len(pixels), IMAGES_PER_PASS)
        )


def epsilon_grid() -> tuple[float, ...]:
    """List the sizes that calibration tries: 2^(j/2)/4 of 1/255, up to 1.

    >>> [round(epsilon * 255, 2) for epsilon in epsilon_grid()[:4]]
    [0.25, 0.35, 0.5, 0.71]
    """
    sizes = (2 ** (j / 2) / 4 / 255 for j in range(64))
    return tuple(size for size in sizes if size <= 1)


def calibrate_epsilon(
    model: nn.Module,
    pixels: Tensor,
    labels: Tensor,
    *,
    seed: int = 0,
    on_step: Callable[[float, float], None] | None = None,
    on_pass: Callable[[], None] = lambda: None,
) -> EpsilonCalibration:
    """Choose ε: the smallest on the grid whose PGD accuracy is at most midway between clean accuracy and chance.

    Args:
        model: left as it was.
        pixels: float32 (N, C, H, W) on [0, 1]: the calibration split.
        labels: int64 (N,).
        seed: of PGD's random start.
        on_step: called with (ε, PGD accuracy) after each size tried.
        on_pass: called before the network sees a batch to attack; what it raises ends the calibration.

    Returns:
        ε and the curve it was read from, up to the size chosen. For a network near chance (untrained, say) that no size
        brings to the target, it is the largest, and ``reached`` is False.

    Raises:
        CalibrationError: no size on the grid is enough, though the network is above chance.
        NotFiniteError: pixels are NaN or infinite.
        ValueError: pixels or labels are out of range.

    Source: METHOD, "ε".
    """
    check_images(pixels, labels)
    with evaluating(model), torch.no_grad():
        num_classes = model(pixels[:1]).shape[-1]
    clean = count_right(model, pixels, labels) / len(pixels)
    target = (clean + 1 / num_classes) / 2
    curve: list[float] = []
    for epsilon in epsilon_grid():
        adversarial = attack(model, pixels, labels, kind="pgd", epsilon=epsilon, seed=seed, on_pass=on_pass)
        curve.append(count_right(model, adversarial, labels) / len(pixels))
        if on_step is not None:
            on_step(epsilon, curve[-1])
        if curve[-1] <= target:
            break
    reached = curve[-1] <= target
    if reached or not is_above_chance(round(clean * len(pixels)), len(pixels), num_classes):
        return EpsilonCalibration(
            epsilon=epsilon_grid()[len(curve) - 1],
            clean_accuracy=clean,
            target=target,
            grid=epsilon_grid()[: len(curve)],
            pgd_accuracy=tuple(curve),
            num_images=len(pixels),
            reached=reached,
        )
    raise CalibrationError(
        f"PGD never brings accuracy from {clean:.3f} to {target:.3f} (lowest {min(curve):.3f}, {len(pixels)} images); "
        "give ε yourself, for example --epsilon 8/255"
    )
