"""``fss``: the product's verbs on the command line.

Exit codes: 0 done, 1 the domain says no (one line), 2 wrong usage (one line), 130 interrupted (run again to go on).
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from fss_core.specs import (
    CONTROL_FILTER,
    DEFAULT_IMAGES,
    NETWORKS,
    SYNAPTIC_FILTERS,
    Filter,
    FssError,
    MeasurementSpec,
    ResponseSpec,
    ScoreSpec,
    StoreError,
    TrainingSpec,
    choose,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fss_core.exports import Format
    from fss_core.flow import Measured, Progress
    from fss_core.scores import Scores


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see `{self.prog} --help`)\n")


def _epsilon(text: str) -> float:
    """Read ε as a number, or as k/255.

    >>> round(_epsilon("8/255"), 4)
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


def _filters(text: str) -> tuple[Filter, ...]:
    known = (*SYNAPTIC_FILTERS, CONTROL_FILTER)
    try:
        return tuple(choose(name, known, what="filter") for name in text.split(","))  # type: ignore[misc]
    except FssError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _names(text: str) -> list[str]:
    names = [name for name in text.split(",") if name]
    if not names:
        raise argparse.ArgumentTypeError(f"name at least one layer, several with commas; got {text!r}")
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
    group.add_argument("--seed", type=int, default=0, help="initialisation (default 0)")
    group.add_argument("--batch-size", type=int, default=100, help="training images per step (default 100)")
    group.add_argument("--learning-rate", type=float, default=1e-3, help="of Adam (default 0.001)")


def _add_measurement(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    _add_training(parser, required=required)
    group = parser.add_argument_group("what is measured")
    group.add_argument("--epoch", type=int, required=required, help="0 is untrained; trained if it is not there")
    group.add_argument(
        "--images", type=int, default=None, help="the first n probe images (default 300; show: all measured)"
    )
    group.add_argument("--thresholds", type=int, default=25, help="per layer (default 25)")
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
    group.add_argument("--epsilon", type=_epsilon, default=None, help="in pixels, like 8/255 (default: calibrated)")
    group.add_argument("--engine", choices=("fast", "reference"), default="fast", help="default fast")
    group.add_argument("--device", default="cpu", help="cpu (default), cuda, mps")


def _add_scoring(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how it is scored")
    group.add_argument(
        "--reference", choices=("unfiltered", "retained"), default="unfiltered", help="default unfiltered"
    )
    group.add_argument("--normalise", choices=("chance", "p0", "none"), default="chance", help="default chance")
    group.add_argument("--integration", choices=("trapezoid", "simpson"), default="trapezoid", help="default trapezoid")
    group.add_argument("--tolerance", type=float, default=0.05, help="η (default 0.05)")
    group.add_argument("--level", type=float, default=0.95, help="of the intervals (default 0.95)")
    group.add_argument("--simultaneous", action="store_true", help="let all intervals hold together (Bonferroni)")
    group.add_argument("--strict", action="store_true", help="fail where a score is not measurable")
    group.add_argument(
        "--table",
        default="mean",
        choices=("mean", *SYNAPTIC_FILTERS, CONTROL_FILTER, "all"),
        help="which filter's scores to print (default the mean; the JSON always has all)",
    )


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="fss", description="Which layers of a network break, hold or improve when filtered.")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True, parser_class=_Parser)

    def verb(
        name: str, run: Callable[[argparse.Namespace], int], text: str, parent: Any = verbs
    ) -> argparse.ArgumentParser:
        own: argparse.ArgumentParser = parent.add_parser(name, help=text, description=text)
        own.add_argument("--json", action="store_true", help="print JSON")
        own.set_defaults(run=run)
        return own

    score = verb("score", _score, "train if needed, choose ε, attack, measure every layer, and print the scores")
    _add_measurement(score)
    _add_scoring(score)
    score.add_argument("--refresh", action="store_true", help="forget what was measured of this and begin again")
    score.add_argument("--factory", default=None, metavar="MODULE:FUNCTION", help="builds a network of your own")

    show = verb("show", _show, "print what the store has, without computing: one measurement, or the list of all")
    _add_measurement(show, required=False)
    _add_scoring(show)

    export = verb("export", _export, "write a measurement from the store as Parquet and CSV with a manifest")
    export.add_argument("directory", type=Path, help="made if it is missing")
    export.add_argument("--format", choices=("parquet", "csv", "both"), default="both", help="default both")
    _add_measurement(export)
    _add_scoring(export)

    train = verb("train", _train, "train a network and save the epochs asked for")
    _add_training(train)
    train.add_argument("--epochs", type=_epochs, required=True, help="with commas, like 0,5,10")
    train.add_argument("--device", default="cpu", help="cpu (default), cuda, mps")

    data = verbs.add_parser("data", help="data sets: list, fetch, verify, add")
    kinds = data.add_subparsers(title="verbs", metavar="VERB", required=True, parser_class=_Parser)
    verb("list", _data_list, "list data sets and whether they can be used", kinds)
    fetch = verb("fetch", _data_fetch, "download a data set", kinds)
    fetch.add_argument("name")
    verify = verb("verify", _data_verify, "read a data set anew and compare it with what was prepared", kinds)
    verify.add_argument("name")
    add = verb("add", _data_add, "register an image folder: train/<class>/*, test/<class>/*", kinds)
    add.add_argument("name")
    add.add_argument("path", type=Path)

    checkpoints = verbs.add_parser("checkpoints", help="trained and imported weights: list, prune, import")
    kinds = checkpoints.add_subparsers(title="verbs", metavar="VERB", required=True, parser_class=_Parser)
    verb("list", _checkpoints_list, "list checkpoints", kinds)
    prune = verb("prune", _checkpoints_prune, "remove checkpoints", kinds)
    prune.add_argument("--network", default=None)
    prune.add_argument("--dataset", default=None)
    prune.add_argument("--seed", type=int, default=None)
    prune.add_argument("--keep-epochs", type=_epochs, default=[], help="with commas")
    prune.add_argument("--all", action="store_true", help="allow removing every checkpoint there is")
    prune.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    bring = verb(
        "import", _checkpoints_import, "bring in weights of your own (safetensors, or .pt without code)", kinds
    )
    bring.add_argument("file", type=Path)
    bring.add_argument("--network", required=True, help=f"one of {', '.join(NETWORKS)}, or a new name with --factory")
    bring.add_argument("--dataset", required=True)
    bring.add_argument("--epoch", type=int, required=True)
    bring.add_argument("--seed", type=int, default=0, help="initialisation to file them under (default 0)")
    bring.add_argument("--factory", default=None, metavar="MODULE:FUNCTION", help="builds a network of your own")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``fss``.

    Args:
        arguments: of the command line; ``sys.argv`` by default.

    Returns:
        The exit code.
    """
    # Streams that the caller closed: what is written there is lost, as asked.
    sys.stdout, sys.stderr = sys.stdout or io.StringIO(), sys.stderr or io.StringIO()
    warnings.showwarning = lambda message, *_rest, **_named: print(f"fss: {message}", file=sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without ε still shows the rest
    try:
        options = _parser().parse_args(arguments)
        code: int = options.run(options)
        sys.stdout.flush()
        return code
    except FssError as error:
        return _fail(error, 1)
    except UnicodeError as error:
        return _fail(f"a name cannot be written under this locale ({error}); use a UTF-8 locale and UTF-8 names", 1)
    except ValueError as error:
        if os.environ.get("FSS_TRACEBACK"):
            raise
        return _fail(error, 2)
    except KeyboardInterrupt:
        return _fail("interrupted; what was finished is kept, run the same command to go on", 130)
    except BrokenPipeError:
        # The reader of a pipe went away; leave without complaint about flushing to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _fail(f"{error.filename or 'the output'}: {error.strerror}; check the place and its permissions", 1)
    except Exception as error:
        if os.environ.get("FSS_TRACEBACK"):
            raise
        return _fail(f"unexpected {type(error).__name__}: {error} (set FSS_TRACEBACK=1 to see where)", 1)


def _fail(reason: object, code: int) -> int:
    print("fss:", " ".join(str(reason).split()), file=sys.stderr)
    return code


def _print_json(value: object) -> None:
    def plain(item: object) -> object:
        if is_dataclass(item) and not isinstance(item, type):
            return asdict(item)
        return str(item)

    print(json.dumps(value, indent=1, ensure_ascii=False, default=plain, allow_nan=False))


# Measuring ------------------------------------------------------------------------------------------------


def _training_spec(options: argparse.Namespace) -> TrainingSpec:
    return TrainingSpec(
        network=options.network,
        dataset=options.dataset,
        seed=options.seed,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
    )


def _measurement_spec(options: argparse.Namespace) -> MeasurementSpec:
    from fss_core.data import dataset_card

    filters = options.filters
    if options.control and CONTROL_FILTER not in filters:
        filters = (*filters, CONTROL_FILTER)
    num_images = options.images
    if num_images is None:
        num_images = min(DEFAULT_IMAGES, dataset_card(options.dataset).split_sizes["probe"])
    return MeasurementSpec(
        training=_training_spec(options),
        epoch=options.epoch,
        num_images=num_images,
        attack_kind=options.attack,
        attack_mode=options.attack_mode,
        epsilon=options.epsilon,
        response=ResponseSpec(
            filters=filters,
            num_thresholds=options.thresholds,
            scope=options.scope,
            engine=options.engine,
        ),
        device=options.device,
    )


def _score_spec(options: argparse.Namespace) -> ScoreSpec:
    return ScoreSpec(
        reference=options.reference,
        normalise=options.normalise,
        integration=options.integration,
        tolerance=options.tolerance,
        level=options.level,
    )


def _scored(measured: Measured, options: argparse.Namespace) -> Scores:
    from fss_core.scores import score_responses

    own = asdict(_score_spec(options))
    return score_responses(measured.responses, **own, simultaneous=options.simultaneous, strict=options.strict)


def _print_measured(measured: Measured, options: argparse.Namespace) -> int:
    from fss_core import reports

    scores = _scored(measured, options)
    if options.json:
        _print_json(reports.measured_json(measured, scores))
        return 0
    known = list(dict.fromkeys(row.filter for row in scores.rows))
    if options.table != "all" and options.table not in known:
        tables = known
    else:
        tables = known if options.table == "all" else [options.table]
    lines = reports.heading(measured, scores) + reports.score_table(measured, scores, tables) + reports.legend(scores)
    print("\n".join(lines))
    return 0


@contextmanager
def _bars() -> Iterator[Callable[[Progress], None]]:
    """Show progress on standard error, one bar per step, with the time left."""
    from tqdm import tqdm

    bar: tqdm[NoReturn] | None = None
    stage = ""

    def show(progress: Progress) -> None:
        nonlocal bar, stage
        if progress.stage != stage:
            if bar is not None:
                bar.total = bar.n  # calibration ends before its upper bound
                bar.refresh()
                bar.close()
            stage = progress.stage
            shape = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining} {postfix}"
            bar = tqdm(desc=f"{stage:9}", total=progress.total, bar_format=shape, file=sys.stderr, leave=True)
        assert bar is not None
        bar.total = progress.total
        bar.set_postfix_str(progress.detail, refresh=False)
        bar.update(progress.done - bar.n)

    try:
        yield show
    finally:
        if bar is not None:
            bar.close()


def _factory(options: argparse.Namespace) -> Callable[..., Any] | None:
    if options.factory is None:
        return None
    from fss_core.checkpoints import resolve_factory

    return resolve_factory(options.factory)


def _score(options: argparse.Namespace) -> int:
    from fss_core.flow import Flow
    from fss_core.scores import quadrature
    from fss_core.store import Store

    factory = _factory(options)
    if factory is None:
        choose(options.network, NETWORKS, what="network")
    spec = _measurement_spec(options)
    quadrature(spec.response.num_thresholds, _score_spec(options).integration)  # refuse it now, not after measuring
    with Store() as store, _bars() as show:
        measured = Flow(store, on_progress=show, factory=factory).measure(
            spec, layers=options.layers, refresh=options.refresh
        )
    return _print_measured(measured, options)


def _stored(options: argparse.Namespace) -> Measured:
    from fss_core.checkpoints import find_checkpoint
    from fss_core.flow import find_measured
    from fss_core.store import Store

    spec = _measurement_spec(options)
    with Store() as store:
        measured = find_measured(store, spec, layers=options.layers, every_image=options.images is None)
    if find_checkpoint(spec.training, spec.epoch) is None:
        raise StoreError(
            f"no epoch {options.epoch} of {options.network} on {options.dataset}, seed {options.seed}, is there (never "
            "trained, or pruned); what was measured of it can be read again once `fss train` has made the same weights"
        )
    if measured is None or not measured.responses.layers:
        raise StoreError(
            f"nothing is measured yet of {options.network} on {options.dataset}, epoch {options.epoch}, as asked for; "
            "run `fss score` with the same options, or `fss show` for the list"
        )
    return measured


def _show(options: argparse.Namespace) -> int:
    given = [options.network, options.dataset, options.epoch]
    if all(value is None for value in given):
        return _show_all(options)
    if any(value is None for value in given):
        raise ValueError("give --network, --dataset and --epoch, or none of them for the list of all measurements")
    return _print_measured(_stored(options), options)


def _show_all(options: argparse.Namespace) -> int:
    from fss_core.reports import columns
    from fss_core.store import Store

    with Store() as store:
        records = store.list_records()
    if options.json:
        _print_json(records)
        return 0
    if not records:
        print("Nothing is measured yet. Try: fss score --network shufflenet_v2_x1_0 --dataset mnist5k --epoch 3")
        return 0
    rows = [["network", "data set", "epoch", "init.", "images", "thresholds", "scope", "attack", "ε·255", "key"]]
    for record in records:
        spec: Any = record.spec["measurement"]
        attack: Any = record.spec["attack"]
        rows.append(
            [
                spec["training"]["network"],
                str(record.spec["dataset_title"]),
                str(spec["epoch"]),
                str(spec["training"]["seed"]),
                str(spec["num_images"]),
                str(spec["response"]["num_thresholds"]),
                spec["response"]["scope"],
                f"{attack['kind']}, {attack['mode']}",
                f"{attack['epsilon'] * 255:.3g}",
                record.key[:8],
            ]
        )
    print("\n".join(columns(rows)))
    return 0


def _export(options: argparse.Namespace) -> int:
    from fss_core.exports import export_measured

    measured = _stored(options)
    formats: tuple[Format, ...] = ("parquet", "csv") if options.format == "both" else (options.format,)
    written = export_measured(measured, _scored(measured, options), options.directory, formats=formats)
    if options.json:
        _print_json({"files": written})
    else:
        print("\n".join(str(path) for path in written))
    return 0


def _train(options: argparse.Namespace) -> int:
    from fss_core.flow import Flow
    from fss_core.store import Store

    choose(options.network, NETWORKS, what="network")
    with Store() as store, _bars() as show:
        trained = Flow(store, on_progress=show).train(_training_spec(options), options.epochs, device=options.device)
    return _print_checkpoints(trained, options)


# Data sets and checkpoints --------------------------------------------------------------------------------


def _data_list(options: argparse.Namespace) -> int:
    from fss_core.data import list_datasets
    from fss_core.reports import columns

    states = list_datasets()
    if options.json:
        _print_json(states)
    else:
        rows = [["name", "title", "state", "detail"]]
        rows += [[state.name, state.title, state.state, state.detail] for state in states]
        print("\n".join(columns(rows)))
    return 0


def _print_card(card: Any, options: argparse.Namespace) -> int:
    if options.json:
        _print_json(card)
    else:
        sizes = ", ".join(f"{name} {size:,}" for name, size in card.split_sizes.items())
        shape = " × ".join(str(side) for side in card.image_shape)
        print(f"{card.name}: {card.title}; {card.num_classes} classes, images of {shape}; {sizes}")
    return 0


def _data_fetch(options: argparse.Namespace) -> int:
    from fss_core.data import fetch_dataset

    return _print_card(fetch_dataset(options.name), options)


def _data_add(options: argparse.Namespace) -> int:
    from fss_core.data import register_folder

    return _print_card(register_folder(options.name, options.path), options)


def _data_verify(options: argparse.Namespace) -> int:
    from fss_core.data import verify_dataset

    report = verify_dataset(options.name)
    if options.json:
        _print_json(report)
    else:
        print(f"{report.name}: all {report.num_images:,} images of {report.title} are as prepared")
        for split, fingerprint in report.fingerprints.items():
            print(f"  {split:11} {fingerprint}")
    return 0


def _print_checkpoints(found: Sequence[Any], options: argparse.Namespace) -> int:
    from fss_core.reports import columns

    if options.json:
        _print_json(list(found))
        return 0
    rows = [["network", "data set", "init.", "epoch", "origin", "loss", "train accuracy", "SHA-256", "where"]]
    for own in found:
        last = own.history[-1] if own.history else None
        rows.append(
            [
                own.spec.network,
                own.spec.dataset,
                str(own.spec.seed),
                str(own.epoch),
                own.origin,
                f"{last.loss:.4f}" if last else "–",
                f"{last.train_accuracy:.3f}" if last else "–",
                own.sha256[:12],
                str(own.path),
            ]
        )
    print("\n".join(columns(rows)) if found else "There are no checkpoints yet.")
    return 0


def _checkpoints_list(options: argparse.Namespace) -> int:
    from fss_core.checkpoints import list_broken_checkpoints, list_checkpoints

    for broken in list_broken_checkpoints():
        print(f"fss: {broken.reason}", file=sys.stderr)
    return _print_checkpoints(list_checkpoints(), options)


def _checkpoints_prune(options: argparse.Namespace) -> int:
    from fss_core.checkpoints import prune_checkpoints

    chosen = (options.network, options.dataset, options.seed)
    if all(value is None for value in chosen) and not (options.all or options.dry_run):
        raise ValueError("prune would remove every checkpoint; name --network, --dataset or --seed, or say --all")
    removed = prune_checkpoints(
        network=options.network,
        dataset=options.dataset,
        seed=options.seed,
        keep_epochs=options.keep_epochs,
        dry_run=options.dry_run,
    )
    if options.json:
        _print_json(removed)
        return 0
    word = "would remove" if options.dry_run else "removed"
    for own in removed:
        print(f"{word} {own.path} ({own.num_bytes / 1e6:.1f} MB)")
    print(f"{word} {len(removed)} checkpoints, {sum(own.num_bytes for own in removed) / 1e6:.1f} MB")
    return 0


def _checkpoints_import(options: argparse.Namespace) -> int:
    from fss_core.checkpoints import import_checkpoint

    checkpoint = import_checkpoint(
        options.file,
        network=options.network,
        dataset=options.dataset,
        epoch=options.epoch,
        seed=options.seed,
        factory=_factory(options),
    )
    return _print_checkpoints([checkpoint], options)


if __name__ == "__main__":
    with suppress(BrokenPipeError):
        sys.exit(main())
