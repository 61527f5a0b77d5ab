"""A layer around its attention, in two calls where there are kernels: one that leads to queries, keys and values, and
one that takes the attention's context to the layer's end. A canvas, which leaves nothing behind in the cache, goes
through all layers in one. Of a small model the calls cost as much as what they compute.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from redraft.kernels import bindings
from redraft.kernels.attention import attention_for_c
from redraft.kernels.elementwise import add_normed, split_heads
from redraft.kernels.experts import experts
from redraft.kernels.linear import Norm, check_width, linear
from redraft.kernels.packed import PackedMatrix
from redraft.layers.attention import Segment


class ScaledRows(NamedTuple):
    """Rows ``start`` to ``end`` of a layer, which are multiplied by ``scalar`` at its end."""

    start: int
    end: int
    scalar: float


@dataclass(frozen=True)
class PackedLayer:
    """The weights of one layer: matrices packed, all others float32 and contiguous."""

    qkv: PackedMatrix
    """[(heads + kv_heads [+ kv_heads]) * head_dim, hidden]: without a value projection the keys are the values."""
    o: PackedMatrix
    gate_up: PackedMatrix
    down: PackedMatrix
    router: PackedMatrix
    experts_gate_up: PackedMatrix
    experts_down: PackedMatrix
    heads: int
    kv_heads: int
    head_dim: int
    top_k: int
    epsilon: float
    """Of every norm."""
    dtype: torch.dtype
    """Of queries, keys and values: float32 or bfloat16."""
    input_norm: Tensor
    q_norm: Tensor
    k_norm: Tensor
    post_attention: Tensor
    dense_norm: Tensor
    experts_norm: Tensor
    post_dense: Tensor
    post_experts: Tensor
    post_feedforward: Tensor
    expert_scale: Tensor

    @property
    def values_are_keys(self) -> bool:
        """Whether there is no value projection."""
        return self.qkv.outputs == (self.heads + self.kv_heads) * self.head_dim

    def project(self, x: Tensor, rope: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Residual x [T, hidden] float32 and cosines and sines [T, head_dim / 2] -> queries [1, heads, T, head_dim],
        keys and values [1, kv_heads, T, head_dim]."""
        check_width(self.qkv, x)
        if bindings.kernels() is None:
            return self.project_by_parts(x, rope)
        count = len(x)
        cosines, sines = (part.contiguous() for part in rope)
        queries = torch.empty(1, self.heads, count, self.head_dim, dtype=self.dtype)
        keys, values = torch.empty(2, 1, self.kv_heads, count, self.head_dim, dtype=self.dtype)
        bindings.entry("redraft_project")(
            self.for_c, x.contiguous().data_ptr(), count, cosines.data_ptr(), sines.data_ptr(),
            queries.data_ptr(), keys.data_ptr(), values.data_ptr(),
        )  # fmt: skip
        return queries, keys, values

    def finish(self, x: Tensor, context: Tensor, rows: Sequence[ScaledRows]) -> None:
        """From the attention's context [T, heads * head_dim] on, in place on the residual x [T, hidden] (float32 and
        contiguous). Each row is one of ``rows``."""
        check_width(self.o, context)
        if bindings.kernels() is None:
            self.finish_by_parts(x, context, rows)
            return
        stretches = (bindings.CScaledRows * len(rows))(*(bindings.CScaledRows(*one) for one in rows))
        context = context.contiguous()
        bindings.entry("redraft_finish")(self.for_c, x.data_ptr(), len(x), context.data_ptr(), stretches, len(rows))

    def project_by_parts(self, x: Tensor, rope: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """``project``, a kernel or its twin after the other: what it means, and what it is without kernels."""
        projected = linear(self.qkv, x, Norm(self.input_norm, self.epsilon))
        queries, keys, rest = projected.tensor_split(
            (self.heads * self.head_dim, (self.heads + self.kv_heads) * self.head_dim), dim=1
        )
        values = keys if self.values_are_keys else rest
        return (
            split_heads(queries, self.head_dim, self.q_norm, self.epsilon, rope, self.dtype),
            split_heads(keys, self.head_dim, self.k_norm, self.epsilon, rope, self.dtype),
            split_heads(values, self.head_dim, None, self.epsilon, None, self.dtype),
        )

    def finish_by_parts(self, x: Tensor, context: Tensor, rows: Sequence[ScaledRows]) -> None:
        """``finish``, a kernel or its twin after the other."""
        epsilon = self.epsilon
        add_normed(x, linear(self.o, context), self.post_attention, epsilon)
        dense = linear(self.down, linear(self.gate_up, x, Norm(self.dense_norm, epsilon)))
        weights, chosen = route(linear(self.router, x, Norm(None, epsilon)), self.top_k, self.expert_scale)
        norm = Norm(self.experts_norm, epsilon)
        mixed = experts(self.experts_gate_up, self.experts_down, x, norm, weights, chosen)
        for start, end, scalar in rows:
            add_normed(
                x[start:end],
                dense[start:end],
                self.post_feedforward,
                epsilon,
                scalar,
                other=mixed[start:end],
                branch_weight=self.post_dense,
                other_weight=self.post_experts,
            )

    @cached_property
    def for_c(self) -> Any:
        """A pointer for C, good for as long as this object lives."""
        layer = bindings.CLayer(
            hidden=self.qkv.inputs,
            heads=self.heads,
            kv_heads=self.kv_heads,
            head_dim=self.head_dim,
            experts=self.router.outputs,
            top_k=self.top_k,
            values_are_keys=self.values_are_keys,
            kv_format=bindings.format_number(str(self.dtype).removeprefix("torch.")),
            epsilon=self.epsilon,
        )
        for name, _ in bindings.CLayer._fields_:
            given = getattr(self, name, None)
            if isinstance(given, PackedMatrix):
                setattr(layer, name, bindings.matrix(given))
            elif isinstance(given, Tensor):
                setattr(layer, name, given.data_ptr())
        return ctypes.pointer(layer)


class CanvasForward:
    """All layers over a canvas in one call, for every step of a canvas: what its context is does not change meanwhile.

    Only where there are kernels.
    """

    def __init__(
        self,
        layers: Sequence[PackedLayer],
        contexts: Sequence[Sequence[Segment]],
        ropes: Sequence[tuple[Tensor, Tensor]],
        scalars: Sequence[float],
        count: int,
    ) -> None:
        """``contexts``: what each layer sees of what was encoded before, masks [count, S] contiguous. ``ropes``:
        cosines and sines [count, head_dim / 2] of each layer. ``scalars``: what each is multiplied by at its end."""
        calls, kept = [], []
        for layer, context in zip(layers, contexts, strict=True):
            own = torch.empty(2, 1, layer.kv_heads, count, layer.head_dim, dtype=layer.dtype)
            queries = torch.empty(1, layer.heads, count, layer.head_dim, dtype=layer.dtype)
            out = bindings.floats(count, layer.heads * layer.head_dim)
            segments = [*context, Segment(own[0], own[1])]
            calls.append(attention_for_c(queries, segments, out))
            kept.append((queries, segments, out))
        turns = [(cosines.contiguous(), sines.contiguous()) for cosines, sines in ropes]
        pointers = ctypes.c_void_p * len(layers)
        self._count, self._width = count, layers[0].qkv.inputs
        self.parts = list(zip(layers, contexts, turns, scalars, strict=True))
        """Each layer, what it sees of the context, its cosines and sines, and its scalar."""
        self._kept = kept
        self._call = bindings.CCanvasForward(
            layers=len(layers),
            count=count,
            layer=(ctypes.POINTER(bindings.CLayer) * len(layers))(*(layer.for_c for layer in layers)),
            attention=(bindings.CAttention * len(calls))(*calls),
            cosines=pointers(*(cosines.data_ptr() for cosines, _ in turns)),
            sines=pointers(*(sines.data_ptr() for _, sines in turns)),
            scalars=(ctypes.c_float * len(layers))(*scalars),
        )

    def __call__(self, x: Tensor) -> None:
        """In place on the residual x [count, hidden], float32 and contiguous."""
        if x.shape != (self._count, self._width) or x.dtype != torch.float32 or not x.is_contiguous():
            raise ValueError(f"rows {[*x.shape]} {x.dtype} for a canvas of [{self._count}, {self._width}]")
        bindings.entry("redraft_denoise")(ctypes.byref(self._call), x.data_ptr())


def route(logits: Tensor, top_k: int, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Weights and experts [T, top_k] of each row of ``logits`` [T, experts]: the largest probabilities, made to add up
    to 1, times each expert's ``scale``. Of equal logits the lower expert goes first."""
    if top_k == logits.shape[-1]:
        return logits.softmax(-1) * scale, torch.arange(top_k).expand(logits.shape)
    chosen = logits.argsort(dim=-1, descending=True, stable=True)[:, :top_k]
    return logits.gather(1, chosen).softmax(-1) * scale[chosen], chosen
