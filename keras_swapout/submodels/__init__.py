"""Which sub-model of a network runs on which row of a batch.

views.py      how the rows of several views are laid out, and what layers ask about it
fork.py       `fork`: several views, with what they share computed once
trial.py      which layers draw without saying so, found by what they do
inside.py     the parts of a network; overrides.py, another `call` for some of them
sampling.py   the network with the masks of training, and everything else as at inference
"""

from keras_swapout.submodels import views
from keras_swapout.submodels.fork import fork

__all__ = ["fork", "views"]


def __dir__() -> list[str]:
    return __all__
