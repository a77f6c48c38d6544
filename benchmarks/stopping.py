"""What stopping at decided calls saves: ``python -m benchmarks.stopping``.

Replays the published study as ``fss score --effort labels`` would have measured it: the images of a layer arrive in
their order, and it stops when all its cells (a filter, clean or adversarial) have been called fragile or antifragile.
Prints, for each published epoch, how many of the calls that all images decide as fragile or antifragile the bet finds,
with the last image or before it, how many of its calls differ from those of all images, and which share of the images
is used where a layer stops when all its cells have (as it is measured), and, to compare, a filter when both of its
cells have, or each cell by itself. Computes no network; takes a minute.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fss_core.findings.cells import PublishedCell, list_cells
from fss_core.reports import columns
from fss_core.scores import MEAN_FILTER, score_responses
from fss_core.specs import ScoreSpec
from fss_core.stopping import Place, Stop, Stopping, looks

STOPPING = Stopping(spec=ScoreSpec())


def main() -> None:
    """Replay and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", default="laptop", help="which published study (default: laptop)")
    parser.add_argument("--directory", type=Path, default=Path("cache/published"), help="where it lies")
    options = parser.parse_args()
    rows = [["cell", "epoch", "n", "decided", "found", "differ", "layer", "filter", "cell"]]
    total, shares = np.zeros(3, dtype=int), []
    cells = list_cells(options.directory, options.study)
    if not cells:
        parser.error(f"no cell of a study {options.study!r} is published in {options.directory}")
    for cell in cells:
        for epoch in cell.trained_epochs:
            counts, used, num_images = replay(cell, epoch)
            total += counts
            shares.append(used)
            rows.append([cell.name, str(epoch), str(num_images), *map(str, counts), *(f"{own:.0%}" for own in used)])
    print("\n".join(columns(rows)))
    by_layer, by_filter, by_cell = np.mean(shares, axis=0)
    print(f"\nIn all {total[1]} of {total[0]} decided calls are found ({total[1] / total[0]:.0%}), {total[2]} differ.")
    print(f"Images used: {by_layer:.1%} by layer, {by_filter:.1%} by filter, {by_cell:.1%} by cell (mean over epochs).")


def replay(cell: PublishedCell, epoch: int) -> tuple[tuple[int, int, int], tuple[float, float, float], int]:
    """Let the images of one epoch arrive in chunks.

    Returns:
        How many cells all images decide as fragile or antifragile, how many of these the bet finds, and how many of
        its calls differ from those of all images; the shares of images used by layer, by filter and by cell; n.
    """
    responses = cell.measured(epoch).responses
    full = {(row.layer, row.filter, row.kind): row for row in score_responses(responses).rows}
    decided = found = differ = 0
    shares: list[list[float]] = [[], [], []]
    for layer in responses.layers:
        stops = STOPPING.stops(responses, layer, len(responses.layers))
        for (name, kind), stop in stops.items():
            own = full[layer.facts.name, name, kind]
            is_decided = own.certainty == "decided" and own.call in ("fragile", "antifragile")
            decided += is_decided
            found += is_decided and stop is not None and stop.call == own.call
            differ += stop is not None and stop.call is not None and stop.call != own.call
        for place, share in zip(shares, _shares(stops, responses.num_images), strict=True):
            place.append(share)
    by_layer, by_filter, by_cell = (float(np.mean(own)) for own in shares)
    return (decided, found, differ), (by_layer, by_filter, by_cell), responses.num_images


def _shares(stops: dict[Place, Stop | None], num_images: int) -> tuple[float, float, float]:
    """Say which share of a layer's images is used where it stops as a whole, by filter, and by cell."""
    needed = {place: num_images if stop is None else stop.num_images for place, stop in stops.items()}
    measured = {place: number for place, number in needed.items() if place[0] != MEAN_FILTER}

    def last(belongs: Callable[[Place], object]) -> float:
        groups: dict[object, int] = {}
        for place, number in measured.items():
            groups[belongs(place)] = max(groups.get(belongs(place), 0), number)
        return sum(groups.values()) / len(groups) / num_images

    first = looks(num_images)[0]
    return max(first, *needed.values()) / num_images, last(lambda place: place[0]), last(lambda place: place)


if __name__ == "__main__":
    main()
