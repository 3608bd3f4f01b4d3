"""What the methods gain where labels are wrong, and who finds the wrong ones.

    python benchmarks/wrong_labels.py [--cells CELL ...] [--methods METHOD ...] [--seeds N]
        [--jobs N | --scheduler ADDRESS] [--out docs/wrong-labels]

A cell is a set and a noise: "digits/uniform0.3". A run is a cell, a method and a seed; each is kept
as a file under `--out` as soon as it is there, and never made again. Everything is reported on test
images with right labels; nothing is chosen by them. Needs `pip install keras-swapout[pilot,elpv]`,
CIFAR-10 as TensorFlow Datasets has it, its labels by people (CIFAR-10N) in the .npz that $CIFAR10N
names, and, for the lists that it makes, cleanlab 2.9.
"""

from __future__ import annotations

import argparse
import functools
import time
from pathlib import Path
from typing import Any

from keras_swapout.study import store
from keras_swapout.study.executors import Place, completed

FOLDS = 5
#: The cells that decide, and how many seeds.
CELLS = {
    "digits/none": 5,
    "digits/uniform0.3": 5,
    "elpv/none": 8,
    "elpv/uniform0.25": 8,
    "cifar10-3000/none": 5,
    "cifar10-3000/worst": 5,
}
METHODS = ("plain", "rblock@3", "rblock@10", "gjs@0.5@3")
WIDTH = {"cifar10": 2}  # of the network, where it is not 1


def run_one(spec: dict) -> dict:
    """Does a run, {"cell", "method", "seed"}, in any process; the spec and what is found."""
    from labels.sets import load
    from labels.training import folds

    name, _, noise = spec["cell"].partition("/")
    width = WIDTH.get(name.partition("-")[0], 1)
    start = time.perf_counter()
    if spec["method"].startswith("folds"):
        plain = spec["method"].replace("folds", "plain")
        found = folds(load(name), plain, width, noise, spec["seed"], FOLDS)
    else:
        found = _trained(name, spec["method"], width).run(noise, spec["seed"])
    return {**spec, **found, "took": time.perf_counter() - start}


@functools.lru_cache(8)
def _trained(name, method, width):
    from labels.sets import load
    from labels.training import Trained

    data = load(name)
    return Trained(data, method, width, len(data.train.labels))


def short(value: Any) -> Any:
    """The same with five digits of each number."""
    if isinstance(value, dict):
        return {key: short(v) for key, v in value.items()}
    if isinstance(value, list):
        return [short(v) for v in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def path_of(out: Path, spec: dict) -> Path:
    """Where a run is kept."""
    name, _, noise = spec["cell"].partition("/")
    return out / "runs" / f"{name}-{noise}-{spec['method']}-seed{spec['seed']}.json"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cells", nargs="+", default=list(CELLS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--seeds", type=int, help="default: five, eight of elpv")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--scheduler")
    parser.add_argument("--out", type=Path, default=Path("docs/wrong-labels"))
    parser.add_argument("--report", action="store_true", help="make no runs")
    args = parser.parse_args()
    (args.out / "runs").mkdir(parents=True, exist_ok=True)
    specs = [
        {"cell": cell, "method": method, "seed": seed}
        for cell in args.cells
        for method in args.methods
        for seed in range(args.seeds or (8 if cell.startswith("elpv") else 5))
    ]
    missing = [spec for spec in specs if not path_of(args.out, spec).exists()]
    place = Place(None if args.scheduler else args.jobs, args.scheduler)
    values = [] if args.report else [(number, spec) for number, spec in enumerate(missing)]
    start = time.perf_counter()
    for done, (number, run) in enumerate(completed(place, run_one, values), 1):
        spec = missing[number]
        store.write_json(path_of(args.out, spec), short(run))
        left = (time.perf_counter() - start) / done * (len(missing) - done) / 60
        test = f", test {run['test']['accuracy']:.1%}" if "test" in run else ""
        print(
            f"[{done}/{len(missing)}] {spec['cell']} {spec['method']} seed {spec['seed']}{test}, "
            f"{run['took']:.0f} s; about {left:.0f} minute(s) to go",
            flush=True,
        )
    from labels.report import write

    write(args.out)


if __name__ == "__main__":
    main()
