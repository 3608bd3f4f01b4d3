"""Stochastic regularisation layers."""

from keras_swapout.layers.swapout import ResidualDropout, SkipForward, StochasticDepth, Swapout

__all__ = ["ResidualDropout", "SkipForward", "StochasticDepth", "Swapout"]
