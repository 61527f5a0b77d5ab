"""DiffusionGemma on packed weights: the forward of ``diffusion_gemma``, through the kernels.

One sequence at a time on the CPU. The residual stream is float32 in every format. Every kernel computes a row from
that row alone, and attention goes through the context in blocks whose borders depend on positions alone, so that
results do not depend on what else is computed with a row: a prompt may be encoded in chunks of any size, and a commit
and the first denoising step of the next canvas share a forward and give, bit for bit, what two would.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor

from redraft.canvas.noise import UniformNoise
from redraft.canvas.readout import Readout
from redraft.kernels import bindings
from redraft.kernels.attention import attention
from redraft.kernels.layer import CanvasForward, PackedLayer, ScaledRows
from redraft.kernels.linear import Norm, linear
from redraft.kernels.packed import Format, PackedMatrix, pack, pack_gated
from redraft.kernels.readout import PackedHead
from redraft.layers.attention import Segment
from redraft.layers.norm import rms_norm
from redraft.models.base import Cache
from redraft.models.diffusion_gemma.model import (
    DiffusionGemma,
    Layer,
    SelfConditioning,
    visible,
)


def pack_weights(model: DiffusionGemma, format: Format) -> Iterator[tuple[str, PackedMatrix]]:
    """The matrices of ``model`` by name, one at a time. Routers stay float32, and in int4 the embedding is int8: it is
    read as keys and values of the whole vocabulary, where four bits cost more than they save."""
    yield "embed_tokens", pack(model.embed_tokens.weight, "int8" if format == "int4" else format)
    conditioning = model.self_conditioning
    gate_up = torch.cat((conditioning.gate_proj.weight, conditioning.up_proj.weight))
    yield "self_conditioning.gate_up", pack_gated(gate_up, format)
    yield "self_conditioning.down", pack(conditioning.down_proj.weight, format)
    for index, layer in enumerate(model.layers):
        attn, mlp, router, name = layer.self_attn, layer.mlp, layer.router, f"layers.{index}"
        projections = [attn.q_proj, attn.k_proj, *([attn.v_proj] if attn.v_proj is not None else [])]
        yield f"{name}.qkv", pack(torch.cat([p.weight for p in projections]), format)
        yield f"{name}.o", pack(attn.o_proj.weight, format)
        yield f"{name}.gate_up", pack_gated(torch.cat((mlp.gate_proj.weight, mlp.up_proj.weight)), format)
        yield f"{name}.down", pack(mlp.down_proj.weight, format)
        # The router's scale belongs to the rows, after their norm; multiplied into the columns it costs nothing.
        scale = router.scale.float() * router.scale.shape[0] ** -0.5
        yield f"{name}.router", pack(router.proj.weight.float() * scale, "float32")
        yield f"{name}.experts.gate_up", pack_gated(layer.experts.gate_up_proj, format)
        yield f"{name}.experts.down", pack(layer.experts.down_proj, format)


@contextmanager
def torch_on_one_thread() -> Iterator[None]:
    """Give torch one thread while kernels run, and then what it had.

    What torch does between two kernels is short, but its other threads spin for a while after it, on the processors
    that the kernels' threads need by then. Where there are no kernels torch does the work, and keeps its threads.
    """
    threads = torch.get_num_threads()
    if bindings.kernels() is None or threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True)
class Rows:
    """A stretch of a layer's rows with a context and a scalar of its own: what is committed, or a canvas."""

    start: int
    end: int
    causal: bool
    """Causal rows are written to the cache, and see the whole of it up to their window."""
    slide: bool
    """Whether each row's window is its own; else all see what the first one sees of the cache."""

    @property
    def count(self) -> int:
        return self.end - self.start


class PackedDiffusionGemma:
    """A ``BlockDiffusionModel`` made of a ``DiffusionGemma``, which keeps the small weights, and packed matrices."""

    def __init__(self, model: DiffusionGemma, matrices: Mapping[str, PackedMatrix], format: Format) -> None:
        self.config, self.defaults, self.format = model.config, model.defaults, format
        self.window_policy = model.window_policy
        self.nbytes = sum(matrix.nbytes for matrix in matrices.values())
        self._model = model
        self._head = PackedHead(
            matrices["embed_tokens"], model.config.final_logit_softcapping, model.config.hidden_size**0.5
        )
        self._conditioning = _SelfConditioning(model.self_conditioning, matrices)
        self._layers = [
            _packed_layer(layer, matrices, f"layers.{i}", self.kv_dtype) for i, layer in enumerate(model.layers)
        ]
        # What a canvas's rows, and those that are committed, are multiplied by at the end of each layer.
        self._scalars = [(layer.layer_scalar.item(), layer.encoder_layer_scalar.item()) for layer in model.layers]
        self._norm = model.norm.weight.float()
        self._made: WeakKeyDictionary[Cache, tuple[tuple[int, Rows], CanvasForward]] = WeakKeyDictionary()

    @property
    def kv_dtype(self) -> torch.dtype:
        """What keys and values are kept in."""
        return torch.float32 if self.format == "float32" else torch.bfloat16

    @property
    def chunk_independent(self) -> bool:
        """True of the kernels; without them torch does the work, and rounds a row by how many rows there are."""
        return bindings.kernels() is not None

    @property
    def noise(self) -> UniformNoise:
        return self._model.noise

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def cache_layout(self) -> list[tuple[int, int, int | None]]:
        """(kv_heads, head_dim, positions kept) of every layer; None keeps the whole context."""
        return self._model.cache_layout()

    @torch_on_one_thread()
    def encode(self, tokens: Tensor, cache: Cache) -> None:
        """Causal forward over ``tokens`` [1, T] that follow the cache; appends their keys and values to it."""
        row = _only(tokens)
        self._forward(self._embed(row), cache, [Rows(0, len(row), causal=True, slide=True)])
        cache.advance(len(row))

    @torch_on_one_thread()
    def denoise(self, canvas: Tensor, cache: Cache, signal: Tensor | None) -> Tensor:
        """Bidirectional forward over ``canvas`` [1, C] with ``signal`` [1, C, H] -> normed hidden states [1, C, H]."""
        row = _only(canvas)
        x = self._conditioning(self._embed(row), None if signal is None else signal[0])
        return self._forward(x, cache, [self._canvas_rows(0, len(row))])[None]

    @torch_on_one_thread()
    def commit_and_denoise(self, tokens: Tensor, canvas: Tensor, cache: Cache) -> Tensor:
        """``encode(tokens)``, then ``denoise(canvas, cache, None)``, in one forward over the rows of both."""
        committed, row = _only(tokens), _only(canvas)
        count = len(committed)
        x = torch.cat((self._embed(committed), self._conditioning(self._embed(row), None)))
        rows = [Rows(0, count, causal=True, slide=True), self._canvas_rows(count, count + len(row))]
        hidden = self._forward(x, cache, rows)
        cache.advance(count)
        return hidden[None]

    @torch_on_one_thread()
    def readout(self, hidden: Tensor, temperature: float, uniforms: Tensor | None, **wanted: Any) -> Readout:
        """What a denoising step reads off ``hidden`` [C, H]; see ``VocabularyHead.read``."""
        return self._head.read(hidden, temperature, uniforms, **wanted)

    def logits(self, hidden: Tensor) -> Tensor:
        """Soft-capped float32 logits [..., V] of ``hidden`` [..., H]: for tests and comparisons."""
        cap = self.config.final_logit_softcapping
        product = linear(self._head.table, hidden.flatten(0, -2))
        return (cap * torch.tanh(product / cap)).view(*hidden.shape[:-1], -1)

    def _canvas_rows(self, start: int, end: int) -> Rows:
        return Rows(start, end, causal=False, slide=self.window_policy == "per_query")

    def _embed(self, tokens: Tensor) -> Tensor:
        return F.embedding(tokens, self._model.embed_tokens.weight).float() * self.config.hidden_size**0.5

    def _forward(self, x: Tensor, cache: Cache, stretches: Sequence[Rows]) -> Tensor:
        """All layers over ``x`` [T, H]. Returns the normed hidden states of the rows that are no commit."""
        if len(stretches) == 1 and not stretches[0].causal and bindings.kernels() is not None:
            self._canvas_forward(cache, stretches[0])(x)
            return rms_norm(x, self._norm, self.config.rms_norm_eps)
        rope = self._model.rope(cache.length, len(x))
        masks: defaultdict[tuple[int, int | None], dict[tuple[int, int], Tensor | None]] = defaultdict(dict)
        last = len(self._layers) - 1
        for index, (layer, spec) in enumerate(zip(self._layers, self.config.layers, strict=True)):
            queries, keys, values = layer.project(x, rope[spec])
            context = []
            for rows in stretches:
                own, start = slice(rows.start, rows.end), cache.length + rows.start
                window = spec.window if rows.slide else None
                known = masks[rows.start, window]
                if rows.causal:
                    cache.write(index, keys[:, :, own], values[:, :, own])
                    if index == last:
                        continue
                    stored, mine = cache.read(index, rows.count), []
                    seen = visible(stored, start + rows.count, start, rows.count, window, known)
                else:
                    seen = visible(cache.read(index), start, start, rows.count, window, known)
                    mine = [Segment(keys[:, :, own], values[:, :, own])]
                context.append(attention(queries[:, :, own], [*seen, *mine])[0])
            if index == last:
                # Of what is committed, the last layer has to leave keys and values only.
                x = torch.cat([x[rows.start : rows.end] for rows in stretches if not rows.causal] or [x[:0]])
                stretches = [Rows(0, len(x), causal=False, slide=False)]
            if len(x):
                scalar, encoder_scalar = self._scalars[index]
                scaled = [ScaledRows(r.start, r.end, encoder_scalar if r.causal else scalar) for r in stretches]
                layer.finish(x, torch.cat(context) if len(context) > 1 else context[0], scaled)
        return rms_norm(x, self._norm, self.config.rms_norm_eps)

    def _canvas_forward(self, cache: Cache, rows: Rows) -> CanvasForward:
        """All layers over a canvas after ``cache``; made at its first step, and kept for the others."""
        place = (cache.length, rows)
        made = self._made.get(cache)
        if made is None or made[0] != place:
            rope = self._model.rope(cache.length, rows.count)
            known: defaultdict[int | None, dict[tuple[int, int], Tensor | None]] = defaultdict(dict)
            contexts = []
            for index, spec in enumerate(self.config.layers):
                window = spec.window if rows.slide else None
                stored, start = cache.read(index), cache.length
                contexts.append(visible(stored, start, start, rows.count, window, known[window]))
            ropes = [rope[spec] for spec in self.config.layers]
            scalars = [scalar for scalar, _ in self._scalars]
            made = self._made[cache] = place, CanvasForward(self._layers, contexts, ropes, scalars, rows.count)
        return made[1]


def _only(sequences: Tensor) -> Tensor:
    """The one sequence [T] of ``sequences`` [1, T]."""
    if len(sequences) != 1:
        raise ValueError(f"{len(sequences)} sequences at once; packed weights compute one sequence at a time")
    return sequences[0]


class _SelfConditioning:
    def __init__(self, module: SelfConditioning, matrices: Mapping[str, PackedMatrix]) -> None:
        self._norm = Norm(module.pre_norm.weight.float(), module.eps)
        self._gate_up, self._down = matrices["self_conditioning.gate_up"], matrices["self_conditioning.down"]

    def __call__(self, embeddings: Tensor, signal: Tensor | None) -> Tensor:
        if signal is not None:
            embeddings = embeddings + linear(self._down, linear(self._gate_up, signal, self._norm))
        return rms_norm(embeddings, None, self._norm.epsilon)


def _packed_layer(layer: Layer, matrices: Mapping[str, PackedMatrix], name: str, kv_dtype: torch.dtype) -> PackedLayer:
    """One layer's packed matrices and small weights; see ``diffusion_gemma.Layer``."""
    attention, router = layer.self_attn, layer.router
    spec = attention.spec
    small = {
        "input_norm": layer.input_layernorm.weight,
        "q_norm": attention.q_norm.weight,
        "k_norm": attention.k_norm.weight,
        "post_attention": layer.post_attention_layernorm.weight,
        "dense_norm": layer.pre_feedforward_layernorm.weight,
        "experts_norm": layer.pre_feedforward_layernorm_2.weight,
        "post_dense": layer.post_feedforward_layernorm_1.weight,
        "post_experts": layer.post_feedforward_layernorm_2.weight,
        "post_feedforward": layer.post_feedforward_layernorm.weight,
        "expert_scale": router.per_expert_scale,
    }
    return PackedLayer(
        qkv=matrices[f"{name}.qkv"],
        o=matrices[f"{name}.o"],
        gate_up=matrices[f"{name}.gate_up"],
        down=matrices[f"{name}.down"],
        router=matrices[f"{name}.router"],
        experts_gate_up=matrices[f"{name}.experts.gate_up"],
        experts_down=matrices[f"{name}.experts.down"],
        heads=attention.q_proj.weight.shape[0] // spec.head_dim,
        kv_heads=spec.kv_heads,
        head_dim=spec.head_dim,
        top_k=router.top_k,
        epsilon=attention.eps,
        dtype=kv_dtype,
        **{key: weight.detach().float().contiguous() for key, weight in small.items()},
    )
