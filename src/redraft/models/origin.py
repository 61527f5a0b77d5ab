"""The origin of an engine's model: its checkpoint and what computes it, so that another can be told to be the same."""

from dataclasses import dataclass
from functools import cached_property

from redraft.kernels.library import status
from redraft.kernels.packed import Format
from redraft.kernels.triton.status import status as triton_status
from redraft.models.base import WindowPolicy
from redraft.models.checkpoint import Checkpoint
from redraft.models.choice import Choice
from redraft.models.digest import tokenizer_digest, weights_digest


@dataclass(frozen=True)
class Origin:
    """A call of ``redraft.load``, and the checkpoint that it found."""

    source: str
    """The bundled name, folder or hub id."""
    checkpoint: Checkpoint
    dtype: Format
    device: str
    prefill_chunk: int
    window_policy: WindowPolicy
    choice: Choice | None = None
    """The dtype with the reason for it; None where nobody chose."""

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the configuration and all weights; the first time, a large checkpoint is read through."""
        return weights_digest(self.checkpoint)

    @cached_property
    def tokenizer(self) -> str:
        """SHA-256 of the tokenizer."""
        return tokenizer_digest(self.checkpoint.path)

    @property
    def kernels(self) -> str:
        """The instruction set in use, "triton", or "torch" where there are no kernels for it."""
        if self.device == "cpu":
            return status().tier
        return "triton" if self.dtype in ("int8", "int4") and triton_status(self.device).used else "torch"
