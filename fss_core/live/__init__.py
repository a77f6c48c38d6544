"""Questions to a network that are answered while somebody waits: attack some images, filter one layer.

``requests.py`` says what can be asked, ``answers.py`` what comes back; ``service.py`` asks, from a process without
torch; ``laboratory.py`` computes, in the one resident process that ``worker.py`` is; ``frames.py`` is how they talk.
Nothing is stored: whatever is to be kept is measured by ``jobs``.
"""

from __future__ import annotations

from fss_core.live.answers import Attacked, Layers, Response, Sweep, join_responses
from fss_core.live.requests import AttackRequest, Filtered, LayersRequest, Network, RespondRequest, SweepRequest
from fss_core.live.service import Live, LiveError, live_here

__all__ = [
    "AttackRequest",
    "Attacked",
    "Filtered",
    "Layers",
    "LayersRequest",
    "Live",
    "LiveError",
    "Network",
    "RespondRequest",
    "Response",
    "Sweep",
    "SweepRequest",
    "join_responses",
    "live_here",
]
