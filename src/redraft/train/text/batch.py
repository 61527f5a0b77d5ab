"""Trees packed into the rows of one forward, and the loss of what is scored in them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from redraft.train.text.objective import Example, NoisyCanvas

# Rows have a length that is a multiple of this: kernels like it.
ROUND = 8


@dataclass(eq=False)
class PlacedCanvas:
    """A noisy canvas among all rows of a batch; tensors are [C]."""

    first: int
    """The row that says what stands at its first position, of all B x L."""
    clean: Tensor
    """int64."""
    hidden: Tensor
    """bool: the masks, which a rollout reveals one after the other."""
    free: Tensor
    """bool."""
    weights: Tensor
    """float32."""
    weighted: bool
    task: str
    sampled_steps: int


@dataclass(frozen=True, eq=False)
class Targets:
    """N scored rows."""

    rows: Tensor
    """[N] int64, of all B x L."""
    tokens: Tensor
    """[N] int64: what each should say."""
    weights: Tensor
    """[N] float32."""
    mass: float
    """The weighted sum divided by it is the mean."""
    canvas: Tensor
    """[N] bool: rows of canvases; the others are causal."""


@dataclass(eq=False)
class Batch:
    """Trees side by side in B rows of L tokens; those in one row do not see each other."""

    tokens: Tensor
    """[B, L] int64."""
    positions: Tensor
    """[B, L] int64."""
    visible: Tensor
    """[B, L, L] bool."""
    canvases: list[PlacedCanvas]
    causal: list[tuple[int, int, float]]
    """(row of all B x L, token, weight)."""
    count: int
    """Tokens that are no padding."""

    def targets(self) -> Targets:
        """Return what is scored, as far as it is hidden now."""
        causal = torch.tensor([(row, token) for row, token, _ in self.causal], dtype=torch.int64).view(-1, 2)
        causal_weights = torch.tensor([weight for *_, weight in self.causal], dtype=torch.float32)
        rows, tokens, weights, mass = [causal[:, 0]], [causal[:, 1]], [causal_weights], float(causal_weights.sum())
        for canvas in self.canvases:
            places = canvas.hidden.nonzero()[:, 0]
            if not len(places):
                continue
            own = canvas.weights[places]
            # The bound: n / k of a sum over k masks, as a mean over all n positions.
            share = len(places) / int(canvas.free.sum()) if canvas.weighted else 1.0
            mass += float(canvas.weights[canvas.free].sum() if canvas.weighted else own.sum())
            rows.append(canvas.first + places)
            tokens.append(canvas.clean[places])
            weights.append(own / share)
        joined = torch.cat(rows)
        return Targets(joined, torch.cat(tokens), torch.cat(weights), mass, torch.arange(len(joined)) >= len(causal))


class Scorer(Protocol):
    """A model that is trained on whole rows."""

    def hidden(self, batch: Batch) -> Tensor:
        """Return the normed hidden states [B, L, H]."""
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """Return float32 logits [..., V]."""
        ...


@dataclass(frozen=True, eq=False)
class Score:
    """The loss of a batch: sums over its targets, not yet divided by the mass."""

    total: Tensor
    """Scalar with its graph: weighted cross-entropy, nats."""
    canvas_nats: float
    """Unweighted sum over the masks."""
    canvas_count: int
    canvas_right: int
    """Masks whose token was the likeliest one."""
    causal_nats: float
    causal_count: int


def score(model: Scorer, batch: Batch, targets: Targets) -> Score:
    """Compute the loss of a batch; logits are made of scored rows alone."""
    hidden = model.hidden(batch).flatten(0, 1)[targets.rows.to(batch.tokens.device)]
    logits = model.logits(hidden)
    tokens, weights = targets.tokens.to(logits.device), targets.weights.to(logits.device)
    nats = F.cross_entropy(logits, tokens, reduction="none")
    with torch.no_grad():
        canvas = targets.canvas.to(logits.device)
        right = int(((logits.argmax(-1) == tokens) & canvas).sum())
        sums = float(nats[canvas].sum()), float(nats[~canvas].sum())
    count = int(targets.canvas.sum())
    return Score((nats * weights).sum(), sums[0], count, right, sums[1], len(targets.rows) - count)


def pack(examples: Sequence[Example]) -> Batch:
    """Lay trees out in as few rows of the longest one's length as first-fit by falling length finds."""
    order = sorted(examples, key=lambda example: -len(example.tree))
    length = -(-len(order[0].tree) // ROUND) * ROUND
    used: list[int] = []
    places: list[tuple[int, int]] = []
    for example in order:
        own = len(example.tree)
        row = next((row for row, count in enumerate(used) if count + own <= length), len(used))
        if row == len(used):
            used.append(0)
        places.append((row, used[row]))
        used[row] += own
    batch = Batch(
        torch.zeros(len(used), length, dtype=torch.int64),
        torch.zeros(len(used), length, dtype=torch.int64),
        # Padding sees itself, for a softmax over nothing is not a number.
        torch.eye(length, dtype=torch.bool).repeat(len(used), 1, 1),
        [],
        [],
        sum(used),
    )
    for example, (row, start) in zip(order, places, strict=True):
        _place(batch, example, row, start)
    return batch


def _place(batch: Batch, example: Example, row: int, start: int) -> None:
    tree, end, first = example.tree, start + len(example.tree), row * batch.tokens.shape[1] + start
    batch.tokens[row, start:end] = torch.tensor(tree.tokens)
    batch.positions[row, start:end] = torch.tensor(tree.positions)
    batch.visible[row, start:end, start:end] = torch.from_numpy(tree.visible())
    batch.canvases += [_placed(canvas, first) for canvas in example.canvases]
    batch.causal += [(first + target.row, target.token, target.weight) for target in example.causal]


def _placed(canvas: NoisyCanvas, first: int) -> PlacedCanvas:
    clean = canvas.clean
    return PlacedCanvas(
        first + canvas.start,
        torch.tensor(clean.tokens),
        torch.from_numpy(canvas.hidden.copy()),
        torch.tensor(clean.free),
        torch.tensor(clean.weights),
        canvas.weighted,
        canvas.task,
        canvas.sampled_steps,
    )
