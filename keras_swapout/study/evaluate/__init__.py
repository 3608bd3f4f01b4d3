"""How good a trained model is, in each way of predicting with it: the command `evaluate`.

options.py      what to measure, and the checks of it
data.py         the images, clean, corrupted, scaled
measures.py     what is measured of a prediction: the only place to add a measure
parts.py        what is finished
run.py          the loop
compare.py      ways against deterministic, models against the first
report.py       the table and the page
"""

from keras_swapout.study.evaluate.options import Options
from keras_swapout.study.evaluate.run import evaluate

__all__ = ["Options", "evaluate"]
