"""What a search can ask for, measured on the validation images."""

from __future__ import annotations

import dataclasses

from keras_swapout.study.measuring.measure import Measure
from keras_swapout.study.pilot.measures import CONSISTENCY, MEASURES


def _on_validation(measure: Measure) -> Measure:
    title = measure.title.removeprefix("Test ")
    title = f"Validation {title[0].lower()}{title[1:]}"
    return dataclasses.replace(measure, title=title, path=measure.name)


def _chosen(measures, *names):
    return {m.name: _on_validation(m) for m in measures if m.name in names}


#: Of deterministic inference.
QUALITY = _chosen(MEASURES, "nll", "accuracy", "ece", "rmse", "mae")
#: R-Block's consistency: how far sub-models are from the network.
CONSISTENT = _chosen(CONSISTENCY, "two_way_kl", "disagreement")
OBJECTIVES = {**QUALITY, **CONSISTENT}
