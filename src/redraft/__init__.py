"""Redraft: run, serve, constrain and fine-tune block-diffusion language models on the machine you have."""

from typing import TYPE_CHECKING, Any

from redraft.errors import CheckpointError, GenerationError, RedraftError, RequestError

if TYPE_CHECKING:
    from redraft.canvas.acceptance import ConfidenceThreshold, EntropyBound
    from redraft.canvas.stopping import ReproducesCanvas, StableAndConfident
    from redraft.engine.engine import Engine
    from redraft.engine.load import load
    from redraft.engine.result import Chunk, Result, StepEvent, Usage

__all__ = [
    "CheckpointError",
    "Chunk",
    "ConfidenceThreshold",
    "Engine",
    "EntropyBound",
    "GenerationError",
    "RedraftError",
    "ReproducesCanvas",
    "RequestError",
    "Result",
    "StableAndConfident",
    "StepEvent",
    "Usage",
    "load",
]

_LAZY = {
    "Engine": "redraft.engine.engine",
    "load": "redraft.engine.load",
    **dict.fromkeys(("ConfidenceThreshold", "EntropyBound"), "redraft.canvas.acceptance"),
    **dict.fromkeys(("ReproducesCanvas", "StableAndConfident"), "redraft.canvas.stopping"),
    **dict.fromkeys(("Chunk", "Result", "StepEvent", "Usage"), "redraft.engine.result"),
}


def __getattr__(name: str) -> Any:
    # torch takes seconds to import; `redraft --help` and the errors do without it.
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'redraft' has no attribute {name!r}")
