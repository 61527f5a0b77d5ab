"""The start of a canvas of slots from a draft of their values.

Where any token is noise, all of the draft stands at first, and the model may change all of it (Meng et al. 2021,
SDEdit). Where a mask is the noise, what stands would stay for good: so each value is hidden once, with the others
there, and only those that the model itself would say again stay (remasking; Wang et al. 2025, arXiv 2503.00307).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from redraft.canvas.draft import Draft
from redraft.canvas.host import on_cpu
from redraft.canvas.readout import ReadoutSpec
from redraft.engine.deadline import Deadline, passed
from redraft.engine.memory import PooledCache
from redraft.engine.runtime import Runtime
from redraft.engine.task import Forward, Task, on_host, read
from redraft.errors import GenerationError


@dataclass(frozen=True, eq=False)
class DraftedPart:
    """The draft of the slots of one canvas."""

    tokens: Tensor
    """[L] int64: the whole canvas, with what stands between the slots."""
    texts: tuple[slice, ...]
    """The positions of each slot's text, with the end token behind it."""
    may_stay: tuple[bool, ...]
    """False for a value that must not be what the slot says in the end."""


@dataclass(frozen=True, eq=False)
class Started:
    """The start of a canvas, and the forwards that it took to find it."""

    draft: Draft
    confidence: Mapping[int, float] = field(default_factory=dict)
    """The least probability of a token of each value that stays while it was hidden, by the number of its slot."""
    forwards: int = 0


def started(
    runtime: Runtime,
    cache: PooledCache,
    before: Sequence[int],
    places: Sequence[slice],
    part: DraftedPart,
    deadline: Deadline | None,
) -> Task[Started]:
    """Find what a canvas of slots at ``places`` starts from, once all that comes before it is encoded. Values that were
    not looked at when the deadline came are written afresh."""
    survival = torch.ones(len(part.tokens), dtype=torch.float64)
    if not runtime.corruption.monotone:
        return Started(Draft(part.tokens, survival))
    kept, forwards = dict[int, float](), 0
    for number, (place, text, may_stay) in enumerate(zip(places, part.texts, part.may_stay, strict=True)):
        if may_stay and not passed(deadline):
            forwards += 1
            probability = yield from _said_again(runtime, cache, before, part.tokens, place, text)
            if probability is not None:
                kept[number] = probability
                continue
        survival[place] = 0.0
    return Started(Draft(part.tokens, survival), kept, forwards)


def _said_again(
    runtime: Runtime, cache: PooledCache, before: Sequence[int], tokens: Tensor, place: slice, text: slice
) -> Task[float | None]:
    """Return the least probability of a drafted value's tokens where all of its slot is hidden; None where the model
    holds something else for likelier at one of them."""
    seen = tokens.clone()
    seen[place] = runtime.corruption.noise.tokens(torch.zeros(place.stop - place.start, dtype=torch.float64))
    device = runtime.model.device
    canvas = runtime.canvas(seen.to(device), cache, before)
    reading = yield from read(Forward((canvas,), ReadoutSpec(1.0, classes=runtime.mask_classes)))
    (broken,) = yield from on_host((~torch.isfinite(reading.readout.entropy)).any()[None])
    if broken:
        raise GenerationError(
            "the model's output is not a number where it was to judge a draft; the checkpoint's weights are damaged, "
            "or too large for this dtype. Try dtype='float32', or load the checkpoint afresh"
        )
    readout = runtime.of_text(reading.readout, None)
    argmax, logprob = on_cpu(readout.argmax[text], readout.logprob(tokens.to(device))[text])
    if not torch.equal(argmax, tokens[text]):
        return None
    # Rounding can leave a certain token a hair above one.
    return float(logprob.clamp(max=0.0).exp().min())
