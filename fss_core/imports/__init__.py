"""Exports read back: a measurement made elsewhere, checked as something that anyone may have written.

A reader needs neither the data set nor the checkpoint nor torch. Nothing in a file is run, everything is bounded before
it is unpacked, the key is computed anew from the manifest's parts, and scores are never read, only computed from the
predictions. That the predictions are those of the network they name is taken on trust: hence the label "imported".
Titles, class names, layer names and notes are plain text of a stranger's choosing; who shows them escapes them.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from fss_core.exports import MANIFEST, TABLES, Manifest, write_whole
from fss_core.flow import Measured, Origin
from fss_core.imports import bounds
from fss_core.imports.archives import open_zip, read_file, zip_member
from fss_core.imports.bounds import refusing, require
from fss_core.imports.listing import Listing, list_below
from fss_core.imports.manifests import KNOWN_FILES, read_manifest
from fss_core.imports.tables import put_together
from fss_core.responses import LayerResponse
from fss_core.specs import BrokenExportError, MeasurementSpec, StoreError, cache_dir, published_dir

# Reading --------------------------------------------------------------------------------------------------


def read_export(directory: Path, *, origin: Origin = "imported") -> Measured:
    """Read a directory that ``exports.export_measured`` wrote with Parquet; other files in it are left alone.

    Args:
        directory: of the export.
        origin: what the result is to be called.

    Returns:
        The measurement; the path of its checkpoint is the directory, which holds no weights.

    Raises:
        StaleResultError: it was written under another schema.
        StoreError: it is incomplete, altered, too large, or no export.
    """
    with refusing(str(directory)):
        return put_together(_read_directory_manifest(directory), _directory_member(directory), origin)


def read_zip(source: Path | bytes | BinaryIO, *, origin: Origin = "imported") -> Measured:
    """Read a ZIP that ``exports.export_zip`` wrote.

    Args:
        source: a file, its content, or something to read it from.
        origin: what the result is to be called.

    Returns:
        The measurement; the path of its checkpoint is that of the file, which holds no weights.

    Raises:
        StaleResultError: it was written under another schema.
        StoreError: it is incomplete, altered, too large, or no export.
    """
    with refusing(_title(source)):
        return _read_content(_whole(source), _title(source), origin)


def _title(source: Path | bytes | BinaryIO) -> str:
    return str(source) if isinstance(source, Path) else "the ZIP"


def _whole(source: Path | bytes | BinaryIO) -> bytes:
    """Read a source, but no more of it than an export may have."""
    if isinstance(source, bytes):
        content = source
    elif isinstance(source, Path):
        return read_file(source, bounds.LARGEST_FILE)
    else:
        content = source.read(bounds.LARGEST_FILE + 1)
    require(len(content) <= bounds.LARGEST_FILE, f"a ZIP must have at most {bounds.LARGEST_FILE:,} bytes", len(content))
    return content


def _read_content(content: bytes, place: str, origin: Origin) -> Measured:
    with open_zip(io.BytesIO(content)) as archive:
        manifest = read_manifest(zip_member(archive, MANIFEST, bounds.LARGEST_MANIFEST), place)
        require(
            manifest.files.keys() == set(TABLES),
            f"the manifest of a ZIP must list {', '.join(TABLES)}",
            sorted(manifest.files),
        )
        return put_together(manifest, lambda name, most: zip_member(archive, name, most), origin)


def _read_directory_manifest(directory: Path) -> Manifest:
    return read_manifest(read_file(directory / MANIFEST, bounds.LARGEST_MANIFEST), str(directory))


def _directory_member(directory: Path) -> Callable[[str, int], bytes]:
    return lambda name, most: read_file(directory / name, most)


# Collections ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _OnDisk:
    path: Path

    @property
    def num_bytes(self) -> int:
        """What it takes on disk now; nothing, once it is gone."""
        with suppress(OSError):
            if not self.path.is_dir():
                return self.path.stat().st_size
            return sum(file.stat().st_size for file in self.path.iterdir() if file.name in KNOWN_FILES)
        return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry(_OnDisk):
    """One export of a collection, as its manifest describes it.

    Attributes:
        path: the ZIP, or the directory.
        manifest: what it says of itself; its tables have not been looked at.
    """

    manifest: Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokenEntry(_OnDisk):
    """One file of a collection that is no sound export.

    Attributes:
        path: the ZIP, or the directory.
        reason: one line, with the remedy.
    """

    reason: str


_listings: dict[Path, Listing[Entry | BrokenEntry]] = {}
"""Root of a collection → how it was found last, for all who ask in this process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """Exports below one directory: ZIPs in it, and directories with a manifest at any depth.

    Attributes:
        root: it need not exist.
        origin: what its results are to be called.
    """

    root: Path
    origin: Origin

    @property
    def version(self) -> str:
        """Another one whenever an export was added, replaced or taken away; a stamp a directory is looked at."""
        return self._listing().version

    def entries(self) -> list[Entry | BrokenEntry]:
        """List what is there, by path; only manifests are read, and those again only when they are others."""
        return list(self._listing().found.values())

    def _listing(self) -> Listing[Entry | BrokenEntry]:
        known = _listings.get(self.root)
        if known is None or not known.is_current:
            known = _listings[self.root] = list_below(
                self.root, self._is_export, _entry_of, is_sound=lambda own: isinstance(own, Entry), before=known
            )
        return known

    def _is_export(self, directory: str, name: str) -> bool:
        return name == MANIFEST or (name.endswith(".zip") and Path(directory) == self.root)

    def find(self, spec: MeasurementSpec, *, every_image: bool = False) -> Measured | None:
        """Look a measurement up, as ``flow.find_measured`` does: the same filters in the same order, the first images.

        Where several fit (networks trained elsewhere under the same names), one whose ε was calibrated on the network
        that was measured, then the one with the most images asked for, the fewest missing layers, the most images.

        Args:
            spec: what to look for; of its images as many as there are.
            every_image: take all the images that were measured, instead of ``spec.num_images``.

        Returns:
            What there is; ``None`` if nothing fits.

        Raises:
            BrokenExportError: the one that fits best is broken.
        """

        def rank(entry: Entry) -> tuple[bool, int, int, int, str]:
            own = entry.manifest
            images = min(own.num_images, spec.num_images)
            return not own.calibrated_on, images, -len(own.missing_layers), own.num_images, own.key

        fitting = [entry for entry in self.entries() if isinstance(entry, Entry) and _fits(entry.manifest, spec)]
        if not fitting:
            return None
        path = max(fitting, key=rank).path
        try:
            measured = (read_export if path.is_dir() else read_zip)(path, origin=self.origin)
        except StoreError as error:
            raise BrokenExportError(str(error), origin=self.origin) from error
        return _narrowed(measured, spec, measured.spec.num_images if every_image else spec.num_images)


def imported() -> Collection:
    """The results that were brought in from elsewhere: ``imported/`` in the cache directory."""
    return Collection(root=cache_dir() / "imported", origin="imported")


def published() -> Collection:
    """The published studies, as :func:`fss_core.specs.published_dir` finds them."""
    return Collection(root=published_dir(), origin="published")


def import_zip(source: Path | bytes | BinaryIO) -> Measured:
    """Check an exported ZIP and keep it among the imported results, under its key.

    Importing the same again changes nothing. More images, layers or filters replace fewer; an import that lacks
    anything of what was imported before is refused, so that nothing is lost.

    Args:
        source: a file, its content, or something to read it from.

    Returns:
        The measurement that is kept.

    Raises:
        StaleResultError: it was written under another schema.
        StoreError: it is no sound export, it would replace more by less, or it cannot be kept.
    """
    title, root = _title(source), imported().root
    with refusing(title):
        content = _whole(source)
        measured = _read_content(content, title, "imported")
    path = root / f"{measured.key}.zip"
    before = _entry(path) if path.exists() else None
    if isinstance(before, Entry):
        old = _extent(before.manifest.measurement, before.manifest.layers)
        new = _extent(measured.spec, [layer.facts.name for layer in measured.responses.layers])
        if lost := [
            f"{len(old[what] - new[what])} of {len(old[what])} {what}" for what in old if old[what] - new[what]
        ]:
            raise StoreError(
                f"{title} lacks {', '.join(lost)} of what was imported of {measured.key[:12]} before; "
                "delete that first if it is to be replaced"
            )
        if old == new:
            with suppress(StoreError):
                return read_zip(path)
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        if root.stat().st_mode & 0o077:
            root.chmod(0o700)
        write_whole(path, content, mode=0o600)
    except OSError as error:
        raise StoreError(f"{path} cannot be written ({error.strerror}); free the disk or set FSS_CACHE_DIR") from error
    return replace(measured, checkpoint=replace(measured.checkpoint, path=path))


def list_imported() -> list[Entry | BrokenEntry]:
    """List the imported results; only their manifests are read, and what is broken comes with its reason."""
    return imported().entries()


def find_imported(spec: MeasurementSpec, *, every_image: bool = False) -> Measured | None:
    """Look a measurement up among the imported results; see :meth:`Collection.find`."""
    return imported().find(spec, every_image=every_image)


def delete_imported(key: str) -> bool:
    """Forget an imported result, sound or not; say whether there was one.

    Args:
        key: the name of its file, without the ending.

    Raises:
        StoreError: it cannot be removed.
    """
    for path in imported().root.glob("*.zip"):
        if path.stem == key:
            try:
                path.unlink()
            except OSError as error:
                raise StoreError(f"{path} cannot be removed ({error.strerror}); check its permissions") from error
            return True
    return False


def _entry_of(file: Path) -> Entry | BrokenEntry:
    return _entry(file.parent if file.name == MANIFEST else file)


def _entry(path: Path) -> Entry | BrokenEntry:
    try:
        with refusing(str(path)):
            if path.is_dir():
                return Entry(path=path, manifest=_read_directory_manifest(path))
            with path.open("rb") as file, open_zip(file) as archive:
                manifest = read_manifest(zip_member(archive, MANIFEST, bounds.LARGEST_MANIFEST), str(path))
            return Entry(path=path, manifest=manifest)
    except StoreError as error:
        return BrokenEntry(path=path, reason=str(error))


def _extent(spec: MeasurementSpec, layers: Sequence[str]) -> dict[str, set[Any]]:
    return {"images": set(range(spec.num_images)), "layers": set(layers), "filters": set(spec.response.filters)}


def _fits(manifest: Manifest, spec: MeasurementSpec) -> bool:
    """Say whether an export is of this measurement; a given ε also fits one that was calibrated to the same."""
    own = manifest.measurement
    if not set(spec.response.filters) <= set(own.response.filters):
        return False
    calibrated = spec.epsilon is None and manifest.calibration is not None
    if not calibrated and spec.epsilon != manifest.attack.epsilon:
        return False
    same = replace(
        own,
        epsilon=spec.epsilon,
        num_images=spec.num_images,
        attack_kind=own.attack_kind.lower(),
        response=replace(own.response, filters=spec.response.filters),
        device=own.device_type,
    )
    return same == replace(spec, attack_kind=spec.attack_kind.lower(), device=spec.device_type)


def _narrowed(measured: Measured, spec: MeasurementSpec, num_images: int) -> Measured:
    """Keep the filters and the images that were asked for."""
    own = measured.responses
    chosen = [i for name in spec.response.filters for i, row in enumerate(own.rows) if row.filter == name]

    def part(layer: LayerResponse) -> LayerResponse:
        facts = {name: getattr(layer.facts, name)[chosen] for name in ("num_kept", "num_live_kept", "changes")}
        predictions = layer.predictions._select((chosen,)).images(0, num_images)
        return LayerResponse(facts=replace(layer.facts, **facts), predictions=predictions)

    responses = replace(
        own,
        spec=spec.response,
        rows=tuple(own.rows[index] for index in chosen),
        labels=own.labels[:num_images],
        unfiltered=own.unfiltered.images(0, num_images),
        layers=tuple(part(layer) for layer in own.layers),
    )
    return replace(
        measured,
        spec=replace(spec, num_images=responses.num_images),
        calibration=measured.calibration if spec.epsilon is None else None,
        calibrated_on=measured.calibrated_on if spec.epsilon is None else "",
        responses=responses,
    )
