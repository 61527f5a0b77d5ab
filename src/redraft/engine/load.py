"""``redraft.load``: from a name to an engine."""

from pathlib import Path

from redraft.engine.engine import Engine
from redraft.models import checkpoint
from redraft.models.checkpoint import DType
from redraft.models.diffusion_gemma import WindowPolicy
from redraft.models.tokenizer import ChatTokenizer


def load(
    source: str | Path,
    *,
    dtype: DType = "auto",
    device: str = "cpu",
    prefill_chunk: int = 256,
    window_policy: WindowPolicy = "shared",
) -> Engine:
    """Load a checkpoint: a bundled name ("sudoku"), a folder, or a hub id.

    dtype: "float32", "bfloat16", or "auto", which is float32 for models below half a billion parameters and what the
    checkpoint stores for larger ones. device: any torch device. prefill_chunk: prompt positions encoded in one
    forward. window_policy: what sliding layers show a canvas of a context longer than their window, see
    ``DiffusionGemma``.

    Raises CheckpointError saying what is missing, damaged or not supported.
    """
    found = checkpoint.read(checkpoint.find(source))
    tokenizer = ChatTokenizer.from_folder(found.folder)
    return Engine(found.load(dtype, window_policy).to(device), tokenizer, prefill_chunk)
