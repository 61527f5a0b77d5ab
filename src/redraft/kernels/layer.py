"""A layer around its attention, in two calls where there are kernels: one that leads to queries, keys and values, and
one that takes the attention's context to the layer's end. ``forward`` goes through all layers in one.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from redraft.kernels import bindings, device, interface
from redraft.kernels.elementwise import add_normed, split_heads
from redraft.kernels.experts import experts
from redraft.kernels.linear import check_width, linear
from redraft.kernels.norm import Norm
from redraft.kernels.packed import PackedMatrix


class ScaledRows(NamedTuple):
    """Rows ``start`` to ``end`` of a layer, which are multiplied by ``scalar`` at its end."""

    start: int
    end: int
    scalar: float


@dataclass(frozen=True)
class PackedLayer:
    """The weights of one layer: matrices packed, all others float32 and contiguous. What is None is left out."""

    qkv: PackedMatrix
    """[(heads + kv_heads [+ kv_heads]) * head_dim, hidden]: without a value projection the keys are the values."""
    o: PackedMatrix
    gate_up: PackedMatrix
    """The gate and up projections of the dense branch, with its activation."""
    down: PackedMatrix
    heads: int
    kv_heads: int
    head_dim: int
    epsilon: float
    """The epsilon of every norm."""
    dtype: torch.dtype
    """The dtype of queries, keys and values: float32 or bfloat16."""
    attention_scale: float = 1.0
    """The factor that queries are multiplied by after their rotation."""
    input_norm: Tensor | None = None
    """[hidden]: of the rows that are projected."""
    q_norm: Tensor | None = None
    """[head_dim]: of each head of the queries."""
    k_norm: Tensor | None = None
    v_norm: bool = False
    """True if each head of the values is normed, by a norm that has no weight."""
    post_attention: Tensor | None = None
    """[hidden]: of what attention adds to the residual."""
    dense_norm: Tensor | None = None
    """[hidden]: of the rows that the dense branch takes."""
    post_feedforward: Tensor | None = None
    """[hidden]: of what the dense branch, or it and the experts together, add to the residual."""
    router: PackedMatrix | None = None
    """[experts, hidden], of rows normed without a weight; None, as all that follows, of a layer without experts."""
    experts_gate_up: PackedMatrix | None = None
    experts_down: PackedMatrix | None = None
    top_k: int = 0
    """Experts of each row."""
    expert_scale: Tensor | None = None
    """[experts]: what each one's share is multiplied by."""
    experts_norm: Tensor | None = None
    """[hidden]: of the rows that experts take."""
    post_dense: Tensor | None = None
    """[hidden]: of the dense branch, before the experts' is added."""
    post_experts: Tensor | None = None
    """[hidden]: of the experts' branch, before it is added."""

    def __post_init__(self) -> None:
        parts = {
            "router": self.router,
            "experts_gate_up": self.experts_gate_up,
            "experts_down": self.experts_down,
            "expert_scale": self.expert_scale,
        }
        missing = [name for name, part in parts.items() if part is None]
        if missing and (len(missing) < len(parts) or self.top_k or self.post_dense is not None):
            raise ValueError(f"a layer with experts lacks {', '.join(missing)}")

    @property
    def values_are_keys(self) -> bool:
        """True if there is no value projection."""
        return self.qkv.outputs == (self.heads + self.kv_heads) * self.head_dim

    def project(
        self, x: Tensor, rope: tuple[Tensor, Tensor], positions: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The residual x [T, hidden] float32 -> queries [1, heads, T, head_dim], keys and values of kv_heads heads.

        ``rope``: cosines and sines [P, head_dim / 2], a table whose row for each row of x stands in ``positions`` [T]
        int64; without them P is T.
        """
        check_width(self.qkv, x)
        if not bindings.compute(x):
            if x.device.type == "cpu":
                check_rope(rope, positions, len(x))
            return self.project_by_parts(x, rope, positions)
        check_rope(rope, positions, len(x))
        count = len(x)
        cosines, sines = (part.contiguous() for part in rope)
        positions = None if positions is None else positions.contiguous()
        queries = torch.empty(1, self.heads, count, self.head_dim, dtype=self.dtype)
        keys, values = torch.empty(2, 1, self.kv_heads, count, self.head_dim, dtype=self.dtype)
        bindings.entry("redraft_project")(
            self.for_c, x.contiguous().data_ptr(), count, cosines.data_ptr(), sines.data_ptr(),
            bindings.pointer(positions), queries.data_ptr(), keys.data_ptr(), values.data_ptr(),
        )  # fmt: skip
        return queries, keys, values

    def finish(self, x: Tensor, context: Tensor, rows: Sequence[ScaledRows]) -> None:
        """From the attention's context [T, heads * head_dim] on, in place on the residual x [T, hidden] (float32 and
        contiguous). Each row is one of ``rows``."""
        check_width(self.o, context)
        if not bindings.compute(x):
            self.finish_by_parts(x, context, rows)
            return
        stretches = (interface.CScaledRows * len(rows))(*(interface.CScaledRows(*one) for one in rows))
        context = context.contiguous()
        bindings.entry("redraft_finish")(self.for_c, x.data_ptr(), len(x), context.data_ptr(), stretches, len(rows))

    def project_by_parts(
        self, x: Tensor, rope: tuple[Tensor, Tensor], positions: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """``project``, a kernel or its reference after the other: what it means, and what it is without kernels."""
        projected, dim = linear(self.qkv, x, self._norm(self.input_norm)), self.head_dim
        queries, keys, rest = projected.tensor_split((self.heads * dim, (self.heads + self.kv_heads) * dim), dim=1)
        values, v_norm = keys if self.values_are_keys else rest, Norm(None, self.epsilon) if self.v_norm else None
        return (
            split_heads(queries, dim, self._norm(self.q_norm), rope, self.dtype, positions, self.attention_scale),
            split_heads(keys, dim, self._norm(self.k_norm), rope, self.dtype, positions),
            split_heads(values, dim, v_norm, None, self.dtype),
        )

    def finish_by_parts(self, x: Tensor, context: Tensor, rows: Sequence[ScaledRows]) -> None:
        """``finish``, a kernel or its reference after the other."""
        add_normed(x, linear(self.o, context), self._norm(self.post_attention))
        dense, mixed = linear(self.down, linear(self.gate_up, x, self._norm(self.dense_norm))), self._mixed(x)
        for start, end, scalar in rows:
            add_normed(
                x[start:end],
                dense[start:end],
                self._norm(self.post_feedforward),
                scalar,
                other=None if mixed is None else mixed[start:end],
                branch_norm=self._norm(self.post_dense),
                other_norm=self._norm(self.post_experts),
            )

    def _mixed(self, x: Tensor) -> Tensor | None:
        """Compute what the experts add, if there are any."""
        if self.router is None or self.experts_gate_up is None or self.experts_down is None:
            return None
        assert self.expert_scale is not None, "checked when the layer was made"
        weights, chosen = route(linear(self.router, x, Norm(None, self.epsilon)), self.top_k, self.expert_scale)
        return experts(self.experts_gate_up, self.experts_down, x, self._norm(self.experts_norm), weights, chosen)

    def _norm(self, weight: Tensor | None) -> Norm | None:
        return None if weight is None else Norm(weight, self.epsilon)

    @cached_property
    def for_c(self) -> Any:
        """A pointer for C, good for as long as this object lives."""
        layer = interface.CLayer(
            hidden=self.qkv.inputs,
            heads=self.heads,
            kv_heads=self.kv_heads,
            head_dim=self.head_dim,
            experts=0 if self.router is None else self.router.outputs,
            top_k=self.top_k,
            values_are_keys=self.values_are_keys,
            values_normed=self.v_norm,
            kv_format=bindings.format_number(str(self.dtype).removeprefix("torch.")),
            epsilon=self.epsilon,
            attention_scale=self.attention_scale,
        )
        for name, _ in interface.CLayer._fields_:
            given = getattr(self, name, None)
            if isinstance(given, PackedMatrix):
                setattr(layer, name, given.for_c)
            elif isinstance(given, Tensor):
                setattr(layer, name, given.data_ptr())
        return ctypes.pointer(layer)


def check_rope(rope: tuple[Tensor, Tensor], positions: Tensor | None, count: int) -> None:
    """Raise ValueError for a table that a kernel would read past the end of for ``count`` rows."""
    if positions is None:
        fits = len(rope[0]) == count
    else:
        fits = positions.shape == (count,) and positions.dtype == torch.int64
        if fits and count:
            first, last = (int(end) for end in positions.aminmax())
            fits = first >= 0 and last < len(rope[0])
    if not fits:
        shown = "" if positions is None else f" at positions {[*positions.shape]} {positions.dtype}"
        raise ValueError(f"a rotation of {len(rope[0])} positions does not fit {count} rows{shown}")


def route(logits: Tensor, top_k: int, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Weights and experts [T, top_k] of each row of ``logits`` [T, experts]: the largest probabilities, made to add up
    to 1, times each expert's ``scale``. Of equal logits the lower expert goes first."""
    if logits.device.type != "cpu":
        return device.route(logits, top_k, scale)
    if top_k == logits.shape[-1]:
        return logits.softmax(-1) * scale, torch.arange(top_k).expand(logits.shape)
    chosen = logits.argsort(dim=-1, descending=True, stable=True)[:, :top_k]
    return logits.gather(1, chosen).softmax(-1) * scale[chosen], chosen
