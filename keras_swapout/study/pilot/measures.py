"""What a pilot measures. To add a measure, enter it in `MEASURES`."""

from __future__ import annotations

from keras_swapout.study.measuring.measure import Measure

# The first one decides the overall answer.
MEASURES = (
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
        note="a smaller gap alone is no gain: it also shrinks when training accuracy falls",
    ),
)
PRIMARY = MEASURES[0]
