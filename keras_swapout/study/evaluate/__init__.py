"""How good a trained model is, in each way of predicting with it: the command `evaluate`.

options.py      what to measure, and the checks of it
data.py         the images, clean, corrupted, scaled
measures.py     what is measured of a prediction: the only place to add a measure
parts.py        what is finished
progress.py     what the terminal shows
run.py          the loop
statistics.py   Welch, Student and Holm
compare.py      ways against deterministic, models against the first; verdicts.py, in sentences
report.py       the table and the page; plots.py, its figures
drawing.py      what figures are drawn with, and page.py what pages are made of: the pilot's too
"""

from keras_swapout.study.evaluate.options import Options
from keras_swapout.study.evaluate.run import evaluate

__all__ = ["Options", "evaluate"]
