"""A slow second reading of METHOD: plain loops, importing nothing of ours, to judge the fast code by.

Where METHOD is silent this module has to choose; each such choice is marked "METHOD is silent".
"""

import copy
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from scipy import stats
from torch import nn
from torch.nn import functional

FILTERS = ("high_pass", "low_pass", "pulse")
Z_95 = 1.959963984540054  # 97.5 % point of the normal distribution

AdversarialImages = torch.Tensor | Callable[[nn.Module, torch.Tensor, torch.Tensor], torch.Tensor]
Predictions = tuple[list[int], list[int]]


# Synaptic filters


def _as_float64(weight: torch.Tensor) -> list[float]:
    return [float(w) for w in weight.detach().cpu().to(torch.float64).flatten()]


def thresholds(weight: torch.Tensor, num_thresholds: int) -> list[float]:
    """`linspace(min W, max W, A)` over the signed weights, in float64."""
    values = _as_float64(weight)
    return [float(alpha) for alpha in np.linspace(min(values), max(values), num_thresholds, dtype=np.float64)]


def pulse_edges(weight: torch.Tensor, num_thresholds: int) -> list[float]:
    """The A + 1 edges: minus infinity, the midpoints between neighbouring thresholds, plus infinity."""
    alphas = thresholds(weight, num_thresholds)
    midpoints = [(alphas[k - 1] + alphas[k]) / 2 for k in range(1, num_thresholds)]
    return [-math.inf, *midpoints, math.inf]


def keep_mask(weight: torch.Tensor, filter_name: str, k: int, num_thresholds: int) -> torch.Tensor:
    """True, in the shape of `weight`, where filter `filter_name` keeps the weight at threshold k."""
    alpha = thresholds(weight, num_thresholds)[k]
    edges = pulse_edges(weight, num_thresholds)
    keeps = []
    for w in _as_float64(weight):
        if filter_name == "high_pass":
            keeps.append(w > alpha)
        elif filter_name == "low_pass":
            keeps.append(w < alpha)
        elif filter_name == "pulse":
            keeps.append(not (edges[k] <= w < edges[k + 1]))
        else:
            raise ValueError(f"no reference for filter {filter_name!r}")
    return torch.tensor(keeps, dtype=torch.bool).reshape(weight.shape)


def kept_fraction(weight: torch.Tensor, filter_name: str, k: int, num_thresholds: int) -> float:
    """The share of the layer's weights that the filter leaves alone at threshold k."""
    kept = [bool(keep) for keep in keep_mask(weight, filter_name, k, num_thresholds).flatten()]
    return sum(kept) / len(kept)


def num_removed_by_high_pass(weight: torch.Tensor, k: int, num_thresholds: int) -> int:
    """How many weights the random control must remove at threshold k; which ones is up to its generator."""
    return sum(not bool(keep) for keep in keep_mask(weight, "high_pass", k, num_thresholds).flatten())


# Responses


def predictions(model: nn.Module, pixels: torch.Tensor, *, one_at_a_time: bool = True) -> list[int]:
    """The class each image is given, in eval mode; of equal logits the first wins (METHOD is silent)."""
    model = copy.deepcopy(model).eval()
    batches = [pixels[i : i + 1] for i in range(len(pixels))] if one_at_a_time else [pixels]
    classes = []
    with torch.no_grad():
        for batch in batches:
            for logits in model(batch):
                classes.append(int(np.argmax(logits.cpu().numpy())))
    return classes


def filtered_network(
    model: nn.Module, layers: Sequence[str], filter_name: str, k: int, num_thresholds: int
) -> nn.Module:
    """A copy of the network, in eval mode, with each named layer filtered by its own thresholds."""
    filtered = copy.deepcopy(model).eval()
    for layer in layers:
        raw = model.get_parameter(f"{layer}.weight")
        mask = keep_mask(raw, filter_name, k, num_thresholds)
        with torch.no_grad():
            filtered.get_parameter(f"{layer}.weight")[~mask] = 0.0
    return filtered


def _filtered_predictions(
    filtered: nn.Module,
    pixels: torch.Tensor,
    labels: torch.Tensor,
    adversarial: AdversarialImages,
    one_at_a_time: bool,
) -> Predictions:
    attacked = adversarial if isinstance(adversarial, torch.Tensor) else adversarial(filtered, pixels, labels)
    return (
        predictions(filtered, pixels, one_at_a_time=one_at_a_time),
        predictions(filtered, attacked, one_at_a_time=one_at_a_time),
    )


def accuracy_responses(
    model: nn.Module,
    pixels: torch.Tensor,
    labels: torch.Tensor,
    adversarial: AdversarialImages,
    layers: Sequence[str],
    filters: Sequence[str],
    num_thresholds: int,
    *,
    one_at_a_time: bool = True,
) -> dict[tuple[str, str, int], Predictions]:
    """Predicted classes (clean, adversarial) of every network that has one layer filtered.

    `adversarial` is the frozen images, or an attack `(network, pixels, labels) -> pixels` to make them anew
    on each filtered network (adaptive).
    """
    responses = {}
    for layer in layers:
        for filter_name in filters:
            for k in range(num_thresholds):
                filtered = filtered_network(model, [layer], filter_name, k, num_thresholds)
                responses[layer, filter_name, k] = _filtered_predictions(
                    filtered, pixels, labels, adversarial, one_at_a_time
                )
    return responses


def global_accuracy_responses(
    model: nn.Module,
    pixels: torch.Tensor,
    labels: torch.Tensor,
    adversarial: AdversarialImages,
    layers: Sequence[str],
    filters: Sequence[str],
    num_thresholds: int,
    *,
    one_at_a_time: bool = True,
) -> dict[tuple[str, int], Predictions]:
    """As `accuracy_responses`, with all of `layers` filtered at once, keyed by (filter, k)."""
    responses = {}
    for filter_name in filters:
        for k in range(num_thresholds):
            filtered = filtered_network(model, layers, filter_name, k, num_thresholds)
            responses[filter_name, k] = _filtered_predictions(filtered, pixels, labels, adversarial, one_at_a_time)
    return responses


# Attacks


def pixel_gradient(model: nn.Module, pixels: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Gradient of each image's own cross-entropy with respect to its pixels, in eval mode."""
    model = copy.deepcopy(model).eval()
    pixels = pixels.detach().clone().requires_grad_(True)
    loss = functional.cross_entropy(model(pixels), labels, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, pixels)
    return gradient


def fgsm(model: nn.Module, pixels: torch.Tensor, labels: torch.Tensor, epsilon: float) -> torch.Tensor:
    """One step of `epsilon` along the sign of the gradient, clamped to [0, 1]."""
    return torch.clamp(pixels + epsilon * torch.sign(pixel_gradient(model, pixels, labels)), 0.0, 1.0)


def pgd(
    model: nn.Module,
    pixels: torch.Tensor,
    labels: torch.Tensor,
    epsilon: float,
    steps: int,
    step_size: float,
    start_noise: torch.Tensor | None = None,
) -> torch.Tensor:
    """Signed steps from `pixels + start_noise`, each projected on the epsilon ball and on [0, 1]."""
    current = pixels if start_noise is None else torch.clamp(pixels + start_noise, 0.0, 1.0)
    for _ in range(steps):
        current = current + step_size * torch.sign(pixel_gradient(model, current, labels))
        current = pixels + torch.clamp(current - pixels, -epsilon, epsilon)
        current = torch.clamp(current, 0.0, 1.0)
    return current


def zero_gradient_images(model: nn.Module, pixels: torch.Tensor, labels: torch.Tensor) -> list[bool]:
    """For each image, whether every component of its gradient is exactly zero, so that FGSM does nothing."""
    zero = []
    for i in range(len(pixels)):
        gradient = pixel_gradient(model, pixels[i : i + 1], labels[i : i + 1])
        zero.append(all(float(component) == 0.0 for component in gradient.flatten()))
    return zero


def epsilon_grid() -> list[float]:
    """`2^(j/2)/4` of 1/255 for j = 0, 1, …, as far as it stays within the pixel range."""
    grid = []
    j = 0
    while 2 ** (j / 2) / 4 / 255 <= 1:
        grid.append(2 ** (j / 2) / 4 / 255)
        j += 1
    return grid


def calibrated_epsilon(
    pgd_accuracy_by_epsilon: Mapping[float, float], clean_accuracy: float, chance: float
) -> float | None:
    """The smallest epsilon with PGD accuracy at most midway from clean to chance; None if there is none."""
    for epsilon in sorted(pgd_accuracy_by_epsilon):
        if pgd_accuracy_by_epsilon[epsilon] <= (clean_accuracy + chance) / 2:
            return epsilon
    return None


# Scores


def trapezoid(values: Sequence[float]) -> float:
    """Integral over [0, 1] of values at equally spaced positions k/(A - 1)."""
    step = 1 / (len(values) - 1)
    return sum(step * (values[k] + values[k + 1]) / 2 for k in range(len(values) - 1))


def simpson(values: Sequence[float]) -> float:
    """Composite Simpson's rule over [0, 1], two steps at a time."""
    if len(values) % 2 == 0:
        raise ValueError("Simpson's rule needs an odd number of values")
    step = 1 / (len(values) - 1)
    total = 0.0
    for k in range(0, len(values) - 2, 2):
        total += step / 3 * (values[k] + 4 * values[k + 1] + values[k + 2])
    return total


def score(
    correct_per_k: Sequence[Sequence[float]],
    correct_unfiltered: Sequence[float],
    num_classes: int,
    kept_fractions: Sequence[float],
    normalise: str = "chance",
    reference: str = "unfiltered",
    integration: str = "trapezoid",
) -> float:
    """S of one layer, one filter and one kind of image; `correct_per_k[k][i]` is 1 where image i is right."""
    chance = 1 / num_classes
    p0 = sum(correct_unfiltered) / len(correct_unfiltered)
    integrand = []
    for correct, kept in zip(correct_per_k, kept_fractions, strict=True):
        p = sum(correct) / len(correct)
        b = {"unfiltered": 1.0, "retained": kept}[reference]
        if normalise == "chance":
            integrand.append((p - chance) / (p0 - chance) - b)
        elif normalise == "p0":
            integrand.append(p / p0 - b)
        elif normalise == "none":
            integrand.append(p - b * p0)
        else:
            raise ValueError(f"no normalisation {normalise!r}")
    return {"trapezoid": trapezoid, "simpson": simpson}[integration](integrand)


def mean_filter_score(
    correct_by_filter: Mapping[str, Sequence[Sequence[float]]],
    correct_unfiltered: Sequence[float],
    num_classes: int,
    kept_fractions_by_filter: Mapping[str, Sequence[float]],
    normalise: str = "chance",
    reference: str = "unfiltered",
    integration: str = "trapezoid",
) -> float:
    """S of `filter="mean"`: each image's correctness is averaged over the three filters, then scored."""
    num_thresholds = len(kept_fractions_by_filter["pulse"])
    mean_correct = []
    mean_kept = []
    for k in range(num_thresholds):
        mean_correct.append(
            [
                sum(float(correct_by_filter[name][k][i]) for name in FILTERS) / len(FILTERS)
                for i in range(len(correct_unfiltered))
            ]
        )
        mean_kept.append(sum(kept_fractions_by_filter[name][k] for name in FILTERS) / len(FILTERS))
    return score(mean_correct, correct_unfiltered, num_classes, mean_kept, normalise, reference, integration)


def difference(adversarial_score: float, clean_score: float) -> float:
    """S_diff = S_adv - S_clean."""
    return adversarial_score - clean_score


def wilson(num_right: int, num_images: int) -> tuple[float, float]:
    """Two-sided 95 % Wilson interval of a share."""
    share = num_right / num_images
    centre = share + Z_95**2 / (2 * num_images)
    half_width = Z_95 * math.sqrt(share * (1 - share) / num_images + Z_95**2 / (4 * num_images**2))
    scale = 1 + Z_95**2 / num_images
    return (centre - half_width) / scale, (centre + half_width) / scale


def not_measurable(num_right: int, num_images: int, num_classes: int) -> bool:
    """Whether p0 is too near chance (by Wilson's lower bound: METHOD names no interval) or too few are right."""
    low, _ = wilson(num_right, num_images)
    return low < 1 / num_classes + 0.02 or num_right < 20


def clopper_pearson(num_right: int, num_images: int, level: float) -> tuple[float, float]:
    """Exact two-sided interval of a share, from quantiles of the beta distribution."""
    tail = (1 - level) / 2
    low = 0.0 if num_right == 0 else float(stats.beta.ppf(tail, num_right, num_images - num_right + 1))
    high = 1.0 if num_right == num_images else float(stats.beta.ppf(1 - tail, num_right + 1, num_images - num_right))
    return low, high


# Labels


def call(point_estimate: float, tolerance: float) -> str:
    """The call of a score, from its point estimate alone."""
    if point_estimate < -tolerance:
        return "fragile"
    if point_estimate > tolerance:
        return "antifragile"
    return "robust"


def certainty(low: float, high: float, tolerance: float) -> str:
    """Whether the whole interval has one call; the point estimate is taken to lie inside it."""
    return "decided" if call(low, tolerance) == call(high, tolerance) else "leaning"


# Dead weights


def dead_mask(convolution: nn.Conv2d, height: int, width: int) -> torch.Tensor:
    """True, in the shape of the weight, where not even a huge weight changes the output on a random input.

    One forward pass per weight, in float64, on an input without zeros: for small layers only.
    """
    generator = torch.Generator().manual_seed(0)
    inputs = 0.5 + torch.rand(1, convolution.in_channels, height, width, generator=generator, dtype=torch.float64)
    convolution = copy.deepcopy(convolution).double()
    dead = torch.zeros(convolution.weight.shape, dtype=torch.bool)
    with torch.no_grad():
        before = convolution(inputs)
        for index in np.ndindex(*convolution.weight.shape):
            raw = convolution.weight[index].item()
            convolution.weight[index] = 1e6
            dead[index] = torch.equal(convolution(inputs), before)
            convolution.weight[index] = raw
    return dead
