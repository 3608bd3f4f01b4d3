"""One figure of a pilot as a PNG: python benchmarks/picture.py RESULTS.json FIGURE OUT.png"""

import json
import sys
from pathlib import Path

from keras_swapout.study.pilot.compare import compare
from keras_swapout.study.pilot.plots import FIGURES

source, figure, out = sys.argv[1:]
results = json.loads(Path(source).read_text())
FIGURES[figure](results, compare(results)).savefig(out, dpi=150, facecolor="white")
