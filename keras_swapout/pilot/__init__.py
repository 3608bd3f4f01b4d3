"""The pilot: does a method help on this data? Measured, with equal budgets and several seeds.

settings.py     what to run, the defaults for each data set, what may change in an old --out
methods.py      the methods: the only place to add one
data.py         images as every run sees them, corrupted ones included
training.py     one method's network, compiled once, trained afresh for each seed
measure.py      accuracy, likelihood, calibration, as functions of logits
timing.py       step and inference time, methods interleaved
store.py        files that survive an interruption
progress.py     what the terminal shows
run.py          the loop
compare.py      statistics and verdicts; report.py, the table and the page
"""

from keras_swapout.pilot.run import run_pilot
from keras_swapout.pilot.settings import Settings, make_settings

__all__ = ["Settings", "make_settings", "run_pilot"]
