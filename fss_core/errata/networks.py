"""What the reference notebooks built as "ShuffleNet V2 x1.0": torchvision's x0.5, trained as this project trains."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torchvision.models.shufflenetv2 import ShuffleNetV2

from fss_core.conditions import seeded
from fss_core.models import Normalisation
from fss_core.specs import TrainingSpec
from fss_core.training import epoch_batches, random_seed, train_step, training_format, training_images

if TYPE_CHECKING:
    from collections.abc import Callable

    from fss_core.data import Dataset, DatasetCard


class _HalfWidth(ShuffleNetV2):  # type: ignore[misc]  # torchvision has no types
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.normalise(x))  # type: ignore[no-any-return]


def build_half_width(card: DatasetCard, *, seed: int = 0) -> nn.Module:
    """Build ShuffleNet V2 x0.5 for a data set, as ``models.build_network`` builds x1.0.

    Args:
        card: of the data set.
        seed: of the initialisation.

    Returns:
        A module in training mode: pixels (N, C, H, W) on [0, 1] → logits; its layers have the names of x1.0's.

    Source: METHOD, "What the reference notebooks do differently", 4; torchvision.
    """
    channels = card.image_shape[0]
    with seeded(seed):
        network = _HalfWidth([4, 8, 4], [24, 48, 96, 192, 1024], num_classes=card.num_classes)
        if channels != 3:
            network.conv1[0] = nn.Conv2d(channels, 24, kernel_size=3, stride=2, padding=1, bias=False)
    network.normalise = Normalisation(card.mean, card.std)
    for module in network.modules():
        if getattr(module, "inplace", False):
            module.inplace = False
    return network


def train_half_width(
    spec: TrainingSpec,
    dataset: Dataset,
    epochs: int,
    *,
    on_step: Callable[[int, float], None] = lambda epoch, share: None,
) -> nn.Module:
    """Train it on the CPU on the batches, in the order and with the steps of ``spec``; nothing is saved.

    Args:
        spec: of the trajectory of x1.0.
        dataset: that ``spec`` names.
        epochs: how many.
        on_step: told before each batch in which epoch it is, counted from 1, and what share of it is done; what it
            raises ends the training.

    Returns:
        The network, in evaluation mode.
    """
    network = build_half_width(dataset.card, seed=spec.seed)
    network.to(memory_format=training_format(torch.device("cpu")))
    optimiser = torch.optim.Adam(network.parameters(), lr=spec.learning_rate)
    images = training_images(spec, len(dataset.train))
    for epoch in range(1, epochs + 1):
        batches = epoch_batches(len(images), batch_size=spec.batch_size, seed=spec.seed, epoch=epoch)
        with seeded(random_seed("dropout", spec.seed, epoch)):
            for step, indices in enumerate(images[batches]):
                on_step(epoch, step / len(batches))
                train_step(network, optimiser, dataset.train, indices)
    return network.to(memory_format=torch.contiguous_format).eval()
