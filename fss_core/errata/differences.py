"""The eight differences of the reference notebooks, and the switches that reproduce those of the procedure."""

from __future__ import annotations

from dataclasses import dataclass

from fss_core.specs import Filter, ScoreSpec

NOTEBOOK_SCORE = ScoreSpec(reference="retained", normalise="p0", integration="simpson")
"""Difference 7: accuracy relative to the unfiltered network's, less the fraction of weights kept, by Simpson's rule."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One thing that the reference notebooks do differently.

    Attributes:
        number: as METHOD counts them.
        title: in a few words.
        notebooks: what the notebooks do.
        here: what this project does.
        how: how its effect is measured here, where that needs saying.
    """

    number: int
    title: str
    notebooks: str
    here: str
    how: str = ""


DIFFERENCES: tuple[Difference, ...] = (
    Difference(
        number=1,
        title="Training mode",
        notebooks="No eval() while filtering: BatchNorm and Dropout run in training mode, the test loader is shuffled.",
        here="Evaluation mode throughout; what is predicted for an image does not depend on the other images.",
        how="Batches of 100, in an order drawn anew for every filtered network; images are attacked in this mode, too.",
    ),
    Difference(
        number=2,
        title="Attack not clamped",
        notebooks="FGSM is added to normalised tensors and never clamped, with an ε of its own per network.",
        here="Pixels stay within [0, 1], ε is in pixels, calibrated with PGD.",
        how="At the same ε; and at 0.38 of a standard deviation, which the notebooks take for ResNet-18 on MNIST (what "
        "they take for ShuffleNet V2 is not on record).",
    ),
    Difference(
        number=3,
        title="Adaptive attack",
        notebooks="FGSM is made anew on each filtered network.",
        here="Made once on the unfiltered network by default, so that all filtered networks see the same images.",
    ),
    Difference(
        number=4,
        title="Half the width",
        notebooks="“ShuffleNet V2 x1.0” is built as x0.5.",
        here="Built as x1.0.",
        how="torchvision’s x0.5, trained in the same way on the same batches, at the ε of x1.0.",
    ),
    Difference(
        number=5,
        title="One initialisation",
        notebooks="The three initialisations are seeded identically: three times the same network.",
        here="Initialisations, and the order of the training images, differ.",
        how="The spread between initialisations: the standard deviation of a layer’s score, averaged over layers. "
        "Identical seeds make it 0.",
    ),
    Difference(
        number=6,
        title="Last layer only",
        notebooks="In the whole-network cell only the last layer is written back, and its pulse removes nothing.",
        here="Every layer is filtered, each at its own thresholds.",
        how="The scores of the whole network; those of single layers are not touched.",
    ),
    Difference(
        number=7,
        title="Other score",
        notebooks="The score integrates (accuracy / accuracy at the first threshold − a density curve), by Simpson’s "
        "rule.",
        here="Accuracy above chance, relative to the unfiltered network’s, less 1, by the trapezoidal rule.",
        how="The same responses, scored against the fraction of weights kept. At the notebooks’ first threshold hardly "
        "a weight is removed: the unfiltered accuracy stands for that at it.",
    ),
    Difference(
        number=8,
        title="Pulses with gaps",
        notebooks="The pulse removes [α − δ, α + δ) with δ = (max − min)/(2A), and thresholds are (max − min)/(A − 1) "
        "apart: weights in the gaps between are never removed.",
        here="Pulses meet halfway between thresholds: every weight belongs to exactly one.",
    ),
)
"""METHOD, "What the reference notebooks do differently"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NotebookProcedure:
    """Which of the notebooks' ways of measuring are followed; by default none, which is the corrected method.

    Attributes:
        training_mode: difference 1.
        unclamped: difference 2.
        adaptive: difference 3.
        last_layer_only: difference 6.
        gapped_pulses: difference 8.
    """

    training_mode: bool = False
    unclamped: bool = False
    adaptive: bool = False
    last_layer_only: bool = False
    gapped_pulses: bool = False

    def may_change(self, kind: str, filter: Filter, *, whole: bool) -> bool:
        """Say whether a filtered network can get other images right than under the corrected method.

        Args:
            kind: ``"clean"`` or ``"adversarial"``.
            filter: high-pass, low-pass or pulse.
            whole: whether the whole network is filtered.

        >>> NotebookProcedure(gapped_pulses=True).may_change("clean", "high_pass", whole=False)
        False
        """
        if self.training_mode or (self.gapped_pulses and filter == "pulse") or (self.last_layer_only and whole):
            return True
        return kind == "adversarial" and (self.unclamped or self.adaptive)


AS_IN_THE_NOTEBOOKS = NotebookProcedure(
    training_mode=True, unclamped=True, adaptive=True, last_layer_only=True, gapped_pulses=True
)
"""All of them at once."""
