"""What is chosen in the Retrain view beside the checkpoint, and the request that follows from it."""

from __future__ import annotations

import streamlit as st

from fss_core.jobs.retraining_plans import RetrainRequest
from fss_core.retraining.rules import PAPERS_RULE, RULES
from fss_core.retraining.spec import RetrainingSpec
from fss_core.scores import KINDS, MEAN_FILTER
from fss_core.specs import SYNAPTIC_FILTERS
from pages.common import choices, known
from pages.common.choices import Choices
from pages.common.links import Param

GRANULARITIES = {"layer": "Whole layers", "weights": "Pulses of weights"}
LEANINGS = {"counted": "Counted", "ignored": "Ignored"}
FILTERS = {MEAN_FILTER: "Overall"} | {str(name): choices.FILTERS[name] for name in SYNAPTIC_FILTERS}


class _Rules(Param):
    """Names of rules, with commas in the address."""

    def parse(self, text: str) -> list[str]:  # type: ignore[override]
        return list(dict.fromkeys(str(Param.parse(self, name)) for name in text.split(",") if name))

    def write(self, value: object) -> str:
        return ",".join(value)  # type: ignore[arg-type]


PARAMS: dict[str, Param] = {
    "rules": _Rules(
        default=[PAPERS_RULE, "all", "fragile"],  # type: ignore[arg-type]
        what="rule",
        known=lambda: RULES,
    ),
    "budget": Param(default=2, what="budget", bounds=(1, 1000)),
    "seeds": Param(default=1, what="number of initialisations", bounds=(1, 20)),
    "granularity": Param(default="layer", what="granularity", known=lambda: GRANULARITIES),
    "by_kind": Param(default="adversarial", what="score that decides", known=lambda: KINDS),
    "by_filter": Param(default=MEAN_FILTER, what="filter that decides", known=lambda: FILTERS),
    "leaning": Param(default="counted", what="way to treat leaning calls", known=lambda: LEANINGS),
    "draws": Param(default=3, what="number of draws", bounds=(1, 20)),
    "report": Param(default=0, what="number of report images", bounds=(0, 1_000_000)),
    "shown": Param(default=0, what="initialisation that is shown", bounds=(0, 1_000_000)),
}
"""What the Retrain view adds to the side bar's parameters."""


def draw() -> None:
    """Draw what is chosen here; the checkpoint and its scores are chosen in the side bar."""
    st.multiselect(
        "Rules",
        list(RULES),
        key="rules",
        help="Which layers are trained.  \n" + "  \n".join(f"**{name}**: {rule.title}" for name, rule in RULES.items()),
    )
    with st.container(key="retrain_controls", horizontal=True, vertical_alignment="bottom"):
        st.number_input(
            "Budget R (epochs)", 1, 1000, key="budget", width=140, help="Epochs of retraining, the same for every rule."
        )
        st.number_input(
            "Initialisations",
            1,
            20,
            key="seeds",
            width=130,
            help="So many, from the side bar's on: each has its own checkpoint, scores and choice. Two or more give "
            "intervals over initialisations.",
        )
        st.number_input(
            "Report images (0: all)",
            0,
            1_000_000,
            step=100,
            key="report",
            width=150,
            help="Networks are judged on so many images, which neither training nor the choice of layers has seen. "
            "Judging takes a good part of the time; fewer images make intervals wider.",
        )
        with st.popover("What decides", width=150):
            st.radio("What is trained", list(GRANULARITIES), format_func=GRANULARITIES.__getitem__, key="granularity")
            st.selectbox("Score", list(KINDS), format_func=str.capitalize, key="by_kind")
            st.selectbox("Filter", list(FILTERS), format_func=FILTERS.__getitem__, key="by_filter")
            st.radio("Leaning calls", list(LEANINGS), format_func=LEANINGS.__getitem__, key="leaning", horizontal=True)
            st.number_input("Draws of the rule random", 1, 20, key="draws")


def read_request(chosen: Choices) -> RetrainRequest:
    """Put together what is asked for.

    Raises:
        ValueError: it cannot be.
    """
    state, measurement = st.session_state, chosen.request.spec
    first = measurement.training.seed
    spec = RetrainingSpec(
        measurement=measurement,
        budget=int(state["budget"]),
        rules=tuple(state["rules"]),
        score=chosen.score,
        kind=state["by_kind"],
        filter=state["by_filter"],
        leaning=state["leaning"],
        granularity=state["granularity"],
        num_draws=int(state["draws"]),
        num_report_images=int(state["report"]) or None,
    )
    return RetrainRequest(spec=spec, seeds=tuple(range(first, first + int(state["seeds"]))))


def link_params(request: RetrainRequest) -> dict[str, str]:
    """Write the query parameters of the view that shows a retraining."""
    spec, score = request.spec, request.spec.score
    values: dict[str, object] = {
        "rules": spec.rules,
        "budget": spec.budget,
        "seeds": len(request.seeds),
        "granularity": spec.granularity,
        "by_kind": spec.kind,
        "by_filter": spec.filter,
        "leaning": spec.leaning,
        "draws": spec.num_draws,
        "report": spec.num_report_images or 0,
    }
    names = ("reference", "normalise", "integration", "tolerance", "level")
    return (
        known.link_params(spec.measurement)
        | {name: str(getattr(score, name)) for name in names}
        | {name: PARAMS[name].write(value) for name, value in values.items()}
    )
