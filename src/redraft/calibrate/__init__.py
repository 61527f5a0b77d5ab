"""Calibration: whether probabilities mean what they say, and the temperature that makes them do so.

``calibration`` measures distributions against the truth and fits a temperature; ``choice`` does both for ``choose``;
``plot`` draws the reliability diagram. It is below ``measure`` and needs matplotlib for the plot alone.
"""

from redraft.calibrate.calibration import Calibration, ReliabilityTable, fit_temperature
from redraft.calibrate.choice import ChoiceExample, Predictions, fit_choice_temperature, predict

__all__ = [
    "Calibration",
    "ChoiceExample",
    "Predictions",
    "ReliabilityTable",
    "fit_choice_temperature",
    "fit_temperature",
    "predict",
]
