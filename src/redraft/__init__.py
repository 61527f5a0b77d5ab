"""Redraft: run, serve, constrain and train block-diffusion language models on the machine you have.

engine = redraft.load("sudoku")
out = engine.generate([{"role": "user", "content": "53..7....6..195....98....6.8..."}], seed=7)
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from redraft.api import Engine, Generation
    from redraft.batching.run import BatchSummary, batch
    from redraft.calibrate.choice import ChoiceExample, fit_choice_temperature
    from redraft.canvas.acceptance import AcceptanceRule, AcceptanceView, ConfidenceThreshold, EntropyBound
    from redraft.canvas.draft import Draft
    from redraft.canvas.stopping import ReproducesCanvas, StableAndConfident, StoppingRule, StoppingView
    from redraft.constrain.constraint import Choice, JSONSchema, Regex, Template
    from redraft.constrain.language.template import Hole
    from redraft.engine.result import Chunk, Result, StepEvent, TokenLogprob, Usage
    from redraft.engine.verify import Candidate
    from redraft.errors import (
        BatchError,
        CheckpointError,
        ConstraintError,
        DeadlineError,
        GenerationError,
        RecordingError,
        RedraftError,
        RequestError,
        RoomError,
    )
    from redraft.loading import load
    from redraft.measure.plan import Plan, plan
    from redraft.measure.tune.recipe import read_recipe
    from redraft.models.checkpoint import save_choice_temperature
    from redraft.models.tools import ToolCall
    from redraft.record.recorder import RecordingFolder
    from redraft.record.recording import Recording
    from redraft.record.replay import replay
    from redraft.tasks.choose import ChooseResult, Decision
    from redraft.tasks.edit import EditResult
    from redraft.tasks.extract import Extraction
    from redraft.tasks.fill import FillResult
    from redraft.tasks.score import ScoreResult

    __version__: str

__all__ = [
    "AcceptanceRule",
    "AcceptanceView",
    "BatchError",
    "BatchSummary",
    "Candidate",
    "CheckpointError",
    "Choice",
    "ChoiceExample",
    "ChooseResult",
    "Chunk",
    "ConfidenceThreshold",
    "ConstraintError",
    "DeadlineError",
    "Decision",
    "Draft",
    "EditResult",
    "Engine",
    "EntropyBound",
    "Extraction",
    "FillResult",
    "Generation",
    "GenerationError",
    "Hole",
    "JSONSchema",
    "Plan",
    "Recording",
    "RecordingError",
    "RecordingFolder",
    "RedraftError",
    "Regex",
    "ReproducesCanvas",
    "RequestError",
    "Result",
    "RoomError",
    "ScoreResult",
    "StableAndConfident",
    "StepEvent",
    "StoppingRule",
    "StoppingView",
    "Template",
    "TokenLogprob",
    "ToolCall",
    "Usage",
    "batch",
    "fit_choice_temperature",
    "load",
    "plan",
    "read_recipe",
    "replay",
    "save_choice_temperature",
]

# Where each public name lives. Looked up when it is first asked for: torch takes seconds to import, and
# `redraft --help` and the errors do without it.
_PUBLIC = {
    "redraft.api": ("Engine", "Generation"),
    "redraft.batching.run": ("BatchSummary", "batch"),
    "redraft.calibrate.choice": ("ChoiceExample", "fit_choice_temperature"),
    "redraft.canvas.acceptance": ("AcceptanceRule", "AcceptanceView", "ConfidenceThreshold", "EntropyBound"),
    "redraft.canvas.draft": ("Draft",),
    "redraft.canvas.stopping": ("ReproducesCanvas", "StableAndConfident", "StoppingRule", "StoppingView"),
    "redraft.constrain.constraint": ("Choice", "JSONSchema", "Regex", "Template"),
    "redraft.constrain.language.template": ("Hole",),
    "redraft.engine.result": ("Chunk", "Result", "StepEvent", "TokenLogprob", "Usage"),
    "redraft.engine.verify": ("Candidate",),
    "redraft.errors": (
        *("BatchError", "CheckpointError", "ConstraintError", "DeadlineError", "GenerationError"),
        *("RecordingError", "RedraftError", "RequestError", "RoomError"),
    ),
    "redraft.loading": ("load",),
    "redraft.measure.plan": ("Plan", "plan"),
    "redraft.measure.tune.recipe": ("read_recipe",),
    "redraft.models.checkpoint": ("save_choice_temperature",),
    "redraft.models.tools": ("ToolCall",),
    "redraft.record.recorder": ("RecordingFolder",),
    "redraft.record.recording": ("Recording",),
    "redraft.record.replay": ("replay",),
    "redraft.tasks.choose": ("ChooseResult", "Decision"),
    "redraft.tasks.edit": ("EditResult",),
    "redraft.tasks.extract": ("Extraction",),
    "redraft.tasks.fill": ("FillResult",),
    "redraft.tasks.score": ("ScoreResult",),
}
_HOME = {name: module for module, names in _PUBLIC.items() for name in names}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return version("redraft")
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'redraft' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
