"""The pilot: does a method help on this data? Measured, with equal budgets and several seeds.

settings.py     what to run, the defaults for each data set
methods.py      the methods: the only place to add one
data.py         images as every run sees them, corrupted ones included
training.py     one method's network, compiled once, trained afresh for each seed
timing.py       step and inference time, methods interleaved
progress.py     what the terminal shows
run.py          the loop; runs.py, where a run is kept and what it has to hold
measures.py     which numbers are compared: the only place to add one
inference.py    each method's ways of predicting, and what recalibration gains
agreement.py    what R-Block claims
compare.py      every method against plain; verdicts.py says it in sentences
report.py       the table and the page; plots.py, its figures
"""

from keras_swapout.study.pilot.run import run_pilot
from keras_swapout.study.pilot.settings import Settings, make_settings, read_settings

__all__ = ["Settings", "make_settings", "read_settings", "run_pilot"]
