"""Images whose prediction a filter changes, clean beside adversarial."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
from PIL import Image

from fss_core.figures.drawing import Drawing
from fss_core.figures.style import palette, plain, shorten
from fss_core.summaries import ChangedImages

_SIDE, _GAP, _CAPTION, _HEADING = 72, 4, 72, 18
"""Pixels: of an image, between clean and adversarial, and of the height of a caption and of the headings."""

_WIDTH = 2 * _SIDE + _GAP + 20
"""Pixels, from one image to the next; a narrower page makes images and room for captions smaller, not their type."""

_SHORT, _LONG = 16, 30
"""Characters of a caption's line: of which four images share a row, and to which longer lines are shortened: then two
do."""

_CORNER: dict[str, Any] = {"xanchor": "left", "yanchor": "top", "align": "left", "borderpad": 0}

_SHARP_SIDE = 192
"""Small images are enlarged to about this before they are embedded: browsers would blur them."""


def images_figure(
    clean: npt.NDArray[Any],
    adversarial: npt.NDArray[Any] | None,
    captions: Sequence[str],
    *,
    dark: bool = False,
) -> go.Figure:
    """Draw images in a grid, each clean beside adversarial, with a caption below.

    Args:
        clean: pixels (N, C, H, W), C = 1 or 3; uint8, or floating point on [0, 1].
        adversarial: likewise; ``None`` where every filtered network was attacked anew.
        captions: N plain texts; lines are separated by a newline.
        dark: which design.

    Returns:
        The figure.

    Raises:
        ValueError: numbers of images and captions differ, or C is neither 1 nor 3.
    """
    if len(captions) != len(clean) or (adversarial is not None and len(adversarial) != len(clean)):
        raise ValueError(f"got {len(clean)} images and {len(captions)} captions")
    colours = palette(dark)
    versions = {"clean": clean} if adversarial is None else {"clean": clean, "adversarial": adversarial}
    longest = max((len(line) for caption in captions for line in caption.split("\n")), default=0)
    per_row = 4 if longest <= _SHORT else 2
    num_rows = max(-(-len(clean) // per_row), 1)
    height = _SIDE + _CAPTION
    drawing = Drawing(dark, height=num_rows * height + _HEADING, margin={"l": 0, "r": 0, "t": _HEADING, "b": 0})
    drawing.update_layout(showlegend=False, hovermode=False)
    about = {"scaleanchor": "y", "constrain": "domain", "constraintoward": "left"}
    drawing.update_axis("x", visible=False, range=[0, per_row * _WIDTH], **about)
    drawing.update_axis("y", visible=False, range=[num_rows * height, 0], constrain="domain", constraintoward="top")
    for number, title in enumerate(versions):
        for column in range(min(len(clean), per_row)):
            drawing.add_annotation(
                **_CORNER | {"yanchor": "bottom"},
                text=title,
                x=column * _WIDTH + number * (_SIDE + _GAP),
                y=0,
                font={"size": 11, "color": colours.muted},
            )
    for index, caption in enumerate(captions):
        top, left = (index // per_row) * height, (index % per_row) * _WIDTH
        for column, pixels in enumerate(versions.values()):
            drawing.add_image(
                source=as_png(pixels[index]),
                x=left + column * (_SIDE + _GAP),
                y=top,
                xref="x",
                yref="y",
                sizex=_SIDE,
                sizey=_SIDE,
                xanchor="left",
                yanchor="top",
                sizing="contain",
            )
        lines = [plain(shorten(line, _LONG)) for line in caption.split("\n")]
        drawing.add_annotation(
            **_CORNER,
            text="<br>".join([f"<b>{lines[0]}</b>", *lines[1:]]),
            x=left,
            y=top + _SIDE + 2,
            font={"size": 11, "color": colours.ink},
        )
    return drawing.finished()


def images_alt(changed: ChangedImages) -> str:
    """Say what the images show, in a sentence."""
    if not changed.num_changed:
        return f"No prediction changes there, of {changed.num_images} images, clean or adversarial."
    parts = [
        f"{kind}: {own.lost} from right to wrong, {own.gained} from wrong to right"
        + (f", {own.otherwise} otherwise" if own.otherwise is not None else "")
        for kind, own in (("clean", changed.clean), ("adversarial", changed.adversarial))
    ]
    return (
        f"{len(changed.images)} of {changed.num_changed} images whose prediction changes, of {changed.num_images}. "
        f"{'; '.join(parts)}."
    )


def as_png(pixels: npt.NDArray[Any]) -> str:
    """Embed pixels (C, H, W) as a PNG, enlarged without smoothing."""
    if pixels.shape[0] not in (1, 3):
        raise ValueError(f"images must have 1 or 3 channels, got {pixels.shape[0]}")
    if pixels.dtype != np.uint8:
        pixels = np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
    image = Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    factor = max(_SHARP_SIDE // max(image.size), 1)
    enlarged = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    memory = io.BytesIO()
    enlarged.save(memory, format="PNG")  # optimize=True saves few bytes, and most of the time would go into it
    return "data:image/png;base64," + base64.b64encode(memory.getvalue()).decode()
