"""More photographs than memory, trained on: `python benchmarks/streaming.py`.

20,000 JPEG photographs of 300 x 300 pixels (noise of low frequency), resized to 224 x 224, are 3.0
GB as arrays. Each row is a process of its own that loads them with `keras_swapout.datasets.load`
and trains a small network for one epoch, in batches of 64: "streamed", as they are for everybody,
first without the file that they are decoded to, then with it; "arrays", with them in memory. With a
limit, that of a control group (cgroup v1, so Linux and root), which "arrays" breaks; and without.
RssAnon is the peak of the process' own memory, without the pages of files, which the system takes
back when it needs them.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

SIDE, SIZE, BATCH = 300, 224, 64
GROUPS = Path("/sys/fs/cgroup/memory")


def photographs(folder: Path, count: int) -> None:
    """Two classes of JPEG files, one reddish and one bluish."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for number in range(count):
        label = number % 2
        pixels = rng.integers(0, 200, (8, 8, 3), np.uint8)
        pixels[..., 2 * label] += 55
        path = folder / "ab"[label] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(path)


def measure(way: str, folder: str) -> dict[str, float]:
    """One row, of this process."""
    import keras

    from keras_swapout import datasets
    from keras_swapout.datasets import photographs

    if way == "arrays":
        photographs.STREAMED = 2**60
    network = keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 3)),
            keras.layers.Conv2D(8, 7, 7, activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(2),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile("adam", loss)
    peak = Peak()
    empty = peak.gigabytes
    start = time.perf_counter()
    data = datasets.load(folder, batch_size=BATCH, image_size=SIZE)
    loaded = time.perf_counter()
    network.fit(data.train, shuffle=False, verbose=0)
    trained = time.perf_counter()
    steps = len(data.train)
    return {
        "seconds to load": loaded - start,
        "steps/s": steps / (trained - loaded),
        "GB before (RssAnon)": empty,
        "GB at most (RssAnon)": peak.gigabytes,
        "images": sum(data.info.sizes.values()),
    }


class Peak:
    """The most of this process' own memory, looked at 20 times a second."""

    def __init__(self):
        self.gigabytes = self._now()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self):
        while True:
            self.gigabytes = max(self.gigabytes, self._now())
            time.sleep(0.05)

    @staticmethod
    def _now():
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(re.search(r"RssAnon:\s+(\d+) kB", status)[1]) * 1024 / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--limit", type=float, default=1.5, help="of memory, in GB")
    parser.add_argument("--out", default="benchmarks/streaming.json")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)  # way, folder
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(*args.one)))
        return
    from keras_swapout.study.hardware import cpu_name

    result = {"images": args.count, "pixels": SIZE, "GB as arrays": args.count * SIZE**2 * 3 / 1e9}
    result |= {"batch": BATCH, "cpu": cpu_name(), "cores": os.cpu_count(), "rows": []}
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        photographs(Path(folder, "photographs"), args.count)
        print(f"made in {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
        for way, limit in (
            ("streamed", args.limit),
            ("streamed", args.limit),
            ("streamed", None),
            ("arrays", args.limit),
            ("arrays", None),
        ):
            row = {"way": way, "limit in GB": limit, **process(way, folder, limit)}
            print(json.dumps(row), file=sys.stderr, flush=True)
            result["rows"].append(row)
    text = json.dumps(result, indent=1)
    Path(args.out).write_text(text + "\n", encoding="utf-8")
    print(text)


def process(way: str, folder: str, limit: float | None) -> dict[str, object]:
    """A row, or how the process ended."""
    words = [sys.executable, __file__, "--one", way, str(Path(folder, "photographs"))]
    environment = {**os.environ, "KERAS_SWAPOUT_CACHE": str(Path(folder, way))}
    environment |= {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    group = GROUPS / f"streaming-{os.getpid()}"
    if limit is not None:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(int(limit * 1e9)))
        words = ["sh", "-c", f'echo $$ > {group}/cgroup.procs; exec "$@"', "sh", *words]
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    if limit is not None:
        group.rmdir()
    if done.returncode:
        return {
            "ended by": f"signal {-done.returncode}" if done.returncode < 0 else done.stderr[-500:]
        }
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
