"""The small DiffusionGemma that the Sudoku recipe trains, and the prior it starts from.

The start is not blind: embeddings have one-hot blocks for row, column, box and digit, two heads copy each prompt cell
to its canvas position (they are a fixed RoPE offset apart), and in later layers three heads look along rows, columns
and boxes. All of it is trained afterwards. Without the prior the same loss is reached several times later.
"""

import math
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from redraft.errors import RedraftError
from redraft.models.diffusion_gemma.config import DiffusionGemmaConfig
from redraft.models.diffusion_gemma.model import Attention, DiffusionGemma, Layer
from redraft.models.gemma.attention import AttentionSpec
from redraft.train.recipes.sudoku import layout

# Coordinates of the residual stream that the prior gives a meaning.
_ROW, _COLUMN, _BOX, _DIGIT, _BLANK, _ANY, _BASE, _TOKEN = 0, 9, 18, 27, 36, 37, 38, 39


@dataclass(frozen=True)
class SudokuShape:
    """Size of the model. Half of a layer's feed-forward width is dense, half belongs to two always active experts."""

    hidden_size: int = 128
    layers: int = 6
    heads: int = 4
    head_dim: int = 32
    dense_width: int = 192
    expert_width: int = 96
    experts: int = 2

    def config(self) -> DiffusionGemmaConfig:
        sliding = AttentionSpec(self.head_dim, self.heads, window=512, rope_theta=10_000.0)
        full = AttentionSpec(self.head_dim, self.heads, None, rope_theta=1_000_000.0, partial_rotary_factor=0.25)
        return DiffusionGemmaConfig(
            vocab_size=layout.VOCAB_SIZE,
            hidden_size=self.hidden_size,
            intermediate_size=self.dense_width,
            num_attention_heads=self.heads,
            num_experts=self.experts,
            top_k_experts=self.experts,
            moe_intermediate_size=self.expert_width,
            layers=(sliding,) * (self.layers - 1) + (full,),
            context_length=512,
            canvas_length=layout.CANVAS_LENGTH,
            bos_token_id=layout.BOS,
            pad_token_id=layout.PAD,
            end_token_ids=(layout.EOS,),
            boi_token_id=layout.IMAGE_TOKENS[0],
            eoi_token_id=layout.IMAGE_TOKENS[1],
            image_token_id=layout.IMAGE_TOKENS[2],
        )


class CellFactors(nn.Module):
    """Builds the embedding table [V, H] of which a cell token is row + column + box + content.

    What is learned about a digit in one cell is thereby known in all 81; the checkpoint holds the built table.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        shares = (9, 9, 9, 10)
        self.rows, self.columns, self.boxes, self.contents = (nn.Parameter(torch.zeros(n, hidden_size)) for n in shares)
        self.row_of: Tensor
        self.column_of: Tensor
        self.box_of: Tensor
        cells = torch.arange(81)
        self.register_buffer("row_of", cells // 9, persistent=False)
        self.register_buffer("column_of", cells % 9, persistent=False)
        self.register_buffer("box_of", cells // 27 * 3 + cells % 9 // 3, persistent=False)

    def forward(self, base: Tensor) -> Tensor:
        """``base`` [FIRST_CELL, H], the rows of the other tokens -> [V, H]."""
        places = self.rows[self.row_of] + self.columns[self.column_of] + self.boxes[self.box_of]
        cells = places[:, None] + self.contents
        return torch.cat((base, cells.flatten(0, 1)))

    @torch.no_grad()
    def fit(self, cells: Tensor) -> float:
        """Take the factors whose cell tokens come closest to ``cells`` [810, H] in squares.

        Returns the largest difference that is left. The fit is not unique (what moves from all rows to all columns
        changes no token); the smallest factors are taken.
        """
        shares = (self.rows, self.columns, self.boxes, self.contents)
        owners = (self.row_of, self.column_of, self.box_of)
        tokens = torch.arange(len(cells))
        marks = [F.one_hot(owner[tokens // 10], len(part)) for owner, part in zip(owners, shares, strict=False)]
        design = torch.cat((*marks, F.one_hot(tokens % 10, len(self.contents))), dim=1).double()
        factors = torch.linalg.pinv(design) @ cells.double()
        for part, values in zip(shares, factors.split([len(part) for part in shares]), strict=True):
            part.copy_(values)
        return (design @ factors - cells).abs().max().item()


def build(shape: SudokuShape, seed: int, structured: bool = True, offset: int = layout.OFFSET) -> DiffusionGemma:
    """A fresh model with factorised cell embeddings and, unless told otherwise, the structured start.

    ``offset``: how many positions before its answer a cell stands in the prompt.
    """
    if structured and not (shape.heads >= 3 and 19 <= shape.head_dim <= _ANY and shape.hidden_size >= _TOKEN + 9):
        raise ValueError(
            f"the structured start needs 3 or more heads of 19 to {_ANY} dimensions and a hidden size of {_TOKEN + 9} "
            f"or more, not {shape}"
        )
    torch.manual_seed(seed)
    model = DiffusionGemma(shape.config())
    factors = CellFactors(shape.hidden_size)
    table = model.embed_tokens
    base = nn.Parameter(torch.randn(layout.FIRST_CELL, shape.hidden_size) * 0.15 * shape.hidden_size**-0.5)
    table.weight = base
    # The parametrisation changes the table's shape, which torch can only check for those that keep it.
    parametrize.register_parametrization(table, "weight", factors, unsafe=True)
    with torch.no_grad():
        for factor in (factors.rows, factors.columns, factors.boxes, factors.contents):
            factor.normal_(std=0.15 * shape.hidden_size**-0.5)
        if structured:
            _mark_embeddings(base, factors)
        for index, layer in enumerate(model.layers):
            attention = layer.self_attn
            attention.q_norm.weight.fill_(0.6)
            attention.k_norm.weight.fill_(0.6)
            layer.post_attention_layernorm.weight.fill_(0.7)
            layer.post_feedforward_layernorm.weight.fill_(0.7)
            # Two branches are added before the last norm of a layer; together they should count as one.
            layer.post_feedforward_layernorm_1.weight.fill_(0.7)
            layer.post_feedforward_layernorm_2.weight.fill_(0.7)
            if structured:
                for projection in (attention.q_proj, attention.k_proj, attention.o_proj):
                    projection.weight.mul_(0.3)
                if index == 0:
                    _copy_from_prompt(layer, shape, offset)
                else:
                    _look_along_units(attention, shape)
    return model


def adopt(model: DiffusionGemma, trained: object) -> None:
    """Give ``model``, made by ``build``, the weights of a plain model of the same shape.

    Raises RedraftError where the shapes differ, or where cell embeddings are no sums of row, column, box and content.
    """
    if not isinstance(trained, DiffusionGemma) or trained.config != model.config:
        raise RedraftError("the checkpoint to start from has another shape than the model to be trained")
    table: Any = model.embed_tokens.parametrizations
    own = trained.embed_tokens.weight
    error = table.weight[0].fit(own[layout.FIRST_CELL :])
    # The bundled weights are rounded to bfloat16, so that the fit leaves the rounding over.
    if error > 0.02 * own.abs().max():
        raise RedraftError(
            f"the checkpoint's cell embeddings are not sums of row, column, box and content (off by {error:.3g}); "
            "only checkpoints of this recipe can be trained further"
        )
    table.weight.original.data.copy_(own[: layout.FIRST_CELL])
    weights = {name: value for name, value in trained.state_dict().items() if not name.startswith("embed_tokens.")}
    model.load_state_dict(weights, strict=False)


def materialise(model: DiffusionGemma) -> DiffusionGemma:
    """The same model with the embedding table written out, as checkpoints hold it."""
    plain = DiffusionGemma(model.config)
    # By attribute, not by state_dict: parametrised tensors are computed when they are read.
    plain.load_state_dict({name: attrgetter(name)(model).detach() for name in plain.state_dict()})
    return plain


def _mark_embeddings(base: Tensor, factors: CellFactors) -> None:
    # About six marks make up a token; with this size the scaled embedding has unit root mean square.
    mark = 6**-0.5
    for k in range(9):
        factors.rows[k, _ROW + k] += mark
        factors.columns[k, _COLUMN + k] += mark
        factors.boxes[k, _BOX + k] += mark
        factors.contents[k + 1, _DIGIT + k] += mark
        base[layout.FIRST_DIGIT + k, _TOKEN + k] += 1.5 * mark
    factors.contents[0, _BLANK] += mark
    factors.rows[:, _ANY] += mark
    base[:, _ANY] += mark
    base[:, _BASE] += mark


def _copy_from_prompt(layer: Layer, shape: SudokuShape, offset: int) -> None:
    """Heads 0 and 1 of the first layer attend ``offset`` positions back and copy the marks found there."""
    attention, dim = layer.self_attn, shape.head_dim
    half, fast = dim // 2, dim // 4
    assert attention.v_proj is not None, "the first layer is a sliding one, which has values of its own"
    velocities = 10_000.0 ** (-torch.arange(0, dim, 2).float() / dim)
    for head, (first, count) in enumerate(((0, dim), (dim, _ANY - dim))):
        block = slice(head * dim, (head + 1) * dim)
        query, key, value = (p.weight[block] for p in (attention.q_proj, attention.k_proj, attention.v_proj))
        output = attention.o_proj.weight[:, block]
        for weight in (query, key, value):
            weight.mul_(0.1)
        for pair in range(fast):
            # The key is turned ahead by the angle of that many positions, so that it meets queries that far behind it.
            angle = offset * velocities[pair].item()
            query[pair, _ANY] = 1.0
            key[pair, _ANY], key[pair + half, _ANY] = math.cos(angle), math.sin(angle)
        for k in range(count):
            value[k, first + k] = 1.0
            output[first + k, k] += 1.0
    attention.q_norm.weight.fill_(1.2)
    attention.k_norm.weight.fill_(1.2)
    layer.post_attention_layernorm.weight.fill_(1.5)


def _look_along_units(attention: Attention, shape: SudokuShape) -> None:
    """Heads 0, 1, 2 attend to the same row, column and box, through pairs that hardly turn with position."""
    dim, half = shape.head_dim, shape.head_dim // 2
    first_slow = half // 2 if attention.spec.window is not None else int(attention.spec.partial_rotary_factor * half)
    slow = [*range(first_slow, half), *range(half + first_slow, dim)]
    for head, unit in enumerate((_ROW, _COLUMN, _BOX)):
        for k in range(9):
            attention.q_proj.weight[head * dim + slow[k], unit + k] += 1.5
            attention.k_proj.weight[head * dim + slow[k], unit + k] += 1.5
