"""Manifests, read as something that anyone may have written: field by field, and then against each other."""

from __future__ import annotations

import json
import math
import re
import reprlib
import types
import unicodedata
from contextlib import suppress
from dataclasses import fields, is_dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from fss_core.data import SPLITS
from fss_core.exports import EXPORT_FORMAT, MANIFEST, TABLES, Manifest
from fss_core.imports import bounds
from fss_core.imports.bounds import Unfit, require
from fss_core.specs import CONTROL_FILTER, GLOBAL_LAYER, StaleResultError, UnknownNameError, response_key, was_added
from fss_core.store import SCHEMA

_SHA256 = re.compile(r"[0-9a-f]{64}")
KNOWN_FILES = {MANIFEST, *TABLES} | {f"{name}.csv" for name in ("responses", "scores", "layers")}
"""What a manifest may vouch for, and the manifest."""


def read_manifest(content: bytes, place: str) -> Manifest:
    """Read a manifest field by field, and check that its parts agree with each other."""
    record = parse_object(content)
    for name, own in (("format", EXPORT_FORMAT), ("schema", SCHEMA)):
        found = record.get(name)
        require(type(found) is int, f"{name} must be a whole number", found)
        if found != own:
            raise StaleResultError(
                f"{place} has {name} {reprlib.repr(found)}, this version reads {own}; export it again with this version"
            )
    if isinstance(record.get("checkpoint"), dict):
        record["checkpoint"]["path"] = ""  # a file does not say where it lies
    manifest = cast(Manifest, decode(Manifest, record, "manifest"))
    manifest = replace(manifest, checkpoint=replace(manifest.checkpoint, path=Path(place)))
    _check_identity(manifest)
    _check_sizes(manifest)
    return manifest


def parse_object(content: bytes) -> dict[str, Any]:
    """Read a JSON object in which no name stands twice and every number is finite."""
    try:
        record = json.loads(
            content.decode("utf-8"), object_pairs_hook=_object, parse_constant=refuse_constant, parse_float=finite_float
        )
    except (ValueError, RecursionError) as error:
        raise Unfit(f"the manifest is no JSON: {error or 'nested too deeply'}") from error
    require(isinstance(record, dict), "the manifest must be a JSON object", record)
    return cast(dict[str, Any], record)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice in one object")
    return found


def refuse_constant(text: str) -> float:
    """Refuse NaN and infinity."""
    raise ValueError(f"numbers must be finite, got {text}")


def finite_float(text: str) -> float:
    """Read a number that must be finite."""
    value = float(text)
    return value if math.isfinite(value) else refuse_constant(text)


def decode(kind: Any, value: Any, where: str) -> Any:
    """Turn JSON into a value of a type, which decides everything: no field is guessed, converted or ignored."""
    if kind is str:  # most of a manifest
        return check_text(value, where)
    is_fields, origin, parts = _shape(kind)
    if is_fields:
        return _decode_dataclass(cast(type, kind), value, where)
    if origin is Literal:
        require(isinstance(value, str) and value in parts, f"{where} must be one of {', '.join(parts)}", value)
        return value
    if origin in (Union, types.UnionType):
        for part in parts:
            with suppress(Unfit):
                return decode(part, value, where)
        raise Unfit(f"{where} must be {kind}, got {reprlib.repr(value)}")
    if origin is tuple:
        require(isinstance(value, list), f"{where} must be a list", value)
        wanted = parts[:1] * len(value) if parts[-1] is Ellipsis else parts
        require(len(value) == len(wanted), f"{where} must have {len(wanted)} entries", value)
        return tuple(
            decode(part, item, f"{where}[{index}]")
            for index, (part, item) in enumerate(zip(wanted, value, strict=True))
        )
    if origin is dict:
        require(isinstance(value, dict), f"{where} must be an object", value)
        return {
            check_text(name, where): decode(parts[1], item, f"{where}.{check_text(name, where)}")
            for name, item in value.items()
        }
    if kind is Path:
        return Path(check_text(value, where))
    if kind in (int, float):
        allowed = (int,) if kind is int else (int, float)
        require(type(value) in allowed and abs(value) < 2**63, f"{where} must be a number ({kind.__name__})", value)
        return value
    require(type(value) is kind, f"{where} must be {getattr(kind, '__name__', kind)}", value)
    return value


_hints = lru_cache(get_type_hints)
"""The same few types are read many times, and looking their hints up took half the time."""


@lru_cache
def _shape(kind: Any) -> tuple[bool, Any, tuple[Any, ...]]:
    """Take a type apart: whether it has fields of its own, what it is of, and of what."""
    return is_dataclass(kind), get_origin(kind), get_args(kind)


def _decode_dataclass(kind: type, value: Any, where: str) -> Any:
    require(isinstance(value, dict), f"{where} must be an object", value)
    hints = _hints(kind)
    absent = {own.name for own in fields(kind) if was_added(own)} - value.keys()
    require(value.keys() == hints.keys() - absent, f"{where} must have the fields {', '.join(hints)}", sorted(value))
    found = {name: decode(hints[name], value[name], f"{where}.{name}") for name in hints if name not in absent}
    try:
        return kind(**found)
    except (ValueError, UnknownNameError) as error:
        raise Unfit(f"{where}: {error}") from error


def check_text(value: Any, where: str) -> str:
    """Check that something is text, short, and fit to be printed."""
    if isinstance(value, str) and len(value) <= bounds.LONGEST_TEXT and value.isprintable():
        return value  # thousands of names are, and no message has to be put together
    require(isinstance(value, str), f"{where} must be text", value)
    require(
        len(value) <= bounds.LONGEST_TEXT, f"{where} must have at most {bounds.LONGEST_TEXT} characters", len(value)
    )
    # Control characters would reach a terminal, lone surrogates cannot be written anywhere.
    ok = value.isprintable() or all(unicodedata.category(character) not in ("Cc", "Cs") for character in value)
    require(ok, f"{where} must be text without control characters", value)
    return cast(str, value)


def _check_identity(manifest: Manifest) -> None:
    """Check that the manifest's parts are about the same measurement, which its key names."""
    spec, attack, card, checkpoint = manifest.measurement, manifest.attack, manifest.dataset, manifest.checkpoint
    hashes = {f"files.{name}": value for name, value in manifest.files.items()}
    hashes |= {f"dataset.fingerprints.{name}": value for name, value in card.fingerprints.items()}
    hashes |= {"key": manifest.key, "checkpoint.sha256": checkpoint.sha256}
    for where, value in hashes.items():
        require(_SHA256.fullmatch(value), f"{where} must be a SHA-256", value)
    require(
        manifest.files.keys() <= KNOWN_FILES - {MANIFEST}, "files must be those of an export", sorted(manifest.files)
    )
    for where, found, expected in (
        ("dataset.split_sizes", card.split_sizes.keys(), set(SPLITS)),
        ("dataset.fingerprints", card.fingerprints.keys(), set(SPLITS)),
        ("dataset.name", card.name, spec.training.dataset),
        ("checkpoint.spec", checkpoint.spec, spec.training),
        ("checkpoint.epoch", checkpoint.epoch, spec.epoch),
        ("checkpoint.dataset_fingerprint", checkpoint.dataset_fingerprint, card.fingerprints.get("train")),
        ("network", manifest.network, checkpoint.identity),
        ("attack", attack, spec.attack(attack.epsilon)),
        ("measurement.num_images", spec.num_images, manifest.num_images),
    ):
        require(found == expected, f"{where} must agree with the other parts: {reprlib.repr(expected)}", found)
    if (curve := manifest.calibration) is not None:
        shares = (curve.clean_accuracy, curve.target, *curve.pgd_accuracy)
        require(curve.num_images >= 1, "calibration.num_images must be at least 1", curve.num_images)
        require(all(0 <= own <= 1 for own in shares), "accuracies of calibration must lie on [0, 1]", shares)
        require(all(0 < own <= 1 for own in curve.grid), "calibration.grid must lie on (0, 1]", curve.grid)
        require(len(curve.grid) == len(curve.pgd_accuracy), "calibration.grid must have its accuracies", curve.grid)
    chosen = spec.epsilon if manifest.calibration is None else manifest.calibration.epsilon
    require(attack.epsilon == chosen, f"attack.epsilon must be what was given or calibrated ({chosen})", attack.epsilon)
    if manifest.calibrated_on:
        # A study gives every epoch the ε that was calibrated on the last one.
        same = manifest.calibration is not None and spec.epsilon == manifest.calibration.epsilon
        require(same, "calibrated_on must come with measurement.epsilon and its calibration", manifest.calibrated_on)
    else:
        both = (spec.epsilon is None) == (manifest.calibration is not None)
        require(both, "calibration must be there exactly when measurement.epsilon is null", spec.epsilon)
    key = response_key(
        response=spec.response,
        attack=attack,
        network=manifest.network,
        probe=card.fingerprints["probe"],
        device_type=spec.device_type,
        schema=SCHEMA,
    )
    require(manifest.key == key, f"key must be that of its parts ({key[:12]}…)", manifest.key[:12])


def _check_sizes(manifest: Manifest) -> None:
    """Bound everything that decides how much memory the tables take."""
    spec, card = manifest.measurement, manifest.dataset
    most = card.split_sizes["probe"]
    require(spec.num_images <= most, f"num_images must be at most {most}, the probe images", spec.num_images)
    require(
        spec.response.num_draws <= bounds.MOST_DRAWS,
        f"num_draws must be at most {bounds.MOST_DRAWS}",
        spec.response.num_draws,
    )
    require(
        1 <= manifest.num_classes <= bounds.MOST_CLASSES,
        f"num_classes must be 1 to {bounds.MOST_CLASSES}",
        manifest.num_classes,
    )
    if manifest.predictions == "right":
        require(manifest.num_classes < bounds.MOST_CLASSES, "num_classes must leave room", manifest.num_classes)
    names = (*manifest.layers, *manifest.missing_layers)
    require(
        1 <= len(manifest.layers) <= len(names) <= bounds.MOST_LAYERS,
        f"layers must be 1 to {bounds.MOST_LAYERS}",
        len(names),
    )
    order = manifest.order or names
    require(len(set(names)) == len(names) and len(set(order)) == len(order), "layers must differ", names)
    require(len(order) <= bounds.MOST_LAYERS, f"order must have at most {bounds.MOST_LAYERS} layers", len(order))
    for own in (manifest.layers, manifest.missing_layers):
        require(own == tuple(name for name in order if name in set(own)), "layers must be in order", own)
    if spec.response.scope == "global":
        require(names == (GLOBAL_LAYER,), f"layers of a global measurement must be {GLOBAL_LAYER!r}", names)
    most, num_bytes = bounds.LARGEST_CONTENT, num_lines(manifest) * (5 * manifest.num_images + 200)
    require(num_bytes <= most, f"layers × filters × thresholds × images must take at most {most:,} bytes", num_bytes)


def num_rows(manifest: Manifest) -> int:
    """Count the filters and draws without listing them."""
    response = manifest.measurement.response
    return len(response.filters) + (response.num_draws - 1) * (CONTROL_FILTER in response.filters)


def num_lines(manifest: Manifest) -> int:
    """Count the lines of ``images.parquet``."""
    return len(manifest.layers) * num_rows(manifest) * manifest.measurement.response.num_thresholds
