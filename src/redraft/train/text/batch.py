"""Trees one after the other in one forward, and the loss of what is scored in them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from redraft.train.text.encoding import SlotKind
from redraft.train.text.objective import Example, NoisyCanvas


@dataclass(eq=False)
class PlacedCanvas:
    """A noisy canvas among all rows of a batch; tensors are [C]."""

    first: int
    """The row of the batch that says what stands at its first position."""
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
    kinds: tuple[SlotKind, ...]
    """The kind of each slot, where there is a schema."""


@dataclass(frozen=True, eq=False)
class Targets:
    """N scored rows."""

    rows: Tensor
    """[N] int64: rows of the batch."""
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
    """Trees of R tokens in all, which do not see each other. There is no padding."""

    tokens: Tensor
    """[R] int64."""
    positions: Tensor
    """[R] int64."""
    visible: list[Tensor]
    """Bool [L, L] of each tree: which rows each row sees."""
    canvases: list[PlacedCanvas]
    causal: list[tuple[int, int, float]]
    """(row, token, weight)."""

    @property
    def count(self) -> int:
        """Tokens in all."""
        return len(self.tokens)

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
        """Return the normed hidden states [R, H]."""
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
    hidden = model.hidden(batch)
    logits = model.logits(hidden[targets.rows.to(hidden.device)])
    tokens, weights = targets.tokens.to(logits.device), targets.weights.to(logits.device)
    nats = F.cross_entropy(logits, tokens, reduction="none")
    with torch.no_grad():
        canvas = targets.canvas.to(logits.device)
        right = int(((logits.argmax(-1) == tokens) & canvas).sum())
        sums = float(nats[canvas].sum()), float(nats[~canvas].sum())
    count = int(targets.canvas.sum())
    return Score((nats * weights).sum(), sums[0], count, right, sums[1], len(targets.rows) - count)


def pack(examples: Sequence[Example]) -> Batch:
    """Lay trees out one after the other."""
    trees = [example.tree for example in examples]
    batch = Batch(
        torch.tensor([token for tree in trees for token in tree.tokens]),
        torch.tensor([position for tree in trees for position in tree.positions]),
        [torch.from_numpy(tree.visible()) for tree in trees],
        [],
        [],
    )
    first = 0
    for example in examples:
        batch.canvases += [_placed(canvas, first) for canvas in example.canvases]
        batch.causal += [(first + target.row, target.token, target.weight) for target in example.causal]
        first += len(example.tree)
    return batch


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
        clean.kinds,
    )
