"""A drawing becomes the figure that Plotly's own methods would make, checked when it is finished."""

from __future__ import annotations

from collections.abc import Callable

import plotly.graph_objects as go
import pytest

from fss_core.figures.drawing import Drawing


def drawing() -> Drawing:
    return Drawing(False, height=200, margin={"l": 10, "r": 10, "t": 10, "b": 10})


def test_settings_are_merged_into_what_is_there() -> None:
    own = drawing()
    own.update_axis("x", title="position", range=[0, 1])
    own.update_axis("x", tickfont={"size": 14})
    own.update_layout(margin={"l": 50})
    figure = own.finished()
    axis = figure.layout.xaxis
    assert (axis.title.text, axis.title.standoff, axis.range, axis.tickfont.size) == ("position", 6, (0, 1), 14)
    assert axis.tickfont.color == figure.layout.yaxis.tickfont.color
    assert (figure.layout.yaxis.title.text, figure.layout.yaxis.tickfont.size) == (None, 11)
    assert (figure.layout.margin.l, figure.layout.margin.r, figure.layout.margin.pad) == (50, 10, 0)


def test_what_is_handed_in_stays_as_it_is() -> None:
    own, legend = drawing(), {"font": {"size": 11}}
    own.update_layout(legend=legend)
    own.update_layout(legend={"x": 0, "font": {"size": 20}})
    assert legend == {"font": {"size": 11}}
    assert own.finished().layout.legend.font.size == 20


def test_lines_and_strips_lie_where_plotlys_own_do() -> None:
    own, plotlys = drawing(), go.Figure()
    own.add_line("x", 3, line={"width": 2})
    own.add_line("y", 0.5, line={"width": 1})
    own.add_strip("x", 1, 2, fillcolor="#123456")
    own.add_strip("y", -1, 1, fillcolor="#123456", layer="below")
    plotlys.add_vline(x=3, line={"width": 2})
    plotlys.add_hline(y=0.5, line={"width": 1})
    plotlys.add_vrect(x0=1, x1=2, fillcolor="#123456")
    plotlys.add_hrect(y0=-1, y1=1, fillcolor="#123456", layer="below")
    assert own.finished().layout.shapes == plotlys.layout.shapes


def test_a_pair_of_axes_is_like_the_first_and_its_own() -> None:
    own = drawing()
    own.add_axes("", {"domain": [0, 0.4], "nticks": 3}, {"nticks": 6})
    own.add_axes("2", {"domain": [0.6, 1], "anchor": "y2"}, {"anchor": "x2"}, title="epoch")
    layout = own.finished().layout
    assert (layout.xaxis.domain, layout.xaxis2.domain) == ((0, 0.4), (0.6, 1))
    assert (layout.xaxis.title.text, layout.xaxis2.title.text) == (None, "epoch")
    assert (layout.xaxis2.fixedrange, layout.xaxis2.nticks) == (True, None)
    assert layout.xaxis2.tickfont == layout.xaxis.tickfont


def test_traces_lie_in_the_order_in_which_they_were_added() -> None:
    own = drawing()
    own.add_heatmap(z=[[1]])
    own.add_traces({"type": "scatter", "x": [0], "y": [1]})
    own.add_bar(x=[0], y=[1])
    assert [trace.type for trace in own.finished().data] == ["heatmap", "scatter", "bar"]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda own: own.add_scatter(x=[0], colour="red"),
        lambda own: own.add_shape(type="circles"),
        lambda own: own.add_annotation(text="a", fontsize=3),
        lambda own: own.update_layout(hovermod="closest"),
        lambda own: own.update_axis("y", range="all"),
    ],
)
def test_what_plotly_does_not_know_is_refused(spoil: Callable[[Drawing], None]) -> None:
    own = drawing()
    spoil(own)
    with pytest.raises(ValueError, match=r"Invalid (property|value)"):
        own.finished()
