"""The command `keras-swapout`. Each sub-command is a pair of functions: arguments, and the run."""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import re
import shlex
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple, NoReturn

from keras_swapout._version import __version__
from keras_swapout.study.packages import EXTRAS, PILOT, TUNE, check_packages
from keras_swapout.study.quiet import quiet

MOST_SEEDS = 20  # with a time to keep to: by then an interval hardly gets narrower


class Command(NamedTuple):
    """A sub-command. Both functions import what they need when they are called."""

    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int | None]


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Runs the command line and exits.

    Args:
        argv: the arguments, without the program's name; None for those of the process.

    Raises:
        SystemExit: always; with code 0, 2 for an argument that can't be used, 130 after Ctrl-C.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    args = _parser(argv).parse_args(argv)
    with contextlib.suppress(AttributeError, ValueError):  # no text stream, or none of Python's
        sys.stdout.reconfigure(errors="backslashreplace")  # as sys.stderr: no name is worth a crash
    with quiet(), warnings.catch_warnings():
        warnings.showwarning = _show_warning
        code = _run(args, shlex.join(["keras-swapout", *argv]))
    sys.exit(code)


def _run(args, command):
    try:
        return COMMANDS[args.command].run(args) or 0
    except KeyboardInterrupt:
        print(f"\nInterrupted. To continue: {command}", file=sys.stderr)
        return 130
    except (ValueError, TypeError, OSError, ImportError) as error:
        ours = isinstance(error, TypeError) and not str(error).startswith("Argument ")
        if ours or args.traceback:
            raise
        message = _message(error, COMMANDS[args.command])
        print(f"keras-swapout {args.command}: {message}", file=sys.stderr)
        return 2


def _show_warning(message, *where):
    print(f"keras-swapout: {_printable(str(message))}", file=sys.stderr)


def _parser(argv):
    parser = argparse.ArgumentParser(
        prog="keras-swapout",
        description="Swapout and its relatives for Keras: measure whether they help on your data.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name, command in COMMANDS.items():
        sub = commands.add_parser(name, help=command.help, description=command.help)
        # Only the command in use builds its arguments, which takes imports.
        if name in argv:
            command.add_arguments(sub)
        sub.add_argument("--traceback", action="store_true", help="show where an error arose")
    return parser


def _message(error, command):
    """What an error says, for somebody at a command line."""
    if getattr(error, "name", None) in EXTRAS:  # Keras' backend is not known before Keras is
        return f'{error}. Install it with: pip install "keras-swapout[{EXTRAS[error.name]}]"'
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    options = set(re.findall(r"--[\w-]+", parser.format_usage()))

    def spelled(match):
        """An argument as the command line spells it: `batch_size` is --batch-size."""
        option = "--" + match[1].replace("_", "-")
        found = [name for name in (option, option.removesuffix("s")) if name in options]
        return found[0] if found else match[0]

    return _printable(re.sub(r"`(\w+)`", spelled, str(error)))


def _printable(text):
    """Text with all escaped that could do something else to a screen than be seen on it."""
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text
    )


# --- pilot ---------------------------------------------------------------------------------------


def _training_arguments(parser):
    """What to train, on what, and how. Left out here, each has the default of `make_settings`."""
    add = functools.partial(parser.add_argument, default=argparse.SUPPRESS)
    add(
        "--data",
        help="digits, elpv, a TensorFlow Datasets name, a folder, an .npz file or module:function; "
        "default: digits",
    )
    add("--epochs", type=int, help="passes over the training images")
    add(
        "--model",
        help="resnet8v2, resnet20v1, ... (6n + 2 layers, version 1 or 2); a name of "
        "keras.applications; a .keras file, which is trained on; or module:function",
    )
    add("--weights", metavar="none|imagenet|FILE", help="of a network of keras.applications")
    add("--from-scratch", action="store_true", help="train a .keras file's network anew")
    add("--new-head", action="store_true", help="replace the last layer where classes differ")
    add("--scale", help="standardise, unit (0..1), symmetric (-1..1) or raw (0..255)")
    add("--optimizer", help="of keras.optimizers; default: the network's own, else AdamW")
    _import_argument(parser)
    add("--width", type=int, help="multiplies the network's channels; default: 1")
    add("--batch-size", type=int, help="images of a training step")
    add("--learning-rate", type=float, help="default: 0.1 for ours, 1e-3, or 1e-4 for trained")
    add("--image-size", type=int, help="side to resize the images to")
    add("--unaugmented", action="store_true", help="neither flip nor shift the training images")
    _skip_argument(add)
    return add


def _comparison_arguments(parser):
    """Those, and what is for methods that are compared on held-out images."""
    add = _training_arguments(parser)
    add("--limit", type=int, help="training and validation images to use")
    add("--corruption-images", type=int, help="test images to corrupt; default: 500")
    add(
        "--samples",
        nargs="+",
        type=int,
        metavar="T",
        help="try stochastic inference with T sub-models too, one number or several, beside "
        "recalibration and how well sub-models agree; default: none",
    )
    return add


def _given(args, *apart):
    """The options of the command line, less what is not for `make_settings`."""
    apart = ("command", "out", "traceback", "imports", *apart)
    return {name: value for name, value in vars(args).items() if name not in apart}


def _pilot_arguments(parser):
    from keras_swapout.study.pilot.methods import METHODS
    from keras_swapout.study.pilot.settings import CURATED, FAMILIES

    parser.description = (
        "Trains one network under each method, with the same budget and several seeds, and reports "
        "which differences are real. Interrupted, the same command goes on where it stopped. "
        "Under one --out only the seeds and methods may grow. What is not given is chosen to suit "
        "the data."
    )
    add = _comparison_arguments(parser)
    add(
        "--methods",
        nargs="+",
        metavar="METHOD",
        help=f"all, or some of: {', '.join(METHODS)}; or with numbers of their own, as "
        f"swapout@theta_1=1-0.7,theta_2=0.9; default: {', '.join(CURATED)}",
    )
    add(
        "--label-noise",
        nargs="+",
        type=float,
        metavar="SHARE",
        help="shares of the training labels to make wrong, each a condition of its own; "
        "default: 0, for digits 0 0.3",
    )
    add("--family", choices=FAMILIES, help="only the methods of one family")
    add("--alpha", nargs="+", type=float, help="weights of R-Block's consistency term to compare")
    add("--seeds", type=int, help="runs of each method")
    add("--minutes", type=float, metavar="M", help="the time to keep to: as many seeds as fit")
    add("--jobs", type=int, metavar="N", help="processes of one thread; default: the cores")
    add(
        "--scheduler",
        metavar="ADDRESS",
        help="of dask, instead: its workers do the runs (start them with one thread each)",
    )
    add(
        "--settings",
        metavar="FILE",
        help="best.json of keras-swapout tune: its data, network, budget and methods, where they "
        "are not given here",
    )
    parser.add_argument(
        "--save-models", action="store_true", help="keep the trained networks, under <out>/models"
    )
    parser.add_argument("--verbose", action="store_true", help="all tables, not only the answer")
    add("--out", metavar="DIR", help="folder of the results; default: pilot-<data>")


def _pilot(args):
    from keras_swapout.study.pilot import make_settings, read_settings, run_pilot

    how = ("minutes", "jobs", "scheduler")
    options = _given(args, "save_models", "settings", "verbose", *how)
    if "settings" in args:
        options = {**read_settings(args.settings), **options}
    given = {name: getattr(args, name) for name in how if name in args}
    if "scheduler" not in given:
        given.setdefault("jobs", _cores())
    if "minutes" in given:
        given["shorten"] = "epochs" not in options
        options.setdefault("seeds", MOST_SEEDS)
    check_packages(PILOT, options.get("data"))
    settings = make_settings(**options)
    _import(args)
    out = _out(args, "pilot", settings.data)
    run_pilot(settings, out, args.save_models, verbose=args.verbose, **given)


def _cores():
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _out(args, command, data):
    from pathlib import Path

    return getattr(args, "out", f"{command}-{Path(data).name.replace('/', '-')}")


# --- tune ----------------------------------------------------------------------------------------


def _tune_arguments(parser):
    from keras_swapout.study.tune.objectives import OBJECTIVES
    from keras_swapout.study.tune.settings import TUNABLE, TUNERS
    from keras_swapout.tuning.spaces import KINDS

    parser.description = (
        "Searches the numbers of a method (keep probabilities, drop rate, block size, alpha) with "
        "KerasTuner, on the validation images; then trains plain, the method untuned and the "
        "method tuned with fresh seeds, and reports on the test images. Interrupted, the same "
        "command goes on where it stopped; under one --out only trials and seeds may grow. With "
        "KERASTUNER_TUNER_ID, KERASTUNER_ORACLE_IP and KERASTUNER_ORACLE_PORT set, several "
        "processes share the trials."
    )
    add = _comparison_arguments(parser)
    add(
        "--method", choices=TUNABLE, metavar="METHOD", help=f"{', '.join(TUNABLE)}; default swapout"
    )
    add("--tuner", choices=TUNERS, help="of KerasTuner; default: bayesian")
    add("--trials", type=int, help="settings to try; default: 30")
    add("--executions-per-trial", type=int, help="runs of a trial, by seed; default: 1")
    add(
        "--objective",
        choices=tuple(OBJECTIVES),
        help="on the validation samples; default: nll, or rmse of numbers",
    )
    add("--schedule", choices=KINDS, help="theta over depth; default: linear, from 1")
    add(
        "--range",
        dest="ranges",
        nargs=3,
        action="append",
        metavar=("NAME", "LOW", "HIGH"),
        help="what to search of a number: theta_1, theta_2, theta, survival_probability, rate, "
        "block_size (as a share of the map) or alpha; once for each",
    )
    add("--step", type=float, help="distance of the probabilities to try; a grid's default: 0.1")
    add("--seeds", type=int, help="final runs of each of the three, on the test images")
    parser.add_argument("--search-only", action="store_true", help="leave out the final runs")
    parser.add_argument("--verbose", action="store_true", help="all tables, not only the answer")
    add("--out", metavar="DIR", help="folder of the results; default: tune-<data>")


def _tune(args):
    from keras_swapout.study.tune import make_settings, run_tune

    options = _given(args, "ranges", "verbose")
    if "ranges" in args:
        options["ranges"] = {name: (float(low), float(high)) for name, low, high in args.ranges}
    check_packages(TUNE, options.get("data"))
    settings = make_settings(**options)
    _import(args)
    run_tune(settings, _out(args, "tune", settings.pilot.data), args.verbose)


# --- evaluate ------------------------------------------------------------------------------------


def _evaluate_arguments(parser):
    from keras_swapout.study.evaluate.options import SCALES, SEVERITIES, SPLITS

    parser.description = (
        "Measures accuracy, likelihood, calibration and robustness to corruption of saved models, "
        "in each way of inference. Files whose names differ only by a trailing -seed<k> are runs "
        "of one model; the first model is what the others are compared with. Interrupted, the same "
        "command goes on where it stopped."
    )
    add = parser.add_argument
    add("models", nargs="+", metavar="MODEL", help="a .keras file")
    add(
        "--data",
        required=True,
        help="digits, elpv, a TensorFlow Datasets name, a folder with a sub-folder for each "
        "class, an .npz file or module:function; split, limit and size must be those of the "
        "training",
    )
    add("--samples", type=int, default=30, help="sub-models of stochastic inference; default: 30")
    add(
        "--split",
        choices=SPLITS,
        default="test",
        help="test: the images that the pilot and keras_swapout.datasets hold out; all: every "
        "image, if the models have seen none; default: test",
    )
    add("--limit", type=int, help="training and validation images that were used")
    add("--image-size", type=int, help="side to resize the images to; default: the models'")
    add(
        "--scale",
        choices=SCALES,
        help="what the models expect: (x - mean) / std of the training images, x / 255, "
        "x / 127.5 - 1, or x as it is; default: what is found by trying",
    )
    _skip_argument(add)
    add("--mean", nargs="+", type=float, help="for standardise, by channel, of 0..255")
    add("--std", nargs="+", type=float, help="likewise")
    add("--corruption-images", type=int, default=500, help="images to corrupt; default: 500")
    add(
        "--severities", nargs="+", type=int, default=list(SEVERITIES), help="of 1 to 5; default all"
    )
    add("--batch-size", type=int, help="rows of a call; default: what fits 256 MB")
    _import_argument(parser)
    add("--verbose", action="store_true", help="all tables, not only the answer")
    add("--out", metavar="DIR", help="folder of the results; default: evaluate-<data>")


def _skip_argument(add):
    add("--skip-unreadable", action="store_true", help="leave out images that can't be read")


def _import(args):
    if args.imports:  # it takes Keras
        from keras_swapout.study.loading import import_modules

        import_modules(args.imports)


def _import_argument(parser):
    parser.add_argument(
        "--import",
        dest="imports",
        nargs="+",
        default=[],
        metavar="MODULE",
        help="modules to import first, which register layers of your own",
    )


def _evaluate(args):
    from pathlib import Path

    from keras_swapout.study.evaluate import evaluate

    options = {k: v for k, v in vars(args).items() if k not in ("command", "out", "traceback")}
    out = args.out or f"evaluate-{Path(args.data).name.replace('/', '-')}"
    evaluate(out=out, **options)


# --- audit ---------------------------------------------------------------------------------------


def _audit_arguments(parser):
    parser.description = (
        "Trains one network on all images, labels as they are, so that two sub-models agree "
        "(R-Block), and lists the labels that it contradicts: as tables, and as a page with their "
        "pictures. It changes none of your files. Interrupted, the same command goes on where it "
        "stopped."
    )
    add = _training_arguments(parser)
    add("--limit", type=int, help="images to use")
    add("--method", metavar="METHOD", help="a method of keras-swapout pilot; default: an R-Block")
    add(
        "--folds",
        type=int,
        metavar="K",
        help="judge each image by a network that has not seen it, K of them in all; default: by "
        "the one network, which has",
    )
    add("--copy", metavar="DIR", help="copy the suspicious files there, by what is suggested")
    add("--jobs", type=int, metavar="N", help="processes of one thread each, for the folds")
    parser.add_argument("--verbose", action="store_true", help="all tables, not only the answer")
    add("--out", metavar="DIR", help="folder of the results; default: audit-<data>")


def _audit(args):
    from keras_swapout.study.audit import make_settings, run_audit

    how = ("folds", "copy", "jobs")
    options = _given(args, "verbose", *how)
    check_packages(PILOT, options.get("data"))
    settings = make_settings(**options)
    _import(args)
    given = {name: getattr(args, name) for name in how if name in args}
    run_audit(settings, _out(args, "audit", settings.data), verbose=args.verbose, **given)


# --- retrofit and strip --------------------------------------------------------------------------


def _retrofit_arguments(parser):
    from keras_swapout.study.surgery.kinds import KINDS, NUMBERS

    parser.description = (
        "Puts Swapout, or another layer, into the network of a .keras file, which keeps its "
        "weights and its outputs at inference, and writes another file to train on. Of a file of "
        "an R-Block model, into the network that ships."
    )
    add = parser.add_argument
    _file_arguments(parser)
    add(
        "--layer",
        choices=KINDS,
        default="swapout",
        metavar="LAYER",
        help="in place of residual additions: "
        + ", ".join(name for name, kind in KINDS.items() if kind.merges)
        + "; behind blocks: "
        + ", ".join(name for name, kind in KINDS.items() if not kind.merges)
        + "; default: swapout",
    )
    helps = {
        "theta_1": "probability of KEEPING X (swapout): one number, or the first and the last "
        "block's; default: 1",
        "theta_2": "of KEEPING F(X) (swapout), likewise; default: 1 0.5",
        "theta": "of KEEPING (residual_dropout, skip_forward), likewise",
        "survival_probability": "of KEEPING a branch (stochastic_depth, drop_path), likewise",
        "rate": "probability of DROPPING (behind blocks), likewise; default: 0.2",
        "block_size": "below 1 a share of the map's side, else units; default: 0.5",
    }
    for name in NUMBERS:
        several = 1 if name == "block_size" else "+"
        option = "--" + name.replace("_", "-")
        add(option, nargs=several, type=float, metavar="P", help=helps[name])
    add("--where", nargs="+", metavar="NAME", help="only at these additions, or layers")
    add(
        "--keep-dropouts",
        action="store_true",
        help="keep a dropout that a branch ends in, beside the new layer; default: replace it",
    )
    add("--dry-run", action="store_true", help="show the plan, and write nothing")
    add("--verbose", action="store_true", help="show every place, and all that was left")


def _file_arguments(parser):
    add = parser.add_argument
    add("model", metavar="MODEL", help="a .keras file")
    add("--out", required=True, metavar="NEW", help="the .keras file to write")
    add("--overwrite", action="store_true", help="even if there is something by that name")
    _import_argument(parser)


def _retrofit(args):
    from keras_swapout.study.surgery.kinds import NUMBERS
    from keras_swapout.study.surgery.retrofit import retrofit

    options = _given(args, "imports", *NUMBERS)
    for name in NUMBERS:
        if getattr(args, name) is not None:
            options[name] = getattr(args, name)
    retrofit(out=args.out, imports=args.imports, **options)


def _strip_arguments(parser):
    from keras_swapout.study.surgery.exports import FORMATS

    parser.description = (
        "Writes the network of a .keras file without any of our layers: it predicts the same and "
        "loads where keras-swapout is not installed. The new file is read again and compared, "
        "and so is every export."
    )
    _file_arguments(parser)
    add = parser.add_argument
    add(
        "--fold-batch-norm",
        action="store_true",
        help="multiply batch normalisations into the convolutions before them",
    )
    add(
        "--export",
        dest="exports",
        nargs="+",
        default=[],
        choices=FORMATS,
        metavar="FORMAT",
        help=f"write these beside it too: {', '.join(FORMATS)}",
    )


def _strip(args):
    from keras_swapout.study.surgery.strip import strip

    strip(out=args.out, imports=args.imports, **_given(args, "imports"))


# --- benchmark -----------------------------------------------------------------------------------


def _benchmark_arguments(parser):
    from keras_swapout.study import benchmark

    benchmark.add_arguments(parser)


def _benchmark(args):
    from keras_swapout.study import benchmark

    return benchmark.main(args)


COMMANDS: dict[str, Command] = {
    "pilot": Command("compare methods on your data", _pilot_arguments, _pilot),
    "tune": Command("find a method's probabilities on your data", _tune_arguments, _tune),
    "evaluate": Command("measure saved models on your data", _evaluate_arguments, _evaluate),
    "audit": Command("list labels of your data that may be wrong", _audit_arguments, _audit),
    "retrofit": Command("put layers into a saved network", _retrofit_arguments, _retrofit),
    "strip": Command("take them out again, and export", _strip_arguments, _strip),
    "benchmark": Command("time the layers on this machine", _benchmark_arguments, _benchmark),
}
