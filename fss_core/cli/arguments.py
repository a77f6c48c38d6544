"""What can be written on the command line."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from fss_core.specs import CONTROL_FILTER, DEFAULT_IMAGES, NETWORKS, SYNAPTIC_FILTERS, Filter, FssError, choose

Run = Callable[[argparse.Namespace], int]


def _verb(module: str, name: str) -> Run:
    """Refer to the function that does a verb, so that its module is imported only when it is done."""
    return lambda options: int(getattr(importlib.import_module(f"fss_core.cli.{module}"), name)(options))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see `{self.prog} --help`)\n")


def epsilon(text: str) -> float:
    """Read ε as a number, or as k/255.

    >>> round(epsilon("8/255"), 4)
    0.0314
    """
    number, _, divisor = text.partition("/")
    try:
        value = float(number) / (float(divisor) if divisor else 1.0)
    except (ValueError, ZeroDivisionError):
        value = 0.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"ε must lie in (0, 1], in pixels, like 8/255 or 0.03; got {text!r}")
    return value


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number, at least 1; got {text!r}")
    return int(text)


def _workers(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a whole number, 0 for this process; got {text!r}")
    return int(text)


def _filters(text: str) -> tuple[Filter, ...]:
    known = (*SYNAPTIC_FILTERS, CONTROL_FILTER)
    try:
        return tuple(choose(name, known, what="filter") for name in text.split(","))  # type: ignore[misc]
    except FssError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _names(text: str) -> list[str]:
    names = [name for name in text.split(",") if name]
    if not names:
        raise argparse.ArgumentTypeError(f"name at least one, several with commas; got {text!r}")
    return names


def _epochs(text: str) -> list[int]:
    try:
        return sorted({int(part) for part in text.split(",")})
    except ValueError:
        raise argparse.ArgumentTypeError(f"epochs are whole numbers with commas, like 0,5,10; got {text!r}") from None


def _add_training(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    group = parser.add_argument_group("which network")
    group.add_argument("--network", required=required, metavar="NAME", help=f"one of {', '.join(NETWORKS)}")
    group.add_argument("--dataset", required=required, metavar="NAME", help="a data set of `fss data list`")
    _add_trajectory(group)


def _add_trajectory(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--seed", type=int, default=0, help="initialisation (default 0)")
    group.add_argument("--batch-size", type=int, default=100, help="training images per step (default 100)")
    group.add_argument("--learning-rate", type=float, default=1e-3, help="of Adam (default 0.001)")
    group.add_argument(
        "--train-images", type=int, default=None, metavar="N", help="train on N of the training images (default all)"
    )


def _add_measurement(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    _add_training(parser, required=required)
    group = parser.add_argument_group("what is measured")
    group.add_argument("--epoch", type=int, required=required, help="0 is untrained; trained if it is not there")
    group.add_argument(
        "--images", type=int, default=None, help="the first n probe images (default 300; show: all measured)"
    )
    group.add_argument("--thresholds", type=int, default=25, help="per layer (default 25)")
    group.add_argument(
        "--effort",
        choices=("full", "labels", "preview"),
        default="full",
        help="full (default); labels: stop with each layer as soon as its calls are decided; or a preview: the same on "
        "64 of the images at 7 thresholds",
    )
    group.add_argument(
        "--filters", type=_filters, default=SYNAPTIC_FILTERS, help="with commas (default the paper's three)"
    )
    group.add_argument("--control", action="store_true", help="measure the random control too")
    group.add_argument("--layers", type=_names, default=None, help="with commas (default all)")
    group.add_argument(
        "--scope", choices=("local", "global"), default="local", help="one layer at a time, or all at once"
    )
    group.add_argument("--attack", default="fgsm", help="fgsm (default), pgd, or an L∞ attack of torchattacks")
    group.add_argument("--attack-mode", choices=("frozen", "adaptive"), default="frozen", help="default frozen")
    group.add_argument("--epsilon", type=epsilon, default=None, help="in pixels, like 8/255 (default: calibrated)")
    group.add_argument("--engine", choices=("fast", "reference"), default="fast", help="default fast")
    group.add_argument("--device", default="cpu", help="cpu (default), cuda, mps")
    group.add_argument(
        "--arithmetic",
        choices=("float32", "tf32", "bf16"),
        default="float32",
        help="in which networks predict (default float32); tf32 (NVIDIA) and bf16 shorten products to 10 and 7 bits, "
        "which may decide near ties otherwise; ε and attacks stay float32",
    )


def _add_score(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how it is scored")
    group.add_argument(
        "--reference", choices=("unfiltered", "retained"), default="unfiltered", help="default unfiltered"
    )
    group.add_argument("--normalise", choices=("chance", "p0", "none"), default="chance", help="default chance")
    group.add_argument("--integration", choices=("trapezoid", "simpson"), default="trapezoid", help="default trapezoid")
    group.add_argument("--tolerance", type=float, default=0.05, help="η (default 0.05)")
    group.add_argument("--level", type=float, default=0.95, help="of the intervals (default 0.95)")


def _add_workers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--workers",
        type=_workers,
        default=None,
        metavar="N",
        help="let N worker processes do it, 0: this process (default: this process, or one worker a core where more "
        "than a minute is left to share)",
    )


def _add_scoring(parser: argparse.ArgumentParser) -> None:
    _add_score(parser)
    group = parser.add_argument_group("what is printed")
    group.add_argument("--simultaneous", action="store_true", help="let all intervals hold together (Bonferroni)")
    group.add_argument("--strict", action="store_true", help="fail where a score is not measurable")
    group.add_argument(
        "--table",
        default="mean",
        choices=("mean", *SYNAPTIC_FILTERS, CONTROL_FILTER, "all"),
        help="which filter's scores to print (default the mean; the JSON always has all)",
    )


def _add_retraining(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what is retrained")
    group.add_argument("--epoch", type=int, required=True, help="where to start; trained if it is not there")
    group.add_argument("--budget", type=int, required=True, metavar="R", help="epochs of retraining")
    group.add_argument("--rules", type=_names, default=None, help="with commas (default all eleven of METHOD)")
    group.add_argument(
        "--seeds", type=int, default=1, metavar="N", help="so many initialisations, from --seed on (default 1)"
    )
    group.add_argument("--granularity", choices=("layer", "weights"), default="layer", help="default layer")
    group.add_argument("--draws", type=int, default=3, help="of the rule random (default 3)")
    group.add_argument("--report-images", type=int, default=None, metavar="N", help="to judge on (default all)")
    group.add_argument("--device", default="cpu", help="cpu (default), cuda, mps")
    group = parser.add_argument_group("how layers are chosen")
    group.add_argument("--images", type=int, default=None, help="the first n probe images (default 300)")
    group.add_argument("--thresholds", type=int, default=25, help="per layer (default 25)")
    group.add_argument("--attack", default="fgsm", help="fgsm (default), pgd, or an L∞ attack of torchattacks")
    group.add_argument("--attack-mode", choices=("frozen", "adaptive"), default="frozen", help="default frozen")
    group.add_argument(
        "--epsilon", type=epsilon, default=None, help="in pixels, like 8/255; also to judge (default: calibrated)"
    )
    group.add_argument(
        "--kind", choices=("adversarial", "clean", "difference"), default="adversarial", help="default adversarial"
    )
    group.add_argument("--filter", choices=("mean", *SYNAPTIC_FILTERS), default="mean", help="default the mean")
    group.add_argument(
        "--leaning", choices=("counted", "ignored"), default="counted", help="calls that lean (default counted)"
    )
    _add_score(parser)


def _add_invariance(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("across", choices=("epochs", "datasets", "networks"), help="what is compared")
    group = parser.add_argument_group("what is compared (what is not measured is named, with the command for it)")
    group.add_argument("--network", metavar="NAME", help=f"one of {', '.join(NETWORKS)} (epochs, datasets)")
    group.add_argument("--dataset", metavar="NAME", help="a data set of `fss data list` (epochs, networks)")
    group.add_argument("--epoch", type=int, help="of the checkpoints (datasets, networks)")
    group.add_argument("--epochs", type=_epochs, help="with commas (epochs; default all that are measured)")
    group.add_argument("--datasets", type=_names, help="with commas (datasets; default all that are measured)")
    group.add_argument("--networks", type=_names, help="with commas (networks; default all that are measured)")
    _add_trajectory(group)
    group.add_argument("--images", type=int, default=DEFAULT_IMAGES, help="the first n probe images (default 300)")
    group.add_argument("--thresholds", type=int, default=25, help="per layer (default 25)")
    group.add_argument("--attack", default="fgsm", help="fgsm (default), pgd, or an L∞ attack of torchattacks")
    group.add_argument("--attack-mode", choices=("frozen", "adaptive"), default="frozen", help="default frozen")
    group.add_argument(
        "--epsilon", type=epsilon, default=None, help="in pixels (default: one for all epochs, calibrated on the last)"
    )
    group.add_argument("--device", default="cpu", help="cpu (default), cuda, mps")
    _add_score(parser)
    group = parser.add_argument_group("what is printed")
    group.add_argument(
        "--kind", choices=("adversarial", "clean", "difference"), default="adversarial", help="default adversarial"
    )
    group.add_argument("--filter", choices=("mean", *SYNAPTIC_FILTERS), default="mean", help="default the mean")


def parser() -> argparse.ArgumentParser:
    """Build the parser of ``fss``; each verb's function is the ``run`` of what it returns."""
    parser = _Parser(prog="fss", description="Which layers of a network break, hold or improve when filtered.")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True, parser_class=_Parser)

    def verb(
        name: str, run: Callable[[argparse.Namespace], int], text: str, parent: Any = verbs
    ) -> argparse.ArgumentParser:
        own: argparse.ArgumentParser = parent.add_parser(name, help=text, description=text)
        own.add_argument("--json", action="store_true", help="print JSON")
        own.set_defaults(run=run)
        return own

    score = verb(
        "score",
        _verb("measuring", "score"),
        "train if needed, choose ε, attack, measure every layer, and print the scores",
    )
    _add_measurement(score)
    _add_scoring(score)
    score.add_argument("--refresh", action="store_true", help="forget what was measured of this and begin again")
    score.add_argument("--factory", default=None, metavar="MODULE:FUNCTION", help="builds a network of your own")
    _add_workers(score)

    show = verb(
        "show",
        _verb("measuring", "show"),
        "print what the store has, without computing: one measurement, or the list of all",
    )
    _add_measurement(show, required=False)
    _add_scoring(show)

    export = verb(
        "export", _verb("measuring", "export"), "write a measurement from the store as Parquet and CSV with a manifest"
    )
    target = export.add_mutually_exclusive_group(required=True)
    target.add_argument("directory", type=Path, nargs="?", help="made if it is missing")
    target.add_argument("--zip", type=Path, metavar="FILE", help="one ZIP instead, for `fss import` elsewhere")
    export.add_argument(
        "--format", choices=("parquet", "csv", "both"), default=None, help="of a directory (default both)"
    )
    _add_measurement(export)
    _add_scoring(export)

    bring = verb(
        "import",
        _verb("measuring", "import_"),
        "check a ZIP of `fss export --zip` and keep it among the imported results",
    )
    bring.add_argument("file", type=Path)
    _add_scoring(bring)

    runs = verbs.add_parser("runs", help="what was asked for: list, log, resume, cancel, retry")
    ways = runs.add_subparsers(title="verbs", metavar="VERB", required=True, parser_class=_Parser)
    verb("list", _verb("runs", "show"), "list what was asked for, here or in the dashboard", ways)
    for name, text in (
        ("resume", "go on with everything that is not finished, and follow it"),
        ("retry", "ask again for what failed or was cancelled, and follow it"),
        ("cancel", "ask that a run stops; what was finished stays"),
        ("log", "print what happened to a run"),
    ):
        own = verb(name, _verb("runs", name), text, ways)
        if name != "resume":
            own.add_argument("key", help="the first letters of its key, as `fss runs list` shows it")
        if name in ("resume", "retry"):
            own.add_argument("--workers", type=_positive, metavar="N", help="processes (default: one a core)")

    retrain = verb(
        "retrain",
        _verb("retraining", "retrain"),
        "retrain what rules choose, keep the rest frozen, compare the rules and judge the paper's claim",
    )
    _add_training(retrain)
    _add_retraining(retrain)
    retrain.add_argument("--factory", default=None, metavar="MODULE:FUNCTION", help="builds a network of your own")
    _add_workers(retrain)

    invariance = verb(
        "invariance",
        _verb("comparing", "invariance"),
        "compare what is measured across epochs, data sets or networks: which layers keep their rank and their call",
    )
    _add_invariance(invariance)

    study = verb(
        "study",
        _verb("studying", "study"),
        "do a whole grid, cell by cell, and publish each that is finished; ask again to go on",
    )
    what = study.add_mutually_exclusive_group(required=True)
    what.add_argument("--preset", metavar="NAME", help="demo, laptop, paper or notebook")
    what.add_argument(
        "--check",
        action="store_true",
        help="recompute every number that README and the page Errata quote from published studies",
    )
    what.add_argument("--quote", action="store_true", help="write the findings into README as they come out")
    study.add_argument(
        "--readme", type=Path, default=None, help="the file that quotes (default: the checkout's README)"
    )
    study.add_argument(
        "--budget-minutes",
        type=float,
        default=None,
        metavar="M",
        help="begin no task after M minutes (default: no end)",
    )
    study.add_argument(
        "--cells", type=_names, default=None, metavar="NETWORK/DATASET", help="with commas (default: all of them)"
    )
    study.add_argument("--dry-run", action="store_true", help="only say what is there, and what the rest would cost")
    study.add_argument(
        "--directory", type=Path, default=None, help="publish there (default: published/ in the cache directory)"
    )

    train = verb("train", _verb("measuring", "train"), "train a network and save the epochs asked for")
    _add_training(train)
    train.add_argument("--epochs", type=_epochs, required=True, help="with commas, like 0,5,10")
    train.add_argument("--device", default="cpu", help="cpu (default), cuda, mps")

    data = verbs.add_parser("data", help="data sets: list, fetch, verify, add")
    kinds = data.add_subparsers(title="verbs", metavar="VERB", required=True, parser_class=_Parser)
    verb("list", _verb("keeping", "data_list"), "list data sets and whether they can be used", kinds)
    fetch = verb("fetch", _verb("keeping", "data_fetch"), "download a data set", kinds)
    fetch.add_argument("name")
    verify = verb(
        "verify", _verb("keeping", "data_verify"), "read a data set anew and compare it with what was prepared", kinds
    )
    verify.add_argument("name")
    add = verb("add", _verb("keeping", "data_add"), "register an image folder: train/<class>/*, test/<class>/*", kinds)
    add.add_argument("name")
    add.add_argument("path", type=Path)

    checkpoints = verbs.add_parser("checkpoints", help="trained and imported weights: list, prune, import")
    kinds = checkpoints.add_subparsers(title="verbs", metavar="VERB", required=True, parser_class=_Parser)
    verb("list", _verb("keeping", "checkpoints_list"), "list checkpoints", kinds)
    prune = verb("prune", _verb("keeping", "checkpoints_prune"), "remove checkpoints", kinds)
    prune.add_argument("--network", default=None)
    prune.add_argument("--dataset", default=None)
    prune.add_argument("--seed", type=int, default=None)
    prune.add_argument("--keep-epochs", type=_epochs, default=[], help="with commas")
    prune.add_argument("--all", action="store_true", help="allow removing every checkpoint there is")
    prune.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    bring = verb(
        "import",
        _verb("keeping", "checkpoints_import"),
        "bring in weights of your own (safetensors, or .pt without code)",
        kinds,
    )
    bring.add_argument("file", type=Path)
    bring.add_argument("--network", required=True, help=f"one of {', '.join(NETWORKS)}, or a new name with --factory")
    bring.add_argument("--dataset", required=True)
    bring.add_argument("--epoch", type=int, required=True)
    bring.add_argument("--seed", type=int, default=0, help="initialisation to file them under (default 0)")
    bring.add_argument("--factory", default=None, metavar="MODULE:FUNCTION", help="builds a network of your own")
    return parser
