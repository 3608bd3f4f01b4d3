"""What a pilot measures. To add a measure, enter it in `MEASURES`."""

from __future__ import annotations

from keras_swapout.study.measuring.measure import Measure

#: Of the test images at most, for what takes dozens of passes.
SAMPLED_IMAGES = 2000

# The first one that there is decides the overall answer.
MEASURES = (
    # Where a class has most of the samples.
    Measure(
        "balanced_accuracy", "Balanced test accuracy", "test.balanced_accuracy", unit="%", digits=1
    ),
    Measure("auroc", "AUROC", "test.auroc", digits=3),
    Measure("accuracy", "Test accuracy", "test.accuracy", unit="%", digits=1),
    Measure("nll", "Negative log likelihood", "test.nll", higher_is_better=False),
    Measure(
        "ece",
        "Expected calibration error",
        "test.ece",
        higher_is_better=False,
        unit="%",
        digits=1,
    ),
    Measure(
        "corruption_accuracy",
        "Accuracy under corruption",
        "corruption_accuracy",
        unit="%",
        digits=1,
    ),
    Measure(
        "gap",
        "Generalisation gap",
        "train.accuracy",
        minus="test.accuracy",
        higher_is_better=False,
        unit="%",
        digits=1,
        terminal=False,
        caveat="a smaller gap alone is no gain: it also shrinks when training accuracy falls",
    ),
    # Of numbers to predict.
    Measure(
        "rmse",
        "Test error",
        "test.rmse",
        higher_is_better=False,
        note="root of the mean squared error, in the units of the labels",
    ),
    Measure(
        "mae",
        "Mean absolute error",
        "test.mae",
        higher_is_better=False,
        note="in the units of the labels",
    ),
    Measure("corruption_rmse", "Error under corruption", "corruption_rmse", higher_is_better=False),
    Measure(
        "error_gap",
        "Generalisation gap in error",
        "test.rmse",
        minus="train.rmse",
        higher_is_better=False,
        terminal=False,
        caveat="a smaller gap alone is no gain: it also shrinks when the training error grows",
    ),
)
#: Of classes, and of numbers: what a method is for.
PRIMARY = ("balanced_accuracy", "accuracy", "rmse")

#: How far sub-models are from the network, and training from inference.
CONSISTENCY = (
    Measure(
        "two_way_kl",
        "Sub-model divergence",
        "consistency.two_way_kl",
        higher_is_better=False,
        note="mean two-way KL between a sub-model's prediction and the network's, in nats",
    ),
    Measure(
        "disagreement",
        "Sub-model disagreement",
        "consistency.disagreement",
        higher_is_better=False,
        unit="%",
        digits=1,
        note="share of test images on which a sub-model predicts another class than the network",
    ),
    Measure(
        "spread",
        "Sub-model spread",
        "consistency.spread",
        higher_is_better=False,
        unit="%",
        digits=2,
        note="standard deviation of a class's probability over sub-models, on average",
    ),
    Measure(
        "accuracy_gap",
        "Training gap in accuracy",
        "consistency.accuracy_gap",
        higher_is_better=False,
        unit="%",
        digits=1,
        note="difference between training mode and inference, on the same test images",
    ),
    Measure(
        "loss_gap",
        "Training gap in loss",
        "consistency.loss_gap",
        higher_is_better=False,
        note="likewise, in nats",
    ),
)
