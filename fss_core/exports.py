"""Results as files for other tools: Parquet or CSV tables, and a manifest that says where every number comes from."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from fss_core import __version__
from fss_core.flow import Measured
from fss_core.reports import measured_json
from fss_core.scores import Scores
from fss_core.specs import StoreError
from fss_core.store import SCHEMA

if TYPE_CHECKING:
    import pandas as pd

Format = Literal["parquet", "csv"]

_PACKAGES = ("torch", "torchvision", "torchattacks", "numpy", "pandas", "scipy")


def export_measured(
    measured: Measured, scores: Scores, directory: Path, *, formats: Sequence[Format] = ("parquet", "csv")
) -> list[Path]:
    """Write a measurement into a directory: accuracies, scores, per-image results, layers, and a manifest.

    ``responses`` has one line per layer, filter and threshold; ``scores`` one per layer, filter and kind; ``layers``
    one per layer; ``images`` (Parquet only) has, per line of ``responses`` and draw, the packed bits of which images
    are right and the predicted classes. ``manifest.json`` holds the full specification, data fingerprints, the
    checkpoint's SHA-256, versions, hardware, and the SHA-256 of each file beside it.

    Args:
        measured: complete or not; the manifest lists what is missing.
        scores: of it.
        directory: made if it is missing; files of the same names are replaced.
        formats: which.

    Returns:
        The files written, the manifest last.

    Raises:
        StoreError: the directory cannot be written.
    """
    tables = {
        "responses": measured.responses.to_dataframe(),
        "scores": scores.to_dataframe(),
        "layers": _layers(measured),
    }
    try:
        directory.mkdir(parents=True, exist_ok=True)
        written = [
            _write(directory / f"{name}.{kind}", table, kind) for kind in formats for name, table in tables.items()
        ]
        if "parquet" in formats:
            written.append(_write(directory / "images.parquet", _images(measured), "parquet"))
        manifest = {
            **{
                name: part for name, part in measured_json(measured, scores).items() if name not in ("scores", "layers")
            },
            "schema": SCHEMA,
            "written": datetime.now(UTC).isoformat(timespec="seconds"),
            "hardware": {"machine": platform.machine(), "processor": platform.processor(), "cores": os.cpu_count()},
            "trained_on": dict(measured.checkpoint.hardware),
            "versions": {
                "filtering-score-studio": __version__,
                "python": platform.python_version(),
                **{name: metadata.version(name) for name in _PACKAGES},
            },
            "trained_with": dict(measured.checkpoint.versions),
            "files": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in written},
        }
        path = directory / "manifest.json"
        path.write_text(json.dumps(manifest, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise StoreError(f"{directory} cannot be written ({error.strerror}); choose another directory") from error
    return [*written, path]


def _write(path: Path, table: pd.DataFrame, kind: Format) -> Path:
    """Write one table whole or not at all."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    os.close(handle)
    part = Path(name)
    try:
        if kind == "parquet":
            table.to_parquet(part, index=False)
        else:
            table.to_csv(part, index=False)
        part.chmod(0o644)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def _layers(measured: Measured) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(
        [
            {
                "layer": layer.facts.name,
                "kind": layer.facts.kind,
                "relative_depth": layer.facts.relative_depth,
                "num_weights": layer.facts.num_weights,
                "num_live": layer.facts.num_live,
                "histogram": json.dumps(layer.facts.histogram.tolist()),
                "histogram_range": json.dumps(
                    layer.facts.histogram_edges[[0, -1]].tolist() if layer.facts.histogram.size else []
                ),
            }
            for layer in measured.responses.layers
        ]
    )


def _images(measured: Measured) -> pd.DataFrame:
    import pandas as pd

    responses = measured.responses
    lines = []
    for layer in responses.layers:
        for index, row in enumerate(responses.rows):
            for k in range(responses.spec.num_thresholds):
                clean, adversarial = (
                    predicted[index, k] for predicted in (layer.predictions.clean, layer.predictions.adversarial)
                )
                lines.append(
                    {
                        "layer": layer.facts.name,
                        "filter": row.filter,
                        "draw": row.draw,
                        "threshold_index": k,
                        "num_images": responses.num_images,
                        "clean_right": np.packbits(clean == responses.labels).tobytes(),
                        "adversarial_right": np.packbits(adversarial == responses.labels).tobytes(),
                        "clean_class": clean.astype(np.uint16).tobytes(),
                        "adversarial_class": adversarial.astype(np.uint16).tobytes(),
                    }
                )
    return pd.DataFrame(lines)
