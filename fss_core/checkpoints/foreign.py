"""A user's own weights and networks: read without running anything, and made to fit or refused by name.

torch is imported inside the functions, so that listing checkpoints stays cheap.
"""

from __future__ import annotations

import importlib
import re
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from fss_core.specs import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fss_core.data import DatasetCard

    NetworkFactory = Callable[..., nn.Module]

_WRAPPERS = ("state_dict", "model", "model_state_dict")
_OWN_NORMALISATION = ("normalise.mean", "normalise.std")
_NUM_SHOWN = 8


# Networks -------------------------------------------------------------------------------------------------


def resolve_factory(text: str) -> NetworkFactory:
    """Import the function that ``module:function`` names; this runs the user's code.

    The working directory is searched last, as a module beside the weights is what a user has.

    Args:
        text: as typed after ``--factory``.

    Returns:
        The function.

    Raises:
        CheckpointError: the text has another form, or the module cannot be imported, or it has no such function.

    >>> resolve_factory("torch.nn:Identity").__name__
    'Identity'
    """
    if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", text):
        raise CheckpointError(f"--factory must read module:function, got {text!r}; for example my_networks:make")
    module_name, _, name = text.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    try:
        found = getattr(importlib.import_module(module_name), name, None)
    except (Exception, SystemExit) as error:  # the user's module may raise anything
        raise CheckpointError(
            f"--factory {text}: importing {module_name} failed ({_one_line(error)}); "
            "put it in this directory or on PYTHONPATH"
        ) from error
    if not callable(found):
        raise CheckpointError(
            f"--factory {text}: {module_name} has no function {name!r}; name one that makes a network"
        )
    return found  # type: ignore[no-any-return]


def factory_name(factory: NetworkFactory) -> str:
    """Name a factory as ``module:function``, wherever it was imported through.

    >>> factory_name(resolve_factory("collections:OrderedDict"))
    'collections:OrderedDict'
    """
    return f"{factory.__module__}:{getattr(factory, '__qualname__', type(factory).__qualname__)}"


def make_network(factory: NetworkFactory, card: DatasetCard) -> nn.Module:
    """Build a user's network for a data set.

    Args:
        factory: called with ``num_classes`` and ``num_channels``.
        card: of the data set.

    Returns:
        The network: pixels (N, C, H, W) on [0, 1] → logits (N, number of classes).

    Raises:
        CheckpointError: the factory fails, or returns something else than a module.
    """
    from torch import nn

    name = factory_name(factory)
    try:
        network = factory(num_classes=card.num_classes, num_channels=card.image_shape[0])
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        raise CheckpointError(
            f"--factory {name} failed ({_one_line(error)}); it is called with num_classes= and num_channels="
        ) from error
    if not isinstance(network, nn.Module):
        raise CheckpointError(f"--factory {name} must return a torch.nn.Module, got {type(network).__name__}")
    return network


# Weights --------------------------------------------------------------------------------------------------


def read_weights(file: Path) -> dict[str, Tensor]:
    """Read a file of weights without running anything that it holds.

    Args:
        file: ``.safetensors``, or ``.pt`` / ``.pth`` that holds tensors only, wrapped in ``{"state_dict": …}`` or not.

    Returns:
        Parameter name → tensor on the CPU; the prefix ``module.`` of data-parallel training is taken off.

    Raises:
        CheckpointError: there is no such file, it is broken, or it holds anything else than tensors.

    Source: torch.load(weights_only=True); this project.
    """
    if not file.is_file():
        raise CheckpointError(f"no file {file}; give the path of a .safetensors, .pt or .pth file")
    if file.suffix == ".safetensors":
        content: object = _read_safetensors(file)
    elif file.suffix in (".pt", ".pth"):
        content = _read_torch(file)
    else:
        raise CheckpointError(
            f"{file} must end in .safetensors, .pt or .pth; convert it with safetensors.torch.save_file"
        )
    return _plain_weights(content, file)


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{file} is no sound safetensors file ({_one_line(error)}); write it again with safetensors.torch.save_file"
        ) from error


def _read_torch(file: Path) -> object:
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # one line says it all
            content: object = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a hostile or broken pickle can fail in any way
        raise CheckpointError(
            f"{file} is broken or holds more than tensors, and was not run ({type(error).__name__}); "
            "where you trust it, convert it with safetensors.torch.save_file(network.state_dict(), FILE.safetensors)"
        ) from error
    return content


def _plain_weights(content: object, file: Path) -> dict[str, Tensor]:
    import torch
    from torch import Tensor

    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    remedy = "save network.state_dict() alone with safetensors.torch.save_file"
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"{file} holds no named weights but {type(content).__name__}; {remedy}")
    weights: dict[str, Tensor] = {}
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise CheckpointError(f"{file} holds {name!r}, a {type(tensor).__name__} and no tensor; {remedy}")
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
            raise CheckpointError(f"{file} holds {name!r} in a form without plain values ({tensor.layout}); {remedy}")
        weights[name] = tensor
    if all(name.startswith("module.") for name in weights):
        weights = {name.removeprefix("module."): tensor for name, tensor in weights.items()}
    return weights


def fit_weights(weights: Mapping[str, Tensor], network: nn.Module, *, source: Path) -> dict[str, Tensor]:
    """Check that weights are a network's own: the same names and shapes, all finite.

    Args:
        weights: parameter and buffer name → tensor; ``normalise.mean`` and ``normalise.std`` may be absent, then the
            network's own are taken.
        network: the network they are for; it is not changed.
        source: the file, for the message.

    Returns:
        Every name of ``network.state_dict()`` → tensor of its type and shape.

    Raises:
        CheckpointError: a name is missing or unexpected, a shape or kind of number differs, or a value is not finite.
    """
    expected: dict[str, Tensor] = network.state_dict()
    given = {name: expected[name] for name in _OWN_NORMALISATION if name in expected} | dict(weights)
    problems = _mismatches(given, expected)
    if problems:
        more = f", and {len(problems) - _NUM_SHOWN} more" if len(problems) > _NUM_SHOWN else ""
        raise CheckpointError(
            f"{source} does not fit the network: {', '.join(problems[:_NUM_SHOWN])}{more}; "
            "name the network and the data set that the weights were made for"
        )
    fitted = {name: given[name].to(expected[name].dtype) for name in expected}
    for name, tensor in fitted.items():
        if not bool(tensor.isfinite().all()):
            raise CheckpointError(f"{source} holds NaN or infinity in {name!r}; weights must be finite, take others")
    return fitted


def _mismatches(given: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    problems = [f"{name} missing" for name in expected if name not in given]
    problems += [f"{name} unexpected" for name in given if name not in expected]
    for name in (name for name in expected if name in given):
        ours, theirs = expected[name], given[name]
        if ours.shape != theirs.shape:
            problems.append(f"{name} has shape {tuple(theirs.shape)} instead of {tuple(ours.shape)}")
        elif ours.is_floating_point() != theirs.is_floating_point():
            problems.append(f"{name} has type {theirs.dtype} instead of {ours.dtype}")
    return problems


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__
