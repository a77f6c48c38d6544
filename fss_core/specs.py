"""The words of a run: frozen specifications, the errors of the domain, and the hash that names a result.

Everything here is cheap to import (standard library only) and is what all other modules agree on.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable
from dataclasses import MISSING, Field, asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

Spec = TypeVar("Spec")

Filter = Literal["high_pass", "low_pass", "pulse", "random"]
AttackMode = Literal["frozen", "adaptive"]
Engine = Literal["fast", "reference"]
Scope = Literal["local", "global"]
Arithmetic = Literal["float32", "tf32", "bf16"]
Reference = Literal["unfiltered", "retained"]
Normalise = Literal["chance", "p0", "none"]
Integration = Literal["trapezoid", "simpson"]

SYNAPTIC_FILTERS: tuple[Filter, ...] = ("high_pass", "low_pass", "pulse")
"""The paper's three filters, whose per-image mean is the row ``filter="mean"``."""

CONTROL_FILTER: Filter = "random"
"""This project's control: as many weights as high-pass removes, chosen at random."""

GLOBAL_LAYER = "(all layers)"
"""The name under which whole-network filtering appears where a layer is expected."""

DEFAULT_IMAGES = 300
"""Probe images of a measurement, unless told otherwise."""

LARGEST_NUM_THRESHOLDS, LARGEST_EPOCH = 10_000, 1_000_000
"""Beyond these a number is a slip of the keyboard."""

IMAGES_PER_CHUNK = 100
"""Images per stored chunk of a response; a larger number of images re-uses the chunks of a smaller."""

NETWORKS: dict[str, str] = {
    "resnet18": "ResNet-18",
    "resnet50": "ResNet-50",
    "squeezenet1_1": "SqueezeNet-v1.1",
    "shufflenet_v2_x1_0": "ShuffleNet V2 x1.0",
}
"""The paper's networks: our name (torchvision's) and the name on screen."""


# Errors ---------------------------------------------------------------------------------------------------


class FssError(Exception):
    """Anything the domain can do wrong; its text is one line: name, rule, received value, remedy."""


class UnknownNameError(FssError):
    """A network, data set, filter, attack or split of that name does not exist."""


class UnknownLayerError(UnknownNameError):
    """A layer of that name does not exist in the network."""


class DataError(FssError):
    """A data set is missing, broken, or cannot be fetched."""


class CheckpointError(FssError):
    """A checkpoint is missing, broken, unsafe, or does not fit the network."""


class TrainingError(FssError):
    """Training went somewhere it cannot go on from."""


class CalibrationError(FssError):
    """No perturbation size on the grid brings accuracy down to the target."""


class NotFiniteError(FssError):
    """Weights or pixels hold NaN or infinity."""


class NotMeasurableError(FssError):
    """A score has no meaning here (raised only under ``strict=True``)."""


class StoreError(FssError):
    """A stored result is broken, tampered with, of another schema, or not there."""


class StaleResultError(StoreError):
    """A stored result was written under another schema."""


class BrokenExportError(StoreError):
    """A result from elsewhere is broken.

    Args:
        message: what is wrong.
        origin: ``"imported"`` or ``"published"``.
    """

    def __init__(self, message: str, *, origin: str) -> None:
        """Remember where it comes from."""
        super().__init__(message)
        self.origin = origin


class Cancelled(FssError):
    """The work was asked to stop; what was finished is kept."""


def choose(name: str, known: Iterable[str], *, what: str, error: type[FssError] = UnknownNameError) -> str:
    """Return ``name`` if it is one of ``known``; otherwise raise ``error`` naming the choices.

    Args:
        name: what the caller asked for.
        known: the names that exist.
        what: what the names are of, for the message ("network", "data set").
        error: which error to raise.

    Returns:
        ``name``, unchanged.

    Raises:
        FssError: ``name`` is not in ``known``.

    >>> choose("resnet18", NETWORKS, what="network")
    'resnet18'
    """
    names = list(known)
    if name not in names:
        shown = ", ".join(names[:12]) + (", …" if len(names) > 12 else "")
        raise error(f"no {what} {name!r}; choose from {shown}")
    return name


# Keys -----------------------------------------------------------------------------------------------------


def canonical_json(value: object) -> str:
    """Write a specification as JSON in exactly one way: sorted keys, no spaces, no NaN.

    Args:
        value: dataclasses, mappings, sequences, strings, numbers, booleans and ``None``.

    Returns:
        The text whose SHA-256 names a result.

    Raises:
        TypeError: something in ``value`` has no JSON form.
        ValueError: a number is NaN or infinite.

    >>> canonical_json({"b": 1, "a": (True, None)})
    '{"a":[true,null],"b":1}'
    """

    def plain(item: object) -> object:
        if is_dataclass(item) and not isinstance(item, type):
            return to_json(item)
        raise TypeError(f"{type(item).__name__} has no place in a key")

    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=plain)


def digest(value: object) -> str:
    """Hash a specification: the SHA-256, in hexadecimal, of its canonical JSON.

    >>> digest({"a": 1})[:12]
    '015abd7f5cc5'
    """
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


ADDED = {"added": True}
"""Metadata of a field that a specification was given after results had been filed under its keys."""


def to_json(value: Any) -> dict[str, Any]:
    """Write a specification so that :func:`from_json` reads it back, and that keys stay what they were.

    What ``dataclasses.asdict`` does, but fields that were added later are left out while they say nothing new.

    Args:
        value: a dataclass.

    >>> sorted(to_json(TrainingSpec(network="resnet18", dataset="mnist")))
    ['batch_size', 'dataset', 'learning_rate', 'network', 'seed']
    """
    return cast(dict[str, Any], _plain(value))


def was_added(own: Field[Any]) -> bool:
    """Say whether a field was added later, so that it may be absent."""
    return own.metadata.get("added", False) and own.default is not MISSING


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        named = ((own, getattr(value, own.name)) for own in fields(value))
        return {own.name: _plain(part) for own, part in named if not (was_added(own) and part == own.default)}
    if isinstance(value, tuple | list):
        return type(value)(_plain(part) for part in value)
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    return value


def from_json(kind: type[Spec], value: object) -> Spec:
    """Rebuild a specification from what JSON made of it.

    Args:
        kind: a dataclass of numbers, strings, booleans, tuples and other such dataclasses.
        value: as ``dataclasses.asdict`` and JSON left it: tuples may be lists.

    Returns:
        The specification, checked as if it had been written down.

    Raises:
        ValueError: a field is missing, unknown, of another type, or out of range.

    >>> from_json(TrainingSpec, {"network": "resnet18", "dataset": "mnist"}).seed
    0
    """
    try:
        return cast(Spec, _rebuilt(kind, value, kind.__name__))
    except (TypeError, FssError) as error:
        raise ValueError(f"{kind.__name__} cannot be read: {error}") from error


def _rebuilt(kind: Any, value: object, name: str) -> object:
    if is_dataclass(kind):
        if not isinstance(value, dict):
            raise TypeError(f"{name} must be an object, got {value!r}")
        hints = get_type_hints(kind)
        unknown = value.keys() - hints.keys()
        if unknown:
            raise TypeError(f"{name} has no {min(map(str, unknown))!r}")
        return cast(type, kind)(**{field: _rebuilt(hints[field], part, field) for field, part in value.items()})
    origin, choices = get_origin(kind), get_args(kind)
    if origin is Literal:
        if value not in choices:
            raise TypeError(f"{name} must be one of {', '.join(map(str, choices))}, got {value!r}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise TypeError(f"{name} must be a list, got {value!r}")
        return tuple(_rebuilt(choices[0], part, name) for part in value)
    if origin is UnionType:
        if value is None and NoneType in choices:
            return None
        (other,) = (choice for choice in choices if choice is not NoneType)
        return _rebuilt(other, value, name)
    if kind is float and type(value) is int:
        return value  # as it was written: another type would be another key
    if type(value) is not kind:
        raise TypeError(f"{name} must be {kind.__name__}, got {value!r}")
    return value


# Places ---------------------------------------------------------------------------------------------------


def cache_dir() -> Path:
    """Where results and checkpoints live: ``FSS_CACHE_DIR``, or ``cache/`` in the checkout or the working directory.

    Returns:
        The directory; it need not exist yet.
    """
    if given := os.environ.get("FSS_CACHE_DIR"):
        return Path(given).expanduser()
    return (_checkout() if _is_checkout() else Path.cwd()) / "cache"


def published_dir() -> Path:
    """Where published studies are read: ``FSS_PUBLISHED_DIR``, relative to the cache directory.

    Returns:
        The directory; by default ``published/`` in the cache directory, or, where that is not there, the one that came
        with this version. It need not exist.
    """
    if given := os.environ.get("FSS_PUBLISHED_DIR"):
        return cache_dir() / Path(given).expanduser()
    own, shipped = cache_dir() / "published", _checkout() / "cache" / "published"
    # Path.is_dir would raise where the way there is barred.
    return own if os.path.isdir(own) or not _is_checkout() else shipped  # noqa: PTH112


def _checkout() -> Path:
    return Path(__file__).resolve().parents[1]


def _is_checkout() -> bool:
    return (_checkout() / "pyproject.toml").is_file()


def data_dir() -> Path:
    """Where raw data sets are looked for and fetched to: ``FSS_DATA_DIR``, or ``data`` in the cache directory."""
    if given := os.environ.get("FSS_DATA_DIR"):
        return Path(given).expanduser()
    return cache_dir() / "data"


# Specifications -------------------------------------------------------------------------------------------


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSpec:
    """Names one training trajectory; together with an epoch it names a checkpoint.

    Adam, no augmentation, incomplete last batches dropped (METHOD, "The paper's grid").

    Attributes:
        network: a name from ``NETWORKS``, or the user's own under ``--factory``.
        dataset: a registered data set.
        seed: the initialisation, and the order of the images.
        batch_size: images per step.
        learning_rate: Adam's step size.
        num_train: train on so many of the training images, the same ones for every initialisation; ``None`` means all.
    """

    network: str
    dataset: str
    seed: int = 0
    batch_size: int = 100
    learning_rate: float = 1e-3
    num_train: int | None = field(default=None, metadata=ADDED)

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        _require(0 <= self.seed < 2**63, f"seed must be at least 0 and below 2^63, got {self.seed}")
        _require(self.batch_size >= 2, f"batch_size must be at least 2 (batch normalisation), got {self.batch_size}")
        _require(0 < self.learning_rate < 1, f"learning_rate must lie between 0 and 1, got {self.learning_rate}")
        _require(
            self.num_train is None or self.num_train >= self.batch_size,
            f"num_train must be at least one batch of {self.batch_size}, got {self.num_train}",
        )

    @property
    def subset(self) -> str:
        """Say in words that only a part of the training images is trained on; empty for all of them."""
        return "" if self.num_train is None else f"{self.num_train:,} training images"


@dataclass(frozen=True, slots=True, kw_only=True)
class AttackSpec:
    """Names one way of making adversarial images.

    Attributes:
        epsilon: radius of the L∞ ball, in pixels on [0, 1].
        kind: ``"fgsm"``, ``"pgd"``, or the name of an L∞ attack in torchattacks, in any case.
        mode: ``"frozen"`` attacks the unfiltered network once; ``"adaptive"`` every filtered network anew.
        steps: iterations of an iterative attack; FGSM has none.
        step_size: in pixels; ``None`` means 2.5 ε / ``steps``, as METHOD asks.
        seed: of the random start.
    """

    epsilon: float
    kind: str = "fgsm"
    mode: AttackMode = "frozen"
    steps: int = 10
    step_size: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what no attack can do."""
        _require(
            0 < self.epsilon <= 1, f"epsilon must lie in (0, 1] (pixels; 8/255 is {8 / 255:.4f}), got {self.epsilon}"
        )
        _require(self.mode in ("frozen", "adaptive"), f"mode must be 'frozen' or 'adaptive', got {self.mode!r}")
        _require(self.steps >= 1, f"steps must be at least 1, got {self.steps}")
        _require(self.step_size is None or self.step_size > 0, f"step_size must be above 0, got {self.step_size}")

    @property
    def resolved_step_size(self) -> float:
        """The step in pixels: the one given, or 2.5 ε / steps."""
        return self.step_size if self.step_size is not None else 2.5 * self.epsilon / self.steps


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseSpec:
    """Names what is measured of one checkpoint, apart from the images and the attack.

    Attributes:
        filters: which synaptic filters, in order; may include the control ``"random"``.
        num_thresholds: A, the number of thresholds per layer.
        scope: one layer at a time, or every layer at once.
        engine: ``"fast"`` or ``"reference"``.
        seed: of the random control.
        num_draws: draws of the random control that are averaged.
        arithmetic: in which networks predict: ``"float32"``, or shorter products, which may decide near ties otherwise:
            ``"tf32"`` (of 10 bits instead of 23; NVIDIA GPUs) or ``"bf16"`` (of 7, where torch's autocast has them).
            ε and attacks are computed in float32 all the same.
    """

    filters: tuple[Filter, ...] = SYNAPTIC_FILTERS
    num_thresholds: int = 25
    scope: Scope = "local"
    engine: Engine = "fast"
    seed: int = 0
    num_draws: int = 3
    arithmetic: Arithmetic = field(default="float32", metadata=ADDED)

    def __post_init__(self) -> None:
        """Refuse what cannot be measured."""
        known = (*SYNAPTIC_FILTERS, CONTROL_FILTER)
        for name in self.filters:
            choose(name, known, what="filter")
        _require(len(self.filters) > 0, "filters must name at least one filter, got none")
        _require(len(set(self.filters)) == len(self.filters), f"filters must differ, got {', '.join(self.filters)}")
        _require(
            2 <= self.num_thresholds <= LARGEST_NUM_THRESHOLDS,
            f"num_thresholds must be at least 2 and at most {LARGEST_NUM_THRESHOLDS}, got {self.num_thresholds}",
        )
        _require(self.scope in ("local", "global"), f"scope must be 'local' or 'global', got {self.scope!r}")
        _require(self.engine in ("fast", "reference"), f"engine must be 'fast' or 'reference', got {self.engine!r}")
        _require(self.num_draws >= 3, f"num_draws must be at least 3, got {self.num_draws}")
        _require(
            self.arithmetic in get_args(Arithmetic),
            f"arithmetic must be 'float32', 'tf32' or 'bf16', got {self.arithmetic!r}",
        )

    def check_arithmetic(self, device: str) -> None:
        """Refuse arithmetic that a device does not have.

        Args:
            device: torch's name.

        Raises:
            ValueError: TF32 anywhere but on an NVIDIA GPU.
        """
        _require(
            self.arithmetic != "tf32" or device.partition(":")[0] == "cuda",
            f"arithmetic 'tf32' must be on device cuda (an NVIDIA GPU), got {device}; use float32",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterRow:
    """One row of a response: a filter, and for the random control which draw.

    Attributes:
        filter: the synaptic filter.
        draw: 0 for the paper's filters; 0, 1, … for the control.
    """

    filter: Filter
    draw: int = 0


def filter_rows(filters: Iterable[Filter], num_draws: int) -> tuple[FilterRow, ...]:
    """List the rows a response has: one per filter, and one per draw of the random control.

    >>> [row.draw for row in filter_rows(["pulse", "random"], 3)]
    [0, 0, 1, 2]
    """
    return tuple(
        FilterRow(filter=name, draw=draw)
        for name in filters
        for draw in range(num_draws if name == CONTROL_FILTER else 1)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreSpec:
    """Names how responses become scores and calls.

    Attributes:
        reference: b(t), what robust is compared with: ``"unfiltered"`` (1), ``"retained"`` (fraction of weights kept).
        normalise: ``"chance"``, ``"p0"`` or ``"none"``.
        integration: ``"trapezoid"`` or ``"simpson"`` (an odd number of thresholds only).
        tolerance: η; a score within ±η is called robust.
        level: of the intervals.
    """

    reference: Reference = "unfiltered"
    normalise: Normalise = "chance"
    integration: Integration = "trapezoid"
    tolerance: float = 0.05
    level: float = 0.95

    def __post_init__(self) -> None:
        """Refuse what is no score."""
        _require(
            self.reference in ("unfiltered", "retained"),
            f"reference must be 'unfiltered' or 'retained', got {self.reference!r}",
        )
        _require(
            self.normalise in ("chance", "p0", "none"),
            f"normalise must be 'chance', 'p0' or 'none', got {self.normalise!r}",
        )
        _require(
            self.integration in ("trapezoid", "simpson"),
            f"integration must be 'trapezoid' or 'simpson', got {self.integration!r}",
        )
        _require(0 <= self.tolerance < math.inf, f"tolerance must be at least 0, and finite, got {self.tolerance}")
        _require(0.5 <= self.level < 1, f"level must lie in [0.5, 1), got {self.level}")


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasurementSpec:
    """Names a measurement: one epoch of one network, some probe images, an attack, and what is filtered.

    Attributes:
        training: the trajectory.
        epoch: 0 is untrained.
        num_images: the first n images of the probe split.
        attack_kind: as ``AttackSpec.kind``.
        attack_mode: as ``AttackSpec.mode``.
        epsilon: in pixels on [0, 1]; ``None`` means calibrated on the checkpoint itself.
        attack_steps: as ``AttackSpec.steps``.
        response: filters, thresholds, scope, engine.
        device: torch's name of the device; results of different kinds of device are kept apart.
    """

    training: TrainingSpec
    epoch: int
    num_images: int = DEFAULT_IMAGES
    attack_kind: str = "fgsm"
    attack_mode: AttackMode = "frozen"
    epsilon: float | None = None
    attack_steps: int = 10
    response: ResponseSpec = ResponseSpec()
    device: str = "cpu"

    def __post_init__(self) -> None:
        """Refuse what cannot be measured."""
        _require(
            0 <= self.epoch <= LARGEST_EPOCH, f"epoch must be at least 0 and at most {LARGEST_EPOCH}, got {self.epoch}"
        )
        _require(self.num_images >= 1, f"num_images must be at least 1, got {self.num_images}")
        self.response.check_arithmetic(self.device)
        self.attack(self.epsilon if self.epsilon is not None else 1.0)

    def attack(self, epsilon: float) -> AttackSpec:
        """Complete the attack with the ε that was given or calibrated."""
        return AttackSpec(
            epsilon=epsilon, kind=self.attack_kind.lower(), mode=self.attack_mode, steps=self.attack_steps
        )

    @property
    def device_type(self) -> str:
        """The kind of device: ``"cuda"`` for ``"cuda:1"``."""
        return self.device.partition(":")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class EpsilonCalibration:
    """The perturbation size chosen for a network, and the curve it was read from.

    Attributes:
        epsilon: in pixels on [0, 1].
        clean_accuracy: fraction of the calibration images that are right.
        target: midway between clean accuracy and chance.
        grid: the sizes tried, ascending, in pixels.
        pgd_accuracy: fraction right under PGD at each of ``grid``.
        num_images: calibration images.
        reached: False for a network near chance whose accuracy no size brings to the target; ε is then the largest
            tried, and no score is measurable.
    """

    epsilon: float
    clean_accuracy: float
    target: float
    grid: tuple[float, ...]
    pgd_accuracy: tuple[float, ...]
    num_images: int
    reached: bool = True

    def __float__(self) -> float:
        """Return ε, so that a calibration can stand where a number is expected."""
        return self.epsilon


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkIdentity:
    """Which network results belong to: the same weights mean something else in another architecture.

    Attributes:
        network: name of the architecture.
        factory: ``module:function`` that built it, for a network of the user's own; that the function still does what
            it did is taken on trust.
        weights_sha256: of the checkpoint's weights.
    """

    network: str
    factory: str | None
    weights_sha256: str


def response_key(
    *, response: ResponseSpec, attack: AttackSpec, network: NetworkIdentity, probe: str, device_type: str, schema: int
) -> str:
    """Name a measured response by everything that can change its numbers.

    The filters and the number of images are left out: each filter and each chunk of images is stored under its own
    part of the key, so that asking for more re-uses what is there.

    Args:
        response: what is filtered.
        attack: on the unfiltered network, or on every filtered one.
        network: what is measured.
        probe: fingerprint of the probe split.
        device_type: as ``MeasurementSpec.device_type``.
        schema: of stored results.

    Returns:
        The SHA-256, in hexadecimal.
    """
    return digest(
        {
            "what": "responses",
            "response": {name: value for name, value in to_json(response).items() if name != "filters"},
            "attack": attack,
            "network": network,
            "probe": probe,
            "device": device_type,
            "schema": schema,
        }
    )


def adversarial_key(*, attack: AttackSpec, network: NetworkIdentity, probe: str, device_type: str, schema: int) -> str:
    """Name the adversarial images of an unfiltered network; whether filtered networks are attacked anew is left out."""
    return digest(
        {
            "what": "adversarial images",
            "attack": {name: value for name, value in asdict(attack).items() if name != "mode"},
            "network": network,
            "probe": probe,
            "device": device_type,
            "schema": schema,
        }
    )


def epsilon_key(*, network: NetworkIdentity, calibration: str, device_type: str, schema: int) -> str:
    """Name a calibrated ε by the network and the fingerprint of the calibration split."""
    return digest(
        {
            "what": "epsilon",
            "network": network,
            "calibration": calibration,
            "device": device_type,
            "schema": schema,
        }
    )
