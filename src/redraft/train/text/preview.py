"""A look at a run before it begins: what is hidden and learned, and what a step costs, measured on one."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from redraft.measure.memory import peak_bytes
from redraft.train.text.batch import Batch, PlacedCanvas
from redraft.train.text.run import Run

HIDDEN, END = "\N{MEDIUM SHADE}", "\N{MIDDLE DOT}"
"""Stand for a mask, and for the end token."""
Kind = Literal["pinned", "shown", "learned", "filler"]


@dataclass(frozen=True)
class Stretch:
    """Text of one kind on a canvas: pinned, shown though it could be hidden, learned, or a filler that is learned at
    less weight."""

    text: str
    kind: Kind


@dataclass(frozen=True)
class ShownCanvas:
    """A canvas as the model sees it, and as it is to become."""

    task: str
    before: str
    """The end of its context."""
    seen: str
    target: tuple[Stretch, ...]


@dataclass(frozen=True)
class Preview:
    """Facts of a run after its first step, which is not kept."""

    canvases: tuple[ShownCanvas, ...]
    trained: int
    """Numbers that are trained."""
    tokens: int
    """Tokens of a step, without padding."""
    scored: int
    """Positions of a step that are scored."""
    seconds: float
    """Wall time of a step."""
    peak_bytes: int | None
    first_loss: float
    """Nats; of a model that knows nothing it would be ``uniform_loss``."""
    uniform_loss: float

    def steps(self, wanted: int | None, hours: float | None) -> int:
        """Return how many steps a run comes to that ends by so many steps or hours."""
        ends = [] if wanted is None else [wanted]
        return min([*ends, *([] if hours is None else [max(1, round(3600 * hours / self.seconds))])])


def preview(run: Run, most: int = 4) -> Preview:
    """Take the first step of a run, look at ``most`` of its canvases, and measure."""
    encoder = run.batches.encoder
    signs = {encoder.mask_token: HIDDEN, encoder.end_token: END}

    def decode(tokens: list[int]) -> str:
        stretches = [(sign, list(own)) for sign, own in groupby(tokens, signs.get)]
        return "".join(sign * len(own) if sign else encoder.tokenizer.decode_all(own) for sign, own in stretches)

    batches = run.batch()
    canvases = [
        _shown(batch, canvas, decode) for batch, _ in batches for canvas in batch.canvases if canvas.hidden.any()
    ]
    # Few records come round several times in a step, each time with other masks.
    canvases = list({(one.task, one.before, _text_of(one)): one for one in reversed(canvases)}.values())[::-1]
    # Some of all: neighbours stand in one tree.
    chosen = canvases[:: max(1, len(canvases) // most)][:most]
    begun = time.perf_counter()
    run.step(batches)
    return Preview(
        tuple(chosen),
        run.model.count,
        sum(batch.count for batch, _ in batches),
        sum(len(targets.rows) for _, targets in batches),
        time.perf_counter() - begun,
        peak_bytes(),
        run.loss,
        math.log(run.model.base.config.vocab_size),
    )


def _text_of(canvas: ShownCanvas) -> str:
    return "".join(stretch.text for stretch in canvas.target)


def _shown(batch: Batch, canvas: PlacedCanvas, decode: Callable[[list[int]], str]) -> ShownCanvas:
    flat, first = batch.tokens, 0
    for visible in batch.visible:
        if canvas.first < first + len(visible):
            break
        first += len(visible)
    row = visible[canvas.first - first].nonzero()[:, 0]
    # Its own first row is the end of the context.
    context = flat[first + row[row <= canvas.first - first]].tolist()
    seen = flat[canvas.first + 1 : canvas.first + 1 + len(canvas.clean)].tolist()
    return ShownCanvas(canvas.task, decode(context), decode(seen), tuple(_stretches(canvas, decode)))


def _stretches(canvas: PlacedCanvas, decode: Callable[[list[int]], str]) -> Iterator[Stretch]:
    full = canvas.weights.max()
    kinds: list[Kind] = [
        "pinned" if not free else "shown" if not hidden else "learned" if weight == full else "filler"
        for free, hidden, weight in zip(canvas.free, canvas.hidden, canvas.weights, strict=True)
    ]
    for kind, group in groupby(range(len(kinds)), kinds.__getitem__):
        yield Stretch(decode(canvas.clean[list(group)].tolist()), kind)
