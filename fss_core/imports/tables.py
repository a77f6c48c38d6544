"""A measurement put together from a manifest and its tables, every number within its bounds."""

from __future__ import annotations

import hashlib
import json
import types
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fss_core.exports import READ_BACK, TABLES, Manifest, class_type
from fss_core.flow import Measured, Origin
from fss_core.imports import bounds
from fss_core.imports.bounds import Unfit, require
from fss_core.imports.manifests import check_text, decode, finite_float, num_lines, num_rows, refuse_constant
from fss_core.imports.parquet import cells, numbers, read_table, texts
from fss_core.responses import LayerFacts, LayerResponse, Predictions, Responses
from fss_core.specs import GLOBAL_LAYER, filter_rows

if TYPE_CHECKING:
    import pyarrow as pa


def put_together(manifest: Manifest, member: Callable[[str, int], bytes], origin: Origin) -> Measured:
    """Put a measurement together from a manifest and the tables it vouches for."""
    left = bounds.LARGEST_CONTENT
    contents = {}
    wanted = TABLES if manifest.predictions == "classes" else [*READ_BACK, *(manifest.files.keys() & set(TABLES))]
    for name in dict.fromkeys(wanted):
        require(name in manifest.files, f"{name} must be there (an export with --format parquet or both)", "none")
        contents[name] = member(name, left)
        left -= len(contents[name])
        found = hashlib.sha256(contents[name]).hexdigest()
        require(found == manifest.files[name], f"{name} must have the SHA-256 of the manifest", f"{found[:12]}…")
    lines = {"layers.parquet": len(manifest.layers), "images.parquet": num_lines(manifest)}
    layers, images, unfiltered = (
        read_table(name, contents[name], manifest, lines.get(name, manifest.num_images)) for name in READ_BACK
    )
    labels = numbers(unfiltered, "label")
    require(labels.min() >= 0 and labels.max() < manifest.num_classes, "labels must be classes", labels)
    spec = manifest.measurement
    responses = Responses(
        spec=spec.response,
        attack=manifest.attack,
        rows=filter_rows(spec.response.filters, spec.response.num_draws),
        labels=labels,
        num_classes=manifest.num_classes,
        unfiltered=_read_unfiltered(unfiltered, manifest.num_classes),
        layers=_read_layers(layers, images, manifest, labels),
        notes=manifest.notes,
        classes_known=manifest.predictions == "classes",
    )
    return Measured(
        spec=spec,
        key=manifest.key,
        checkpoint=manifest.checkpoint,
        card=manifest.dataset,
        calibration=manifest.calibration,
        responses=responses,
        missing=manifest.missing_layers,
        order=manifest.order,
        origin=origin,
        calibrated_on=manifest.calibrated_on,
    )


def _read_unfiltered(table: pa.Table, num_classes: int) -> Predictions:
    num_null = table["zero_gradient"].null_count
    require(num_null in (0, len(table)), "zero_gradient must be there for all images or for none", num_null)
    found = None if num_null else numbers(table, "zero_gradient")
    return Predictions(
        **{
            kind: _classes(numbers(table, f"{kind}_class"), num_classes, f"unfiltered {kind}_class")
            for kind in ("clean", "adversarial")
        },
        zero_gradient=found,
    )


def _classes(found: npt.NDArray[Any], num_classes: int, where: str) -> npt.NDArray[Any]:
    most = int(found.max())
    require(most < num_classes, f"{where} must be below {num_classes}, the number of classes", most)
    return found.astype(np.dtype(class_type(num_classes)).newbyteorder("="), copy=False)


def _read_layers(
    layers: pa.Table, images: pa.Table, manifest: Manifest, labels: npt.NDArray[np.int64]
) -> tuple[LayerResponse, ...]:
    spec = manifest.measurement.response
    shape = (len(manifest.layers), num_rows(manifest), spec.num_thresholds)
    _check_order(images, manifest, shape)
    predictions = _read_predictions(images, manifest, labels, shape)
    facts = {name: numbers(images, name).reshape(shape) for name in ("num_kept", "num_live_kept", "changes")}
    longest = 40 * max(spec.num_thresholds, bounds.MOST_BINS)
    text = {name: texts(layers, name, bounds.LONGEST_TEXT) for name in ("layer", "kind")}
    arrays = {name: texts(layers, name, longest) for name in ("thresholds", "histogram", "histogram_edges")}
    plain = {name: numbers(layers, name).tolist() for name in ("relative_depth", "num_weights", "num_live")}
    require(text["layer"] == list(manifest.layers), "layers.parquet must list the manifest's layers", text["layer"])
    found = []
    for index, name in enumerate(manifest.layers):
        own = LayerFacts(
            name=name,
            kind=check_text(text["kind"][index], "kind"),
            **{part: values[index] for part, values in plain.items()},
            **{part: values[index] for part, values in facts.items()},
            thresholds=_array(arrays["thresholds"][index], float, f"thresholds of {name}"),
            histogram=_array(arrays["histogram"][index], int, f"histogram of {name}"),
            histogram_edges=_array(arrays["histogram_edges"][index], float, f"histogram_edges of {name}"),
        )
        _check_facts(own, spec.num_thresholds)
        found.append(LayerResponse(facts=own, predictions=predictions._select((index,))))
    return tuple(found)


def _check_order(images: pa.Table, manifest: Manifest, shape: tuple[int, int, int]) -> None:
    """Check that the lines are layers × filters and draws × thresholds, in order."""
    num_layers, num_rows, num_thresholds = shape
    spec = manifest.measurement.response
    rows = filter_rows(spec.filters, spec.num_draws)
    per_layer = num_rows * num_thresholds
    expected: dict[str, Sequence[Any]] = {
        "layer": np.repeat(np.array(manifest.layers, dtype=object), per_layer).tolist(),
        "filter": np.tile(np.repeat([row.filter for row in rows], num_thresholds), num_layers).tolist(),
        "draw": np.tile(np.repeat([row.draw for row in rows], num_thresholds), num_layers).tolist(),
        "threshold_index": np.tile(np.arange(num_thresholds), num_layers * num_rows).tolist(),
        "num_images": [manifest.num_images] * (num_layers * per_layer),
    }
    for name, wanted in expected.items():
        found = (
            texts(images, name, bounds.LONGEST_TEXT) if name in ("layer", "filter") else numbers(images, name).tolist()
        )
        require(found == wanted, f"{name} of images.parquet must be in the manifest's order", found)


def _read_predictions(
    images: pa.Table, manifest: Manifest, labels: npt.NDArray[np.int64], shape: tuple[int, int, int]
) -> Predictions:
    whole = (*shape, manifest.num_images)
    classes = {}
    for kind in ("clean", "adversarial"):
        if manifest.predictions == "right":
            classes[kind] = _read_right(images, f"{kind}_right", manifest, labels).reshape(whole)
            continue
        name = f"{kind}_class"
        found = cells(images, name, class_type(manifest.num_classes))
        classes[kind] = _classes(found, manifest.num_classes, name).reshape(whole)
        right = np.packbits(found == labels, axis=-1)
        same = np.array_equal(right, cells(images, f"{kind}_right", np.uint8))
        require(same, f"{kind}_right must be where {name} is the label", "other bits")
    gradients = None
    if "zero_gradient" in images.column_names:
        packed = cells(images, "zero_gradient", np.uint8)
        gradients = np.unpackbits(packed, axis=-1, count=manifest.num_images).astype(np.bool_).reshape(whole)
    return Predictions(**classes, zero_gradient=gradients)


def _read_right(
    images: pa.Table, name: str, manifest: Manifest, labels: npt.NDArray[np.int64]
) -> npt.NDArray[np.unsignedinteger[Any]]:
    """Write what is right as the label, and what is wrong as a class that no class is."""
    packed = cells(images, name, np.uint8)
    right = np.unpackbits(packed, axis=-1, count=manifest.num_images).astype(np.bool_)
    require(np.array_equal(np.packbits(right, axis=-1), packed), f"{name} must end in zeros", "other bits")
    kind = np.dtype(class_type(manifest.num_classes + 1)).newbyteorder("=")
    return np.where(right, labels, manifest.num_classes).astype(kind)


def _array(text: str, kind: type[int] | type[float], where: str) -> npt.NDArray[Any]:
    try:
        values = json.loads(text, parse_constant=refuse_constant, parse_float=finite_float)
    except (ValueError, RecursionError) as error:
        raise Unfit(f"{where} is no JSON: {error or 'nested too deeply'}") from error
    found = decode(types.GenericAlias(tuple, (kind, ...)), values, where)
    return np.array(found, dtype=np.int64 if kind is int else np.float64)


def _check_facts(facts: LayerFacts, num_thresholds: int) -> None:
    """Check what can be checked without the weights."""
    name, total, live = facts.name, facts.num_weights, facts.num_live
    require(0 <= facts.relative_depth <= 1, f"relative_depth of {name} must lie in [0, 1]", facts.relative_depth)
    require(total >= 1, f"num_weights of {name} must be at least 1", total)
    require(0 <= live <= total, f"num_live of {name} must be 0 to {total}", live)
    kept, live_kept = facts.num_kept, facts.num_live_kept
    require(kept.min() >= 0 and kept.max() <= total, f"num_kept of {name} must be 0 to {total}", kept)
    ok = live_kept.min() >= 0 and (live_kept <= np.minimum(kept, live)).all()
    require(ok, f"num_live_kept of {name} must be 0 to num_kept and num_live", live_kept)
    single = name != GLOBAL_LAYER
    thresholds, histogram, edges = facts.thresholds, facts.histogram, facts.histogram_edges
    count = num_thresholds if single else 0
    require(len(thresholds) == count, f"thresholds of {name} must be {count}", len(thresholds))
    require((np.diff(thresholds) >= 0).all(), f"thresholds of {name} must ascend", thresholds)
    require(
        len(histogram) <= bounds.MOST_BINS,
        f"histogram of {name} must have at most {bounds.MOST_BINS} bins",
        len(histogram),
    )
    count = total if single else 0
    ok = (histogram >= 0).all() and histogram.sum() == count
    require(ok, f"histogram of {name} must add up to {count}", histogram)
    count = len(histogram) + 1 if single else 0
    require(len(edges) == count, f"histogram_edges of {name} must be {count}", len(edges))
    require((np.diff(edges) >= 0).all(), f"histogram_edges of {name} must ascend", edges)
