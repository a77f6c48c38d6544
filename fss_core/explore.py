"""What the Explore view shows of a request: what is measured of it, wherever it comes from, and its scores.

Nothing here computes a network, decodes a data set or imports torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import asdict, dataclass, replace

import numpy as np
import numpy.typing as npt

from fss_core.archive import chunks
from fss_core.checkpoints import find_checkpoint
from fss_core.data import DatasetState, dataset_card, dataset_state, load_dataset
from fss_core.flow import Measured, Origin, archive_of, find_epsilon, find_measured
from fss_core.imports import imported, published
from fss_core.jobs.requests import MeasureRequest
from fss_core.responses import Responses
from fss_core.scores import Scores, relabel, score_responses
from fss_core.specs import (
    CONTROL_FILTER,
    GLOBAL_LAYER,
    MeasurementSpec,
    ResponseSpec,
    ScoreSpec,
    StoreError,
    UnknownNameError,
    adversarial_key,
)
from fss_core.store import SCHEMA, Store
from fss_core.summaries import join_control


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """Everything that is measured of a request.

    Attributes:
        request: what it is a picture of.
        layers: the paper's filters, layer by layer, as far as they are measured.
        control: the random control of some of these layers; ``None`` if there is none.
        whole: the whole network filtered at once; ``None`` if it is not measured.
        preview: a first look at layers that are not measured yet, on fewer images at fewer thresholds; ``None`` if
            there is none.
    """

    request: MeasureRequest
    layers: Measured
    control: Responses | None
    whole: Measured | None
    preview: Responses | None = None

    @property
    def origin(self) -> Origin:
        """Where it comes from."""
        return self.layers.origin

    @property
    def rows(self) -> tuple[str, ...]:
        """The names of all rows, measured or not, the whole network last."""
        wanted = self.request.whole or self.whole is not None
        return (*self.layers.names, *([GLOBAL_LAYER] if wanted else []))

    @property
    def all(self) -> list[Responses]:
        """Everything that is measured: the layers, with the control where all have it, and the whole network."""
        return [portable(self).responses, *([self.whole.responses] if self.whole is not None else [])]

    @property
    def is_complete(self) -> bool:
        """Whether everything that was asked for is measured."""
        control = len(self.control.layers) if self.control is not None else 0
        whole = self.request.parts().get("whole")
        return (
            not self.layers.missing
            and (whole is None or (self.whole is not None and self.whole.spec.response == whole.response))
            and (control == len(self.layers.responses.layers) or not self.request.control)
        )

    @property
    def previewed(self) -> tuple[str, ...]:
        """The layers of which there is no more than a first look, in network order."""
        return tuple(own.facts.name for own in self.preview.layers) if self.preview is not None else ()

    def responses_of(self, layer: str) -> Responses | None:
        """Find the responses that a row belongs to, with its control where that is measured."""
        if layer == GLOBAL_LAYER:
            return self.whole.responses if self.whole is not None else None
        if layer in self.previewed:
            return self.preview
        if all(own.facts.name != layer for own in self.layers.responses.layers):
            return None
        if self.control is not None and any(own.facts.name == layer for own in self.control.layers):
            only = replace(
                self.layers.responses,
                layers=tuple(own for own in self.layers.responses.layers if own.facts.name == layer),
            )
            return join_control(only, self.control)
        return self.layers.responses


def find_picture(store: Store, request: MeasureRequest) -> Picture | None:
    """Look a request up: what is measured here; otherwise what was imported; otherwise what is published.

    Args:
        store: of what is measured here.
        request: what to look for.

    Returns:
        What there is; ``None`` if nothing is.

    Raises:
        FssError: something is there and broken, or of another schema; the text says what to do.
        ValueError: the request asks for more images than there are.
    """
    if is_prepared(request):
        parts = request.parts()
        layers = find_measured(store, parts["layers"])
        if layers is not None:
            control = find_measured(store, parts["control"]) if "control" in parts else None
            whole = find_measured(store, parts["whole"]) if "whole" in parts else None
            if whole is not None and not whole.responses.layers and request.control:
                # While the whole network's control is not there, its other filters may be.
                whole = find_measured(
                    store,
                    replace(
                        parts["whole"], response=replace(parts["whole"].response, filters=layers.spec.response.filters)
                    ),
                )
            return Picture(
                request=request,
                layers=layers,
                control=None if control is None else control.responses,
                whole=whole if whole is not None and whole.responses.layers else None,
                preview=_find_preview(store, parts["preview"], layers.missing) if "preview" in parts else None,
            )
    return _find_elsewhere(request)


def _find_preview(store: Store, spec: MeasurementSpec, missing: Collection[str]) -> Responses | None:
    """Find a first look at some layers."""
    found = find_measured(store, spec) if missing else None
    if found is None:
        return None
    layers = tuple(own for own in found.responses.layers if own.facts.name in missing)
    return replace(found.responses, layers=layers) if layers else None


def _find_elsewhere(request: MeasureRequest) -> Picture | None:
    parts = replace(request, preview=False).parts()
    for collection in (imported(), published()):
        found = {part: collection.find(spec) for part, spec in parts.items()}
        layers = found["layers"]
        if layers is None:
            continue
        if "whole" in parts and found["whole"] is None:
            found["whole"] = collection.find(
                replace(parts["whole"], response=_without_control(parts["whole"].response))
            )
        control = found.get("control")
        if control is not None and (
            control.key != layers.key or control.responses.num_images != layers.responses.num_images
        ):
            control = None
        return Picture(
            request=request,
            layers=layers,
            control=None if control is None else control.responses,
            whole=found.get("whole"),
        )
    return None


def _without_control(response: ResponseSpec) -> ResponseSpec:
    return replace(response, filters=tuple(name for name in response.filters if name != CONTROL_FILTER))


def is_prepared(request: MeasureRequest) -> bool:
    """Say whether the data set of a request is ready, so that looking it up decodes nothing."""
    try:
        return data_state(request).state == "ready"
    except UnknownNameError:
        return False


def data_state(request: MeasureRequest) -> DatasetState:
    """Say whether the data set of a request can be used.

    Raises:
        UnknownNameError: there is none of that name.
    """
    return dataset_state(request.spec.training.dataset)


def version_of(store: Store, request: MeasureRequest) -> tuple[object, ...]:
    """Say which version of its results there is: whatever is added or replaced changes it.

    Cheap, so that a picture that was read before need not be read again.

    Raises:
        FssError: something on the way to the results is broken.
    """
    elsewhere = (imported().version, published().version)
    return (*elsewhere, *((key, store.num_bytes(f"responses/{key}/")) for key in result_keys(store, request)))


def result_keys(store: Store, request: MeasureRequest) -> list[str]:
    """List the keys under which the parts of a request are stored, as far as they are known.

    Raises:
        FssError: something on the way to the results is broken.
    """
    spec = request.spec
    if not is_prepared(request):
        return []
    card = dataset_card(spec.training.dataset)
    checkpoint = find_checkpoint(spec.training, spec.epoch)
    if checkpoint is None:
        return []
    calibration = find_epsilon(store, checkpoint, card, spec.device_type) if spec.epsilon is None else None
    epsilon = spec.epsilon if calibration is None else calibration.epsilon
    if epsilon is None:
        return []
    own = request.parts().values()
    return sorted({archive_of(store, part, checkpoint, card, part.attack(epsilon)).key for part in own})


def forget_damaged(store: Store, request: MeasureRequest) -> int:
    """Forget what is damaged, or of another schema, among the results of a request; everything sound stays.

    Returns:
        How many pieces that were.

    Raises:
        FssError: something else is broken: the data set, or the checkpoint.
    """
    count = store.delete_damaged("epsilon/")
    return count + sum(store.delete_damaged(f"responses/{key}/") for key in result_keys(store, request))


# Scores ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureScores:
    """The scores of a picture.

    Attributes:
        layers: of every layer that is measured, in network order, with the control where that is measured; of a first
            look where there is no more.
        whole: of the whole network; ``None`` if it is not measured.
    """

    layers: Scores
    whole: Scores | None

    @property
    def all(self) -> list[Scores]:
        """Both."""
        return [self.layers, *([self.whole] if self.whole is not None else [])]

    def relabel(self, tolerance: float) -> PictureScores:
        """Call everything anew; see :func:`fss_core.scores.relabel`."""
        whole = None if self.whole is None else relabel(self.whole, tolerance)
        return PictureScores(layers=relabel(self.layers, tolerance), whole=whole)


def score_picture(picture: Picture, spec: ScoreSpec, *, simultaneous: bool = False) -> PictureScores:
    """Score everything that is measured.

    Args:
        picture: of a request.
        spec: how.
        simultaneous: let all intervals of the picture hold together (Bonferroni).

    Returns:
        The scores.

    Raises:
        ValueError: the settings do not fit the number of thresholds.
    """
    responses = picture.layers.responses
    controlled = (
        frozenset(own.facts.name for own in picture.control.layers) if picture.control is not None else frozenset()
    )
    plain = replace(responses, layers=tuple(own for own in responses.layers if own.facts.name not in controlled))
    parts = [plain]
    if picture.control is not None and controlled:
        parts.append(join_control(responses, picture.control))
    if picture.preview is not None:
        parts.append(picture.preview)
    if picture.whole is not None:
        parts.append(picture.whole.responses)
    sizes = [_num_scores(part) for part in parts]
    scored = [
        score_responses(part, **asdict(spec), simultaneous=simultaneous, beside=sum(sizes) - size)
        for part, size in zip(parts, sizes, strict=True)
    ]
    whole = scored.pop() if picture.whole is not None else None
    place = {name: index for index, name in enumerate(picture.layers.names)}
    rows = sorted((row for own in scored for row in own.rows), key=lambda row: place[row.layer])
    return PictureScores(layers=replace(scored[0], rows=tuple(rows)), whole=whole)


def _num_scores(responses: Responses) -> int:
    filters = {row.filter for row in responses.rows}
    return len(responses.layers) * (len(filters) + 1) * 3


def unmeasurable_reasons(scores: Scores, most: int = 3) -> list[str]:
    """Say why scores are not measurable, the commonest reasons first, each with how many scores it is about."""
    count = Counter(row.reason for row in scores.rows if row.reason)
    return [f"{number} of {len(scores.rows)} scores: {reason}" for reason, number in count.most_common(most)]


def zero_gradient_share(picture: Picture) -> float | None:
    """Say on which share of the images the attack of the unfiltered network found no gradient, and did nothing."""
    found = picture.layers.responses.unfiltered.zero_gradient
    return None if found is None else float(found.mean())


def portable(picture: Picture) -> Measured:
    """Put the control under the other filters, where all layers have it, so that both travel in one export."""
    layers = picture.layers
    if picture.control is None or len(picture.control.layers) < len(layers.responses.layers):
        return layers
    responses = join_control(layers.responses, picture.control)
    return replace(layers, spec=replace(layers.spec, response=responses.spec), responses=responses)


# Images ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ProbeImages:
    """Some probe images, clean and attacked.

    Attributes:
        clean: uint8 (N, C, H, W).
        adversarial: float32 (N, C, H, W) on [0, 1]; ``None`` where every filtered network is attacked anew.
        class_names: names of the classes, as the data set has them: may come from a stranger's folder.
    """

    clean: npt.NDArray[np.uint8]
    adversarial: npt.NDArray[np.float32] | None
    class_names: tuple[str, ...]


def probe_images(store: Store, picture: Picture, indices: list[int]) -> ProbeImages:
    """Read probe images and their adversarial versions.

    Args:
        store: of what is measured here.
        picture: whose images.
        indices: positions in the probe order.

    Returns:
        The images, in the order of ``indices``.

    Raises:
        StoreError: the images are not on this machine; the text says what brings them.
        DataError: the data set is missing or broken.
    """
    spec = picture.layers.spec
    name = spec.training.dataset
    if picture.origin != "measured" or not is_prepared(picture.request):
        raise StoreError(f"{picture.origin} results carry no images; measure the same here to see them: press Measure")
    dataset = load_dataset(name, thorough=False)
    clean = np.array(dataset.probe.images[indices])
    adversarial: npt.NDArray[np.float32] | None = None
    attack = picture.layers.responses.attack
    if attack is not None and attack.mode == "frozen":
        key = adversarial_key(
            attack=attack,
            network=picture.layers.checkpoint.identity,
            probe=dataset.probe.fingerprint,
            device_type=spec.device_type,
            schema=SCHEMA,
        )
        adversarial = np.zeros(clean.shape, dtype=np.float32)
        for chunk in chunks(picture.layers.responses.num_images):
            inside = [place for place, index in enumerate(indices) if chunk.start <= index < chunk.stop]
            if inside:
                found = store.get(f"adversarial/{key}/{chunk.index}")
                if found is None:
                    raise StoreError("the adversarial images were deleted; `fss score --refresh` makes them again")
                adversarial[inside] = found.arrays["pixels"][[indices[place] - chunk.start for place in inside]]
    return ProbeImages(clean=clean, adversarial=adversarial, class_names=dataset.class_names)
