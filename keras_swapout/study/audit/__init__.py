"""The audit: which labels of this data may be wrong? One training tells, or one for each fold.

data.py     all samples in one order, with their files, and folds of them
work.py     one training as a plain value that any process can do, and its predictions
run.py      the loop; the tables, and the copies
report.py   the page; brief.py, the answer
"""

from keras_swapout.study.audit.run import EPOCHS, METHOD, make_settings, run_audit

__all__ = ["EPOCHS", "METHOD", "make_settings", "run_audit"]
