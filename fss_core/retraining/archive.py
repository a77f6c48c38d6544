"""How retrainings lie in the store: what each network gets right, epoch by epoch, and the state to go on from.

A retraining is filed under what it trains, not under the rule that chose it: two rules with the same selection share
it. The state is that of the latest epoch alone; judgements stay for every epoch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from fss_core.checkpoints import Checkpoint
from fss_core.data import DatasetCard
from fss_core.retraining.results import Judged, Judgement, RetrainedEpoch, Start
from fss_core.retraining.rules import Selection
from fss_core.retraining.spec import judging_attacks
from fss_core.specs import AttackSpec, digest
from fss_core.store import SCHEMA, Store, StoredArrays

CRITICALITY_RADIUS, CRITICALITY_STEPS = 0.1, 10
"""Of module robust criticality: the ball, relative to a layer's weight norm, and the steps of the search in it."""

Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Everything but the selection that can change a retraining's numbers.

    Attributes:
        checkpoint: where it starts.
        card: of the data set.
        epsilon: at which networks are judged.
        num_report_images: on how many.
        device_type: results of different kinds of device are kept apart.
    """

    checkpoint: Checkpoint
    card: DatasetCard
    epsilon: float
    num_report_images: int
    device_type: str

    def _judging(self) -> dict[str, object]:
        return {
            "network": self.checkpoint.identity,
            "report": self.card.fingerprints["report"],
            "num_images": self.num_report_images,
            "attacks": judging_attacks(self.epsilon),
            "device": self.device_type,
            "schema": SCHEMA,
        }

    def before_key(self) -> str:
        """Name the judgement of the network before retraining."""
        return digest({"what": "before retraining", **self._judging()})

    def retraining_key(self, selection: Selection) -> str:
        """Name the retraining of a selection; its budget is left out, so that a larger one goes on."""
        return digest(
            {
                "what": "retraining",
                **self._judging(),
                "selection": selection,
                "epoch": self.checkpoint.epoch,
                "optimiser": self.checkpoint.state_sha256,
                "training": self.checkpoint.spec,
                "train": self.card.fingerprints["train"],
            }
        )

    def criticality_key(self, attack: AttackSpec, num_images: int) -> str:
        """Name the criticality of the checkpoint's layers, measured on attacked probe images."""
        return digest(
            {
                "what": "criticality",
                "network": self.checkpoint.identity,
                "probe": self.card.fingerprints["probe"],
                "num_images": num_images,
                "attack": attack,
                "radius": CRITICALITY_RADIUS,
                "steps": CRITICALITY_STEPS,
                "device": self.device_type,
                "schema": SCHEMA,
            }
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class State:
    """What retraining goes on from.

    Attributes:
        epoch: the epoch it was taken after, counted from 1.
        loss: of that epoch.
        seconds: of that epoch.
        arrays: what moves: weights, statistics and moments, by name.
    """

    epoch: int
    loss: float
    seconds: float
    arrays: Arrays


class RetrainingArchive:
    """The pieces of one retraining.

    Args:
        store: where they lie.
        key: of ``Setting.retraining_key``.
    """

    def __init__(self, store: Store, key: str) -> None:
        """Remember where to look."""
        self.store = store
        self.key = key

    def _name(self, *parts: object) -> str:
        return "/".join(("retraining", self.key, *(str(part) for part in parts)))

    def start(self) -> Start | None:
        """Read what it starts from, if it was ever begun."""
        found = self.store.get(self._name("start"))
        return None if found is None else Start(**cast(dict[str, Any], found.meta))

    def put_start(self, start: Start) -> None:
        """Write what it starts from."""
        meta = {name: getattr(start, name) for name in Start.__slots__}
        self.store.put(self._name("start"), {}, meta=meta)

    def epochs(self, budget: int) -> tuple[RetrainedEpoch, ...]:
        """Read the epochs that are finished, up to a budget: consecutive ones from the first."""
        found: list[RetrainedEpoch] = []
        while len(found) < budget and (piece := self.store.get(self._name("epoch", len(found) + 1))) is not None:
            meta = cast(dict[str, Any], piece.meta)
            own = {name: meta[name] for name in ("loss", "frozen_sha256", "seconds")}
            found.append(RetrainedEpoch(**own, judgement=_judgement(piece)))
        return tuple(found)

    def put_epoch(self, epoch: int, result: RetrainedEpoch) -> None:
        """Write one finished epoch, counted from 1."""
        own = {name: getattr(result, name) for name in ("loss", "frozen_sha256", "seconds")}
        _put_judgement(self.store, self._name("epoch", epoch), result.judgement, own)

    def state(self) -> State | None:
        """Read the latest state."""
        found = self.store.get(self._name("state"))
        return None if found is None else State(**cast(dict[str, Any], found.meta), arrays=found.arrays)

    def put_state(self, state: State) -> None:
        """Write the state after an epoch, in place of the one before."""
        meta = {"epoch": state.epoch, "loss": state.loss, "seconds": state.seconds}
        self.store.put(self._name("state"), state.arrays, meta=meta)

    def delete(self) -> None:
        """Forget everything."""
        self.store.delete_prefix(self._name(""))


def find_before(store: Store, setting: Setting) -> Judgement | None:
    """Look the judgement before retraining up."""
    found = store.get(f"retraining/{setting.before_key()}/before")
    return None if found is None else _judgement(found)


def put_before(store: Store, setting: Setting, judgement: Judgement) -> None:
    """Write the judgement before retraining."""
    _put_judgement(store, f"retraining/{setting.before_key()}/before", judgement, {})


def delete_before(store: Store, setting: Setting) -> None:
    """Forget the judgement before retraining."""
    store.delete(f"retraining/{setting.before_key()}/before")


def find_criticality(store: Store, key: str, layer: str) -> float | None:
    """Look a layer's criticality up: its worst loss, in nats."""
    found = store.get(f"criticality/{key}/{layer}")
    return None if found is None else float(cast(float, found.meta["worst_loss"]))


def put_criticality(store: Store, key: str, layer: str, worst_loss: float) -> None:
    """Write a layer's criticality."""
    store.put(f"criticality/{key}/{layer}", {}, meta={"worst_loss": worst_loss})


def delete_criticality(store: Store, key: str) -> None:
    """Forget the criticality of all layers."""
    store.delete_prefix(f"criticality/{key}/")


def _judgement(found: StoredArrays) -> Judgement:
    packed = cast(Mapping[Judged, npt.NDArray[np.uint8]], found.arrays)
    return Judgement(num_images=cast(int, found.meta["num_images"]), packed=packed)


def _put_judgement(store: Store, name: str, judgement: Judgement, meta: Mapping[str, object]) -> None:
    store.put(
        name,
        {str(kind): own for kind, own in judgement.packed.items()},
        meta={"num_images": judgement.num_images, **meta},
    )
