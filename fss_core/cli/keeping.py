"""The verbs that keep data sets and checkpoints."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from fss_core.cli.naming import factory_of
from fss_core.cli.printing import print_json


def data_list(options: argparse.Namespace) -> int:
    """List data sets and their states."""
    from fss_core.data import list_datasets
    from fss_core.reports import columns

    states = list_datasets()
    if options.json:
        print_json(states)
    else:
        rows = [["name", "title", "state", "detail"]]
        rows += [[state.name, state.title, state.state, state.detail] for state in states]
        print("\n".join(columns(rows)))
    return 0


def _print_card(card: Any, options: argparse.Namespace) -> int:
    if options.json:
        print_json(card)
    else:
        sizes = ", ".join(f"{name} {size:,}" for name, size in card.split_sizes.items())
        shape = " × ".join(str(side) for side in card.image_shape)
        print(f"{card.name}: {card.title}; {card.num_classes} classes, images of {shape}; {sizes}")
    return 0


def data_fetch(options: argparse.Namespace) -> int:
    """Download a data set."""
    from fss_core.data import fetch_dataset

    return _print_card(fetch_dataset(options.name), options)


def data_add(options: argparse.Namespace) -> int:
    """Register an image folder."""
    from fss_core.data import register_folder

    return _print_card(register_folder(options.name, options.path), options)


def data_verify(options: argparse.Namespace) -> int:
    """Read a data set anew and compare it."""
    from fss_core.data import verify_dataset

    report = verify_dataset(options.name)
    if options.json:
        print_json(report)
    else:
        print(f"{report.name}: all {report.num_images:,} images of {report.title} are as prepared")
        for split, fingerprint in report.fingerprints.items():
            print(f"  {split:11} {fingerprint}")
    return 0


def print_checkpoints(found: Sequence[Any], options: argparse.Namespace) -> int:
    """Tabulate checkpoints."""
    from fss_core.reports import columns

    if options.json:
        print_json(list(found))
        return 0
    rows = [
        [
            "network",
            "data set",
            "init.",
            "epoch",
            "origin",
            "loss",
            "train accuracy",
            "train images",
            "SHA-256",
            "where",
        ]
    ]
    for own in found:
        last = own.history[-1] if own.history else None
        rows.append(
            [
                own.spec.network,
                own.spec.dataset,
                str(own.spec.seed),
                str(own.epoch),
                own.origin,
                f"{last.loss:.4f}" if last else "–",
                f"{last.train_accuracy:.3f}" if last else "–",
                "all" if own.spec.num_train is None else f"{own.spec.num_train:,}",
                own.sha256[:12],
                str(own.path),
            ]
        )
    print("\n".join(columns(rows)) if found else "There are no checkpoints yet.")
    return 0


def checkpoints_list(options: argparse.Namespace) -> int:
    """List checkpoints, and complain of broken ones."""
    from fss_core.checkpoints import list_broken_checkpoints, list_checkpoints

    for broken in list_broken_checkpoints():
        print(f"fss: {broken.reason}", file=sys.stderr)
    return print_checkpoints(list_checkpoints(), options)


def checkpoints_prune(options: argparse.Namespace) -> int:
    """Remove checkpoints."""
    from fss_core.checkpoints import prune_checkpoints

    chosen = (options.network, options.dataset, options.seed)
    if all(value is None for value in chosen) and not (options.all or options.dry_run):
        raise ValueError("prune would remove every checkpoint; name --network, --dataset or --seed, or say --all")
    removed = prune_checkpoints(
        network=options.network,
        dataset=options.dataset,
        seed=options.seed,
        keep_epochs=options.keep_epochs,
        dry_run=options.dry_run,
    )
    if options.json:
        print_json(removed)
        return 0
    word = "would remove" if options.dry_run else "removed"
    for own in removed:
        print(f"{word} {own.path} ({own.num_bytes / 1e6:.1f} MB)")
    print(f"{word} {len(removed)} checkpoints, {sum(own.num_bytes for own in removed) / 1e6:.1f} MB")
    return 0


def checkpoints_import(options: argparse.Namespace) -> int:
    """Bring in weights from elsewhere."""
    from fss_core.checkpoints import import_checkpoint

    checkpoint = import_checkpoint(
        options.file,
        network=options.network,
        dataset=options.dataset,
        epoch=options.epoch,
        seed=options.seed,
        factory=factory_of(options),
    )
    return print_checkpoints([checkpoint], options)
