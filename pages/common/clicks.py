"""Clicks on a chart that is drawn anew all the time, none of which is lost.

Streamlit 1.67 identifies a chart by what it shows, also where it has a key: a click on a chart whose successor the
server has drawn already, but the browser has not, is thrown away by ``on_select`` (10 of 58 clicks while a heatmap
filled). The listener below keeps its identity, whatever the chart shows.
"""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

_LISTEN = """
export default function ({data, setTriggerValue}) {
    const tell = ({points}) => setTriggerValue("point", points[0].pointIndex);
    let asked = 0;
    const listen = () => {
        asked = 0;
        for (const plot of document.querySelectorAll(`.st-key-${data} .js-plotly-plot`)) {
            if (!plot.on) continue;  // not drawn yet
            if (plot.tell) plot.removeListener("plotly_click", plot.tell);
            plot.on("plotly_click", plot.tell = tell);
        }
    };
    const observer = new MutationObserver(() => { asked ||= requestAnimationFrame(listen); });
    observer.observe(document.body, {childList: true, subtree: true});
    listen();
    return () => { observer.disconnect(); cancelAnimationFrame(asked); };
}
"""
"""Charts come and go, and Plotly forgets its listeners when it draws one from the start."""

_listener = st.components.v2.component("fss_clicks", js=_LISTEN)


def on_click(chart: str, do: Callable[[int], None]) -> None:
    """See that a click on a chart is told of.

    Args:
        chart: the key of the container in which it is drawn.
        do: told the index of the point that was clicked in its trace; called before the page is drawn.
    """
    key = f"clicks_{chart}"

    def tell() -> None:
        point = st.session_state[key]["point"]
        if point is not None:
            do(int(point))

    _listener(key=key, data=chart, on_point_change=tell)
