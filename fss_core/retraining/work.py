"""One retraining under way: what is missing is computed, piece by piece, and filed at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from fss_core.attacks import IMAGES_PER_PASS, run_attack
from fss_core.checkpoints import load_network
from fss_core.data import Dataset
from fss_core.flow import Measured, Stage
from fss_core.retraining.archive import (
    RetrainingArchive,
    State,
    delete_before,
    delete_criticality,
    find_before,
    find_criticality,
    put_before,
    put_criticality,
)
from fss_core.retraining.criticality import worst_loss
from fss_core.retraining.evidence import make_choices
from fss_core.retraining.judging import Judge
from fss_core.retraining.lookup import criticality_key, distinct_selections, known_criticality, setting_of
from fss_core.retraining.results import RetrainedEpoch
from fss_core.retraining.rules import Selection
from fss_core.retraining.spec import RetrainingSpec
from fss_core.retraining.training import Retrainer
from fss_core.store import Store
from fss_core.training import training_format

_JUDGING = 0.5
"""The share of an epoch's progress that judging it takes."""


class Work:
    """What is left to do of one retraining: all of it, or piece by piece.

    Each piece can be left to another process that is busy with it (``wait=False`` raises ``LeaseHeldError``).

    Args:
        spec: what was asked for.
        measured: the checkpoint's responses, complete.
        dataset: to train on and to judge on.
        store: where pieces are kept.
        tell: told stage, work done, work in all and a detail, between batches; what it raises stops the work.
        factory: builds a network of the user's own.
        refresh: forget what was retrained and judged.
    """

    def __init__(
        self,
        spec: RetrainingSpec,
        measured: Measured,
        dataset: Dataset,
        store: Store,
        tell: Callable[[Stage, float, float, str], None],
        factory: Callable[..., nn.Module] | None,
        *,
        refresh: bool,
    ) -> None:
        """Compute nothing yet."""
        self._spec = spec
        self._measured = measured
        self._dataset = dataset
        self._store = store
        self._tell_all = tell
        self._factory = factory
        self._refresh = refresh
        self._device = spec.measurement.device
        self._setting = setting_of(spec, measured)
        self._what = ""
        # In epochs: what is done of a piece, what it is in all, where it begins in the whole, and the whole.
        self._done = self._piece = self._begin = 0.0
        self._whole: float | None = None

    def do(self) -> None:
        """Compute everything that is missing."""
        self.measure_criticality()
        selections = self.selections()
        self._whole = _JUDGING + len(selections) * self._spec.budget
        self.judge_before()
        for index, (selection, names) in enumerate(selections.items()):
            self._begin = _JUDGING + index * self._spec.budget
            self.retrain(selection, names)

    def selections(self) -> dict[Selection, list[str]]:
        """List what is to be trained, with the rules that chose it; those that lack criticality are left out."""
        criticality = known_criticality(self._store, self._spec, self._measured)
        return distinct_selections(make_choices(self._measured.responses, self._spec, criticality))

    def _tell(self, stage: Stage, share: float, detail: str) -> None:
        whole = self._piece if self._whole is None else self._whole
        self._tell_all(stage, self._begin + self._done + share, whole, f"{self._what}: {detail}")

    def _claim(self, name: str, *, wait: bool) -> AbstractContextManager[object]:
        return self._store.claim(
            name, wait=wait, on_wait=lambda: self._tell("wait", 0, "another process is busy with it")
        )

    @cached_property
    def _before(self) -> nn.Module:
        """The network before retraining, laid out as for training, so that all networks are judged alike."""
        network = load_network(self._measured.checkpoint, device=self._device, factory=self._factory)
        network.to(memory_format=training_format(torch.device(self._device)))
        return network

    @cached_property
    def _judge(self) -> Judge:
        return Judge(
            self._before,
            self._dataset.report,
            self._setting.num_report_images,
            self._setting.epsilon,
            device=self._device,
            on_pass=lambda detail, share: self._tell("judge", 1 - _JUDGING + share * _JUDGING, detail),
        )

    def judge_before(self, *, wait: bool = True) -> None:
        """Judge the network before retraining."""
        self._what = "before retraining"
        # It is only judged, which is the last part of an epoch.
        self._done, self._piece = _JUDGING - 1, _JUDGING
        if self._refresh:
            delete_before(self._store, self._setting)
        with self._claim(f"judge/{self._setting.before_key()}", wait=wait):
            if find_before(self._store, self._setting) is None:
                put_before(self._store, self._setting, self._judge.judge(self._before))

    # Criticality

    def measure_criticality(self, *, wait: bool = True) -> None:
        """Measure how critical each layer is, where a rule asks for it."""
        self._what = "criticality"
        key = criticality_key(self._spec, self._measured)
        if self._refresh:
            delete_criticality(self._store, key)
        if known_criticality(self._store, self._spec, self._measured) is not None:
            return
        with self._claim(f"criticality/{key}", wait=wait):
            names = [layer.facts.name for layer in self._measured.responses.layers]
            found = {name: find_criticality(self._store, key, name) for name in names}
            missing = [name for name, loss in found.items() if loss is None]
            pixels, labels = self._attacked_probe()
            for index, name in enumerate(missing):

                def on_step(step: int, name: str = name, index: int = index) -> None:
                    self._tell_all("criticality", index, len(missing), f"{name}, step {step}")

                put_criticality(self._store, key, name, worst_loss(self._before, name, pixels, labels, on_step=on_step))

    def _attacked_probe(self) -> tuple[Tensor, Tensor]:
        """The images that scores were measured on, attacked on the network before retraining."""
        probe, number = self._dataset.probe, self._spec.measurement.num_images
        labels = torch.from_numpy(np.array(probe.labels[:number])).to(self._device)
        pixels = probe.pixels(0, number).to(self._device)
        attack = self._measured.responses.attack
        assert attack is not None
        parts = []
        for start in range(0, number, IMAGES_PER_PASS):
            self._tell_all("criticality", 0, 1, f"attacking probe image {start}")
            part = slice(start, start + IMAGES_PER_PASS)
            parts.append(run_attack(self._before, pixels[part], labels[part], attack).pixels)
        return torch.cat(parts), labels

    # Retraining

    def retrain(self, selection: Selection, names: Sequence[str], *, wait: bool = True) -> None:
        """Bring one selection to its budget, from the latest epoch that is kept.

        Args:
            selection: what to train.
            names: of the rules that chose it.
            wait: wait for another process that is busy with it.
        """
        self._what = ", ".join(names)
        self._done, self._piece = 0.0, self._spec.budget
        archive = RetrainingArchive(self._store, self._setting.retraining_key(selection))
        with self._claim(f"retraining/{archive.key}", wait=wait):
            if self._refresh:
                archive.delete()
            num_done = len(archive.epochs(self._spec.budget))
            if num_done == self._spec.budget:
                return
            retrainer = Retrainer(
                self._measured.checkpoint, self._dataset, selection, device=self._device, factory=self._factory
            )
            archive.put_start(retrainer.start)
            state = archive.state()
            if state is not None and state.epoch in (num_done, num_done + 1):
                retrainer.restore(state.epoch, state.arrays)
                if state.epoch > num_done:
                    self._judge_epoch(archive, retrainer, state)
            while retrainer.epoch < self._spec.budget:
                archive.put_state(state := self._train_epoch(retrainer))
                self._judge_epoch(archive, retrainer, state)

    def _train_epoch(self, retrainer: Retrainer) -> State:
        self._done = retrainer.epoch
        number, steps = retrainer.epoch + 1, retrainer.start.steps_per_epoch

        def on_step(step: int) -> None:
            self._tell("retrain", (1 - _JUDGING) * step / steps, f"epoch {number}, step {step} of {steps}")

        loss, seconds = retrainer.train_epoch(on_step)
        return State(epoch=retrainer.epoch, loss=loss, seconds=seconds, arrays=retrainer.state())

    def _judge_epoch(self, archive: RetrainingArchive, retrainer: Retrainer, state: State) -> None:
        self._done = state.epoch - 1
        result = RetrainedEpoch(
            loss=state.loss,
            seconds=state.seconds,
            frozen_sha256=retrainer.frozen_sha256(),
            judgement=self._judge.judge(retrainer.network),
        )
        archive.put_epoch(state.epoch, result)
