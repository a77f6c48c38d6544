"""What it saves to hand Plotly a figure at once: ``python -m benchmarks.figures``.

The heatmap, the curves and the histogram of Explore are made from the same parts in two ways, in turns: handed to
Plotly at once, as ``Drawing.finished`` does, and by the methods of Plotly's figure, which check what they are given,
and much of what is there already, part by part. They are those of the published result that has the most layers; the
ratio of the medians is printed. Let nothing else run.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import plotly.graph_objects as go

from fss_core import summaries
from fss_core.figures.curves import histogram_figure, response_figure
from fss_core.figures.grids import score_heatmap
from fss_core.imports import Entry, published, read_export
from fss_core.scores import score_responses


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=20, help="of each figure (default: 20)")
    repetitions = parser.parse_args().repetitions
    for name, make in _figures().items():
        figure = make()
        data, layout = [own.to_plotly_json() for own in figure.data], figure.layout.to_plotly_json()
        seconds: dict[str, list[float]] = {"at once": [], "part by part": []}
        for _ in range(repetitions):
            seconds["at once"].append(_timed(lambda data=data, layout=layout: go.Figure(data=data, layout=layout)))
            seconds["part by part"].append(_timed(lambda data=data, layout=layout: _by_plotly(data, layout)))
        once, by_part = (statistics.median(own) for own in seconds.values())
        print(
            f"{name}: {1000 * once:.1f} ms, part by part {1000 * by_part:.1f} ms: {by_part / once:.1f} times",
            flush=True,
        )


def _figures() -> dict[str, Callable[[], go.Figure]]:
    entries = [own for own in published().entries() if isinstance(own, Entry)]
    responses = read_export(max(entries, key=lambda own: len(own.manifest.layers)).path, origin="published").responses
    scores = score_responses(responses)
    layers = [own.facts.name for own in responses.layers]
    facts = responses.layers[0].facts
    curves = summaries.response_curves(responses, layers[0], "high_pass", scores.spec)
    removed = summaries.removed_weights(facts, responses.rows, "high_pass", 3)
    grid = summaries.score_grid([scores], layers, spec=scores.spec, responses=[responses])
    return {
        "heatmap of scores": lambda: score_heatmap(grid),
        "response curves": lambda: response_figure(curves, threshold_index=3),
        "histogram of weights": lambda: histogram_figure(facts, removed),
    }


def _by_plotly(data: list[dict[str, Any]], parts: dict[str, Any]) -> go.Figure:
    layout = dict(parts)
    shapes, notes = layout.pop("shapes", ()), layout.pop("annotations", ())
    axes = {name: layout.pop(name) for name in ("xaxis", "yaxis")}
    figure = go.Figure(layout=layout)
    figure.update_xaxes(**axes["xaxis"])
    figure.update_yaxes(**axes["yaxis"])
    for trace in data:
        figure.add_trace(trace)
    for shape in shapes:
        figure.add_shape(**shape)
    for note in notes:
        figure.add_annotation(**note)
    return figure


def _timed(make: Callable[[], go.Figure]) -> float:
    start = time.perf_counter()
    make()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
