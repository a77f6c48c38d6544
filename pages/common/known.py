"""What is measured already, as links: here, imported, and published."""

from __future__ import annotations

from typing import Any

import streamlit as st

from fss_core.imports import Entry, imported, published
from fss_core.specs import NETWORKS, FssError, MeasurementSpec, from_json
from fss_core.store import Store
from pages.common.choices import known_datasets
from pages.common.frame import plain

_MOST = 12


def link_params(spec: MeasurementSpec, *, epsilon: str = "") -> dict[str, str]:
    """Write the query parameters of the view that shows a measurement."""
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
    }


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
    """List what can be looked at at once."""
    titles = known_datasets()
    found: list[tuple[str, MeasurementSpec]] = []
    try:
        for record in reversed(store.list_records()):
            measurement: Any = record.spec.get("measurement")
            spec = from_json(MeasurementSpec, measurement)
            if spec.response.scope == "local":
                found.append(("measured here", spec))
    except (FssError, ValueError) as error:
        st.warning(plain(str(error)))
    for collection in (imported(), published()):
        found += [
            (collection.origin, entry.manifest.measurement)
            for entry in collection.entries()
            if isinstance(entry, Entry) and entry.manifest.measurement.response.scope == "local"
        ]
    looked_at = (st.session_state.get("network"), st.session_state.get("dataset"))
    found.sort(key=lambda own: (own[1].training.network, own[1].training.dataset) != looked_at)
    with st.expander(f"What can be looked at already ({len(found)})", expanded=expanded):
        if not found:
            st.caption("Nothing is measured on this machine yet, and this version comes with no published study.")
        for origin, spec in found[:_MOST]:
            label = plain(f"{words(spec, titles)} · {origin}")
            st.page_link("app.py", label=label, query_params=link_params(spec))
        if len(found) > _MOST:
            st.caption(f"… and {len(found) - _MOST} more, on the page Runs.")
