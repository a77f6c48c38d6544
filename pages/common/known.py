"""What is measured already, as links: here, imported, and published."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import streamlit as st

from fss_core.imports import Entry, imported, published
from fss_core.jobs.requests import MeasureRequest, preview_of
from fss_core.specs import (
    CONTROL_FILTER,
    NETWORKS,
    SYNAPTIC_FILTERS,
    FssError,
    MeasurementSpec,
    ResponseSpec,
    canonical_json,
    from_json,
)
from fss_core.store import Store
from pages.common.choices import known_datasets
from pages.common.frame import plain

_MOST = 12


def link_params(
    spec: MeasurementSpec, *, epsilon: str = "", whole: bool | None = None, control: bool | None = None
) -> dict[str, str]:
    """Write the query parameters of the view that shows a measurement, with what is beside it, if that is said."""
    beside = {"whole": whole, "control": control}
    return {
        "network": spec.training.network,
        "dataset": spec.training.dataset,
        "epoch": str(spec.epoch),
        "init": str(spec.training.seed),
        **({"train": str(spec.training.num_train)} if spec.training.num_train is not None else {}),
        "images": str(spec.num_images),
        "thresholds": str(spec.response.num_thresholds),
        "attack": spec.attack_kind,
        "mode": spec.attack_mode,
        **({"epsilon": epsilon or repr(spec.epsilon)} if spec.epsilon is not None else {}),
        "device": spec.device_type,
        **{name: str(int(wanted)) for name, wanted in beside.items() if wanted is not None},
    }


def link_of(request: MeasureRequest) -> dict[str, str]:
    """Write the query parameters of the view that shows what was asked for."""
    return link_params(request.spec, whole=request.whole, control=request.control)


def words(spec: MeasurementSpec, titles: dict[str, str]) -> str:
    """Say in a line what a measurement is of."""
    network = NETWORKS.get(spec.training.network, spec.training.network)
    dataset = titles.get(spec.training.dataset, spec.training.dataset)
    return (
        f"{network} on {dataset}, epoch {spec.epoch}"
        + (f", initialisation {spec.training.seed}" if spec.training.seed else "")
        + (f", {spec.training.subset}" if spec.training.subset else "")
        + f" · {spec.attack_kind.upper()} {spec.attack_mode}"
        + ("" if spec.epsilon is None else f", ε = {spec.epsilon * 255:.3g}/255")
        + f", n = {spec.num_images}, "
        f"{spec.response.num_thresholds} thresholds"
    )


def list_measured(store: Store, *, expanded: bool = True) -> None:
    """List what can be looked at at once: of a network's epochs on a data set the last, which names the others."""
    titles = known_datasets()
    found: list[tuple[str, MeasurementSpec]] = []
    try:
        records = store.list_records()
    except FssError as error:
        records = []
        st.warning(plain(str(error)))
    unreadable = []
    for record in reversed(records):
        measurement: Any = record.spec.get("measurement")
        try:
            found.append(("measured here", from_json(MeasurementSpec, measurement)))
        except ValueError as error:
            unreadable.append(record.damage or str(error))
    if unreadable:
        more = f" (and {len(unreadable) - 1} more)" if len(unreadable) > 1 else ""
        st.warning(plain(unreadable[0] + more))
    for collection in (imported(), published()):
        found += [
            (collection.origin, entry.manifest.measurement)
            for entry in collection.entries()
            if isinstance(entry, Entry)
        ]
    looks = {preview_of(spec) for _, spec in found}  # which are shown with the whole, and take its place till then
    found = [own for own in found if own[1] not in looks]
    beside = {_what_of(spec) for _, spec in found if not _is_main(spec)}
    found = [own for own in found if _is_main(own[1])]
    looked_at = (st.session_state.get("network"), st.session_state.get("dataset"))
    found.sort(key=lambda own: (own[1].training.network, own[1].training.dataset) != looked_at)
    together = _epochs_together(found)
    with st.expander(f"What can be looked at already ({len(found)})", expanded=expanded):
        if not found:
            st.caption("Nothing is measured on this machine yet, and this version comes with no published study.")
        links = [
            (
                f"{words(spec, titles)} · {origin}"
                + (f" · also epochs {', '.join(map(str, epochs))}" if epochs else ""),
                _with_beside(spec, beside),
            )
            for (origin, spec), epochs in together
        ]
        _link_to(links[:_MOST])
        if rest := links[_MOST:]:
            with st.popover(f"… and {len(rest)} more"):
                _link_to(rest)


def _link_to(links: list[tuple[str, dict[str, str]]]) -> None:
    for label, address in links:
        st.page_link("app.py", label=plain(label), query_params=address)


def _is_main(spec: MeasurementSpec) -> bool:
    """Say whether these are the layers of a picture that an address can name, not its whole network or its control."""
    own = spec.response
    named = ResponseSpec(filters=own.filters, num_thresholds=own.num_thresholds)
    return own == named and own.filters != (CONTROL_FILTER,)


def _what_of(spec: MeasurementSpec) -> tuple[str, str]:
    """Say which picture a measurement is a part of, and which part."""
    picture = replace(spec, response=replace(spec.response, scope="local", filters=SYNAPTIC_FILTERS))
    return canonical_json(picture), "whole" if spec.response.scope == "global" else "control"


def _with_beside(spec: MeasurementSpec, beside: Collection[tuple[str, str]]) -> dict[str, str]:
    picture, _ = _what_of(spec)
    has_control = CONTROL_FILTER in spec.response.filters or (picture, "control") in beside
    return link_params(spec, whole=(picture, "whole") in beside, control=has_control)


def _epochs_together(found: list[tuple[str, MeasurementSpec]]) -> list[tuple[tuple[str, MeasurementSpec], list[int]]]:
    """Put measurements that differ only in the epoch, or in ε, which is calibrated at one epoch, behind the last."""
    groups: dict[tuple[str, str], list[MeasurementSpec]] = {}
    for origin, spec in found:
        groups.setdefault((origin, canonical_json(replace(spec, epoch=0, epsilon=None))), []).append(spec)
    together = []
    for (origin, _), specs in groups.items():
        last = max(spec.epoch for spec in specs)
        others = sorted({spec.epoch for spec in specs} - {last})
        together += [((origin, spec), others) for spec in specs if spec.epoch == last]
    return together
