"""Errata and differences: what the reference notebooks do differently, and what each does to the scores of one cell."""

from __future__ import annotations

from pages.common import errata, frame, links

PARAMS = errata.PARAMS

store = frame.begin("Errata")
links.seed(PARAMS)
with frame.shown_errors():
    errata.draw()
links.write()
