"""Retraining itself: a checkpoint's network, what moves in it, and the way from one epoch to the next.

Batches, their order and dropout are those of the epochs that would have come next, and the same for every selection;
``all_with_bn`` is therefore, bit for bit, what training would have gone on to be.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from fss_core.checkpoints import Checkpoint, load_network, load_state
from fss_core.conditions import exact, seeded
from fss_core.data import Dataset
from fss_core.models import describe_layers
from fss_core.retraining.freezing import check_frozen, enter_training, hash_frozen, mask_moments, train_only
from fss_core.retraining.results import Start
from fss_core.retraining.rules import Selection
from fss_core.specs import TrainingError, digest
from fss_core.training import (
    epoch_batches,
    load_optimiser_state,
    optimiser_state,
    random_seed,
    train_step,
    training_format,
    training_images,
)

if TYPE_CHECKING:
    from fss_core.retraining.archive import Arrays

_WEIGHT, _MOMENT = "weight/", "moment/"
"""What the names of a state's arrays begin with."""


class Retrainer:
    """One network under retraining.

    Args:
        checkpoint: where it starts; weights, and moments where there are some.
        dataset: trained on what its checkpoint was trained on of its train split.
        selection: what to train.
        device: where to train; bit-for-bit reproducible on ``"cpu"`` with the same number of threads.
        factory: builds a network of the user's own.

    Raises:
        CheckpointError: the checkpoint is broken, or needs a factory.
        TrainingError: there are fewer training images than one batch.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        dataset: Dataset,
        selection: Selection,
        *,
        device: str = "cpu",
        factory: Callable[..., nn.Module] | None = None,
    ) -> None:
        """Load the network, freeze what is not selected, and give Adam its moments."""
        self._spec = checkpoint.spec
        self._first = checkpoint.epoch
        self._train = dataset.train
        self._with_norms = selection.with_norms
        self._images = training_images(self._spec, len(dataset.train))
        steps_per_epoch = len(self._images) // self._spec.batch_size
        if steps_per_epoch == 0:
            raise TrainingError(
                f"{dataset.name} has {len(dataset.train)} training images, fewer than one batch of "
                f"{self._spec.batch_size}; retrain a checkpoint of smaller batches"
            )
        self.network = load_network(checkpoint, device=device, factory=factory)
        geometry = describe_layers(self.network, dataset.image_shape)
        self.network.to(memory_format=training_format(torch.device(device)))
        self.trained = train_only(self.network, selection, geometry)
        self._optimiser = torch.optim.Adam(self.trained.parameters.values(), lr=self._spec.learning_rate)
        if checkpoint.has_state:
            self._load_moments(load_state(checkpoint))
        self.epoch = 0
        self._frozen = hash_frozen(self.network, self.trained)
        self.start = Start(
            num_live_trained=self.trained.num_live,
            frozen_sha256=digest(self._frozen),
            optimiser="continued" if checkpoint.has_state else "fresh",
            steps_per_epoch=steps_per_epoch,
        )

    def _load_moments(self, state: Mapping[str, torch.Tensor]) -> None:
        own = {name: moment for name, moment in state.items() if name.rpartition(".")[0] in self.trained.parameters}
        load_optimiser_state(self._optimiser, self.network, own)
        mask_moments(self._optimiser, self.trained)

    def train_epoch(self, on_step: Callable[[int], None]) -> tuple[float, float]:
        """Train the next epoch.

        Args:
            on_step: called before each step with the number of those that are done; what it raises stops the work.

        Returns:
            The mean loss of its batches, in nats, and the wall time, in seconds.

        Raises:
            TrainingError: the loss or a weight became NaN or infinite, or something moved that must not.
        """
        started = time.perf_counter()
        number, spec = self._first + self.epoch + 1, self._spec
        order = epoch_batches(len(self._images), batch_size=spec.batch_size, seed=spec.seed, epoch=number)
        batches = self._images[order]
        losses = []
        enter_training(self.network, with_norms=self._with_norms)
        with seeded(random_seed("dropout", spec.seed, number)):
            for step, indices in enumerate(batches):
                on_step(step)
                losses.append(train_step(self.network, self._optimiser, self._train, indices)[0])
        self.network.eval()
        self.epoch += 1
        loss = float(exact(torch.stack(losses)).mean())
        finite = all(bool(own.isfinite().all()) for own in self.network.state_dict().values())
        if not (np.isfinite(loss) and finite):
            raise TrainingError(
                f"retraining {spec.network} on {spec.dataset}: the loss or a weight became NaN or infinite in epoch "
                f"{self.epoch} after the checkpoint; retrain from another one, or with a smaller learning_rate"
            )
        check_frozen(self._frozen, hash_frozen(self.network, self.trained))
        return loss, time.perf_counter() - started

    def frozen_sha256(self) -> str:
        """Hash everything that must not move, as it is now."""
        return digest(hash_frozen(self.network, self.trained))

    def state(self) -> Arrays:
        """Copy what moves: trained tensors, statistics that move, and moments."""
        tensors: dict[str, torch.Tensor] = {_WEIGHT + name: own for name, own in self.trained.parameters.items()}
        tensors |= {_WEIGHT + name: self.network.get_buffer(name) for name in self.trained.statistics}
        tensors |= {_MOMENT + name: own for name, own in optimiser_state(self._optimiser, self.network).items()}
        return {name: np.array(own.detach().cpu().numpy()) for name, own in tensors.items()}

    def restore(self, epoch: int, arrays: Arrays) -> None:
        """Go back to a state, on a retrainer of the same checkpoint and selection that has not trained yet.

        Args:
            epoch: after how many epochs it was taken.
            arrays: of :meth:`state`.
        """
        tensors = {name: torch.from_numpy(own) for name, own in arrays.items()}
        with torch.no_grad():
            for name, parameter in self.trained.parameters.items():
                parameter.copy_(tensors[_WEIGHT + name])
            for name in self.trained.statistics:
                self.network.get_buffer(name).copy_(tensors[_WEIGHT + name])
        moments = {name.removeprefix(_MOMENT): own for name, own in tensors.items() if name.startswith(_MOMENT)}
        load_optimiser_state(self._optimiser, self.network, moments)
        self.epoch = epoch
