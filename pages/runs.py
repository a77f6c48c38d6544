"""Runs: what was asked for and what became of it, what takes room on disk, and results from and for elsewhere."""

from __future__ import annotations

from pages.common import frame, runs

store = frame.begin("Runs")
runs.draw(store)
