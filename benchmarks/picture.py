"""One figure of a pilot as a PNG: python benchmarks/picture.py RESULTS.json FIGURE OUT.png

    python benchmarks/picture.py docs/pilot-digits/results.json seeds docs/pilot-digits/seeds.png

draws the README's. FIGURE is "seeds", or of the labels as they are one of `FIGURES`.
"""

import json
import sys
from pathlib import Path

from keras_swapout.study.pilot import plots
from keras_swapout.study.pilot.compare import compare

figures = {"seeds": plots.seeds, **plots.FIGURES}
if len(sys.argv) != 4 or sys.argv[2] not in figures:
    sys.exit(f"{__doc__}\nFIGURE: {', '.join(figures)}")
source, figure, out = sys.argv[1:]
results = json.loads(Path(source).read_text(encoding="utf-8"))
if figure != "seeds":
    results["runs"] = [run for run in results["runs"] if not run.get("noise")]
drawn = figures[figure](results, compare(results))
if drawn is None:
    sys.exit(f"{source} has nothing to draw for {figure}")
drawn.savefig(out, dpi=150, facecolor="white")
