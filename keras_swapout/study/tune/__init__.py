"""`keras-swapout tune`: a method's numbers by KerasTuner, and whether that was worth it.

space.py says what is searched, search.py runs the trials, run.py the whole; sensitivity.py and
gain.py read the results, report.py shows them.
"""

from keras_swapout.study.tune.run import run_tune
from keras_swapout.study.tune.settings import make_settings

__all__ = ["make_settings", "run_tune"]
