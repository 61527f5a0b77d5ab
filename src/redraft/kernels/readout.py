"""The fused readout: attention of the hidden states over the vocabulary, without its logits ever standing in memory."""

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor

from redraft.canvas.readout import Readout, VocabularyHead, check_classes, check_temperature
from redraft.canvas.token_classes import TokenClasses
from redraft.kernels import bindings
from redraft.kernels.linear import as_operand, check_width
from redraft.kernels.packed import PackedMatrix


@dataclass(frozen=True)
class PackedHead:
    """A packed embedding table with the soft cap of its logits and the scale of its embeddings.

    ``canvas.readout.VocabularyHead`` is the twin; this one draws in the same way, from the same uniforms.
    """

    table: PackedMatrix
    softcap: float
    embedding_scale: float

    def __post_init__(self) -> None:
        if self.table.format == "int4":
            raise ValueError("a vocabulary in int4 cannot be read; pack the embedding in int8")

    @torch.no_grad()
    def read(
        self,
        hidden: Tensor,
        temperature: float,
        uniforms: Tensor | None,
        *,
        signal: bool = True,
        top_k: int = 0,
        classes: TokenClasses | None = None,
    ) -> Readout:
        """Read softmax(softcap(hidden @ table^T) / temperature) at each position; see ``VocabularyHead.read``."""
        check_width(self.table, hidden)
        if uniforms is not None and uniforms.shape != (len(hidden),):
            raise ValueError(f"uniforms {[*uniforms.shape]} must be [{len(hidden)}]")
        check_classes(classes, self.table.outputs)
        if bindings.kernels() is None or classes is not None:
            return self._twin().read(
                self._as_operand(hidden), temperature, uniforms, signal=signal, top_k=top_k, classes=classes
            )
        check_temperature(temperature, self.softcap)
        count, vocabulary = len(hidden), self.table.outputs
        top_k = min(top_k, vocabulary)
        hidden = hidden.float().contiguous()
        uniforms = None if uniforms is None else uniforms.double().contiguous()
        argmax, sample = torch.empty(2, count, dtype=torch.int64)
        entropy, confidence = torch.empty(2, count)
        mean = torch.empty(hidden.shape) if signal else None
        top_ids = torch.empty(count, top_k, dtype=torch.int64) if top_k else None
        top_logprobs = torch.empty(count, top_k) if top_k else None
        matrix = bindings.matrix(self.table)
        call = bindings.CReadout(
            rows=count,
            hidden=hidden.data_ptr(),
            table=ctypes.pointer(matrix),
            softcap=self.softcap,
            temperature=temperature,
            embedding_scale=self.embedding_scale,
            top_k=top_k,
            uniforms=bindings.pointer(uniforms),
            classes=None,
            class_count=0,
            argmax=argmax.data_ptr(),
            sample=sample.data_ptr(),
            entropy=entropy.data_ptr(),
            confidence=confidence.data_ptr(),
            signal=bindings.pointer(mean),
            top_ids=bindings.pointer(top_ids),
            top_logprobs=bindings.pointer(top_logprobs),
        )
        bindings.entry("redraft_readout")(ctypes.byref(call))
        return Readout(argmax, sample, entropy, confidence, mean, top_ids, top_logprobs)

    def _twin(self) -> VocabularyHead:
        return VocabularyHead(self.table.weight[0], self.softcap, self.embedding_scale)

    def _as_operand(self, hidden: Tensor) -> Tensor:
        return as_operand(hidden.float() / self.softcap, self.table.format) * self.softcap
