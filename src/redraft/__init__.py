"""Redraft: run, serve, constrain and fine-tune block-diffusion language models on the machine you have."""

from typing import TYPE_CHECKING, Any

from redraft.errors import (
    CheckpointError,
    ConstraintError,
    GenerationError,
    RecordingError,
    RedraftError,
    RequestError,
)

if TYPE_CHECKING:
    from redraft.api import Engine
    from redraft.calibrate.choice import ChoiceExample, fit_choice_temperature
    from redraft.canvas.acceptance import ConfidenceThreshold, EntropyBound
    from redraft.canvas.stopping import ReproducesCanvas, StableAndConfident
    from redraft.constrain.constraint import Choice, Hole, JSONSchema, Regex, Template
    from redraft.engine.generation import Generation
    from redraft.engine.request import Draft
    from redraft.engine.result import Chunk, Result, StepEvent, TokenLogprob, Usage
    from redraft.engine.verify import Candidate
    from redraft.loading import load
    from redraft.models.checkpoint import save_choice_temperature
    from redraft.record.recorder import RecordingFolder
    from redraft.record.recording import Recording
    from redraft.record.replay import replay

__all__ = [
    "Candidate",
    "CheckpointError",
    "Choice",
    "ChoiceExample",
    "Chunk",
    "ConfidenceThreshold",
    "ConstraintError",
    "Draft",
    "Engine",
    "EntropyBound",
    "Generation",
    "GenerationError",
    "Hole",
    "JSONSchema",
    "Recording",
    "RecordingError",
    "RecordingFolder",
    "RedraftError",
    "Regex",
    "ReproducesCanvas",
    "RequestError",
    "Result",
    "StableAndConfident",
    "StepEvent",
    "Template",
    "TokenLogprob",
    "Usage",
    "fit_choice_temperature",
    "load",
    "replay",
    "save_choice_temperature",
]

_LAZY = {
    "Candidate": "redraft.engine.verify",
    "Draft": "redraft.engine.request",
    "Engine": "redraft.api",
    "Generation": "redraft.engine.generation",
    "load": "redraft.loading",
    "save_choice_temperature": "redraft.models.checkpoint",
    **dict.fromkeys(("ChoiceExample", "fit_choice_temperature"), "redraft.calibrate.choice"),
    "Recording": "redraft.record.recording",
    "RecordingFolder": "redraft.record.recorder",
    "replay": "redraft.record.replay",
    **dict.fromkeys(("ConfidenceThreshold", "EntropyBound"), "redraft.canvas.acceptance"),
    **dict.fromkeys(("ReproducesCanvas", "StableAndConfident"), "redraft.canvas.stopping"),
    **dict.fromkeys(("Choice", "Hole", "JSONSchema", "Regex", "Template"), "redraft.constrain.constraint"),
    **dict.fromkeys(("Chunk", "Result", "StepEvent", "TokenLogprob", "Usage"), "redraft.engine.result"),
}


def __getattr__(name: str) -> Any:
    # torch takes seconds to import; `redraft --help` and the errors do without it.
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'redraft' has no attribute {name!r}")
