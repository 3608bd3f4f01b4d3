"""The random field through dieharder: a standard battery of tests of randomness.

    python benchmarks/battery.py [--jobs 2] [--out docs/battery.md] [--tests 0 1 2 ...]

Needs Debian's `dieharder` and NumPy, no Keras backend. The field is read in the three orders in
which a network reads it:

    key      one long run of a single key
    steps    one layer, a new key every step, 16,384 words a step
    layers   sixteen layers of one step, word by word in turn, then the next step

Every test reads each order from its beginning. dieharder calls a test WEAK when its p-value is
outside [0.005, 0.995], which one test in a hundred is by chance, and FAILED when p < 1e-6. A WEAK
result is looked at again by dieharder itself, which adds samples until it is clear (`-Y 1`): the
rows with more p-samples. A full run takes hours of processor time: it is not part of the tests.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import numpy as np

ORDERS = ("key", "steps", "layers")
STEP = 1 << 14
CHUNK = 1 << 16
# The tests that take a size: which sizes to run.
SIZES = {200: range(1, 13), 201: range(2, 6), 202: range(2, 6), 203: (0, 1, 3, 7, 15, 31)}


def stream(order: str) -> Iterator[np.ndarray]:
    """Chunks of the field's words, without end."""
    from keras_swapout.random import words

    step = 0
    while True:
        if order == "key":
            for offset in range(0, 1 << 32, CHUNK):
                yield words([1, step], (CHUNK,), offset=offset, ops=np)
            step += 1  # a key is good for 2**32 words
        elif order == "steps":
            yield words([1, step], (STEP,), ops=np)
            step += 1
        else:
            yield np.stack([words([s, step], (STEP,), ops=np) for s in range(16)], axis=1).ravel()
            step += 1


def run_test(order: str, test: int, size: int | None) -> list[tuple[str, ...]]:
    source = subprocess.Popen([sys.executable, __file__, "--stream", order], stdout=subprocess.PIPE)
    command = ["dieharder", "-g", "200", "-d", str(test), "-Y", "1", "-k", "2"]
    if size is not None:
        command += ["-n", str(size)]
    result = subprocess.run(command, stdin=source.stdout, capture_output=True, text=True)
    source.stdout.close()
    source.kill()
    source.wait()
    rows = re.findall(
        r"^\s*(\S+)\|\s*(\d+)\|\s*(\d+)\|\s*(\d+)\|\s*([\d.]+)\|\s*(\w+)", result.stdout, re.M
    )
    if not rows:
        raise RuntimeError(f"dieharder -d {test} printed no result: {result.stderr[-500:]}")
    return [(order, *row) for row in rows]


def known_tests() -> list[int]:
    listing = subprocess.run(["dieharder", "-l"], capture_output=True, text=True).stdout
    # dieharder itself marks 5, 6, 7 and 14 as suspect or not to be used.
    return [int(n) for n in re.findall(r"-d (\d+)\s.*\sGood\s*$", listing, re.M)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument(
        "--tests", type=int, nargs="+", help="numbers of dieharder -l; default: all good"
    )
    parser.add_argument("--orders", nargs="+", choices=ORDERS, default=list(ORDERS))
    parser.add_argument("--out", type=Path, help="write the table there, as Markdown")
    parser.add_argument("--stream", choices=ORDERS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stream:
        try:
            for chunk in stream(arguments.stream):
                sys.stdout.buffer.write(chunk.astype("<u4").tobytes())
        except BrokenPipeError:
            os._exit(0)

    began = time.time()
    tests = arguments.tests or known_tests()
    jobs = [
        (order, test, size)
        for test in reversed(tests)
        for size in SIZES.get(test, (None,))
        for order in arguments.orders
    ]
    rows = []
    with ThreadPoolExecutor(arguments.jobs) as pool:
        futures = {pool.submit(run_test, *job): job for job in jobs}
        for done, future in enumerate(as_completed(futures), 1):
            rows += future.result()
            worst = min((row[-1] for row in rows), key=["FAILED", "WEAK", "PASSED"].index)
            print(f"{done}/{len(jobs)} {futures[future]} so far: {worst}", flush=True)
            if arguments.out:
                write(arguments.out, sorted(rows), tests, time.time() - began)
    failed = [row for row in rows if row[-1] == "FAILED"]
    print(f"{len(rows)} results, {len(failed)} failed, {sum(r[-1] == 'WEAK' for r in rows)} weak")
    sys.exit(bool(failed))


def write(out: Path, rows: list[tuple[str, ...]], tests: list[int], seconds: float) -> None:
    count = {
        verdict: sum(row[-1] == verdict for row in rows) for verdict in ("PASSED", "WEAK", "FAILED")
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        "# The random field through dieharder",
        "",
        f"`python benchmarks/battery.py`: {len(rows)} results of {len(tests)} tests in the orders "
        f"{', '.join(ORDERS)}: **{count['FAILED']} failed**, {count['WEAK']} weak, "
        f"{count['PASSED']} passed, in {seconds / 60:.0f} minutes on {os.cpu_count()} cores "
        f"({platform.machine()}, NumPy {np.__version__}).",
        "",
        *(__doc__.strip().splitlines()[4:]),
        "",
        "| order | test | ntuple | t-samples | p-samples | p | |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *("| " + " | ".join(row) + " |" for row in rows),
        "",
    ]
    out.write_text("\n".join(lines))


if __name__ == "__main__":
    main()
