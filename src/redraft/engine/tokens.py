"""Tokens of an answer that is written one by one: what is read of a row, the token that it gives, and the text.

A token's draws are keyed by the seed and its place in the answer alone. So whoever verifies drafts by these rules
writes what would have been written without any.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from redraft.canvas.penalties import Standing
from redraft.canvas.random import PositionRandom
from redraft.canvas.readout import ClassReadout, Readout, ReadoutSpec
from redraft.canvas.shaping import Shaping
from redraft.constrain.compiler import CompiledConstraint
from redraft.engine.deadline import passed
from redraft.engine.request import Request, answer_text, thought_budget
from redraft.engine.result import Chunk, FinishReason, TokenLogprob
from redraft.engine.runtime import Runtime
from redraft.engine.sampling import NOTHING
from redraft.engine.task import Reading, Task, on_host
from redraft.errors import ConstraintError, GenerationError

STREAM = 3 << 62
"""The number that tokens draw by in the place of a canvas's, above those of canvases, of attempts at them, and of the
confidence of what is extracted."""
_BLOCK = 64
# The least log probability that a class is given; what is less likely than that is a matter of rounding.
_LOWEST = -1e30


class TokenDraws:
    """The draws of an answer's tokens, by their places."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._blocks: dict[int, PositionRandom] = {}

    def sample(self, start: int, count: int) -> Tensor:
        """Float64 [count] in [0, 1): pick the tokens from place ``start`` on."""
        return torch.stack([self._block(place).sample[place % _BLOCK] for place in range(start, start + count)])

    def token_class(self, place: int) -> float:
        """In [0, 1): picks the class of a token that a constraint holds."""
        return float(self._block(place).path[place % _BLOCK, 0])

    def _block(self, place: int) -> PositionRandom:
        number = place // _BLOCK
        if number not in self._blocks:
            # Of those before nothing is asked any more, but for a draft that reaches over the border.
            self._blocks = {own: block for own, block in self._blocks.items() if own >= number - 1}
            self._blocks[number] = PositionRandom(self._seed, STREAM, number, _BLOCK)
        return self._blocks[number]


@dataclass(frozen=True)
class NextTokens:
    """Token classes that a constraint lets stand next, and the state that each of them leads to."""

    classes: NDArray[np.int64]
    states: NDArray[np.int64]

    @classmethod
    def after(cls, compiled: CompiledConstraint, state: int, left: int) -> "NextTokens":
        """Return those that may follow ``state`` when ``left`` tokens may stand, this one included: from their targets
        the text can still be finished."""
        automaton = compiled.automaton
        edges = slice(*automaton.edge_start[state : state + 2])
        targets, groups = automaton.edge_target[edges], automaton.edge_group[edges]
        ends = targets == automaton.end
        fits = ends | (automaton.distance[np.where(ends, 0, targets)] <= left - 1)
        targets, groups = targets[fits], groups[fits]
        # The classes of all groups, one group's after the other's.
        start = automaton.group_start[groups]
        lengths = automaton.group_start[groups + 1] - start
        within = np.arange(lengths.sum()) - np.repeat(lengths.cumsum() - lengths, lengths)
        return cls(automaton.group_class[np.repeat(start, lengths) + within], np.repeat(targets, lengths))

    def state(self, token_class: int) -> int | None:
        """Return where a class leads; None where it must not stand."""
        (found,) = np.nonzero(self.classes == token_class)
        return int(self.states[found[0]]) if len(found) else None


@dataclass(frozen=True)
class Drawn:
    """A token that a row gave."""

    token: int
    log_allowed: float = 0.0
    """The log of the model's own probability that some token stands there which the constraint allows."""
    logprob: TokenLogprob | None = None


class Tokens:
    """An answer's tokens so far, the rules for the next ones, and the text that they make."""

    def __init__(self, runtime: Runtime, request: Request) -> None:
        self._runtime, self._request = runtime, request
        self.text = answer_text(runtime, request, request.stop)
        self.budget = thought_budget(request)
        self.finish: FinishReason | None = None
        self.logprobs: list[TokenLogprob] = []
        self.log_allowed = 0.0
        """The log probability that tokens which nothing held to the constraint would have kept to it."""
        self.state = None if request.constraint is None else request.constraint.automaton.start
        """The constraint's, behind the answer so far; None without one."""
        self.count = 0
        """The number of tokens that were written, also where a stop string took some of them from the answer."""
        self.deadline_reached = False
        self._draws = TokenDraws(request.seed)
        self._chunks = 0

    @property
    def room(self) -> int:
        """Tokens that may still be written, end tokens not counted."""
        return self._request.max_tokens - self.count

    def spec(self, drafted: Sequence[int] = ()) -> ReadoutSpec:
        """Return what to read of the rows [1 + D] that say what stands behind the answer, and behind each of the D
        ``drafted`` tokens that may follow it."""
        request = self._request
        constraint, rows = request.constraint, 1 + len(drafted)
        masks = self._runtime.mask_classes if constraint is None else None
        top = 0 if request.top_logprobs is None else max(1, request.top_logprobs)
        return ReadoutSpec(
            request.temperature if request.temperature > 0 else 1.0,
            None if request.temperature == 0 else self._draws.sample(self.count, rows),
            top_logprobs=self._runtime.top_of_text(top),
            classes=masks if constraint is None else constraint.classes,
            shaping=self._shaping(drafted),
        )

    def rows(self, reading: Reading) -> Task[tuple[Readout, Sequence[int]]]:
        """Return the readout of what ``spec`` asked for, and the token [C] that each row gives, whatever a constraint
        says of it; GenerationError where the model's output is not a number."""
        readout = self._conditioned(reading.readout)
        finite = readout.entropy.isfinite()
        values = yield from on_host(torch.stack([readout.sample, finite.to(readout.sample)]))
        tokens, known = values[: len(readout.sample)], values[len(readout.sample) :]
        if not all(known):
            raise GenerationError(
                f"the model's output is not a number at token {self.count + list(known).index(0)} of the answer; the "
                "checkpoint's weights are damaged, or too large for this dtype. Try dtype='float32', or load the "
                "checkpoint afresh"
            )
        return readout, tokens

    def choose(self, readout: Readout, row: int, drawn: int) -> Drawn:
        """Return the token that stands next by row ``row`` of a readout, of which ``drawn`` is the sample."""
        if self.budget is not None and self.budget.spent:
            # The thought ends here, whatever the model would say.
            return Drawn(self.budget.closing, logprob=self._logprob(readout, row, self.budget.closing, 0.0))
        constraint = self._request.constraint
        if constraint is None or self.state is None:
            return Drawn(drawn, logprob=self._logprob(readout, row, drawn))
        assert readout.classes is not None, "the readout of a constrained request has class sums"
        classes = readout.classes.rows(slice(row, row + 1))
        following = NextTokens.after(constraint, self.state, self.room)
        if not len(following.classes):
            raise ConstraintError("the constraint lets no text be finished from here; allow more tokens")
        return self._constrained(classes, following)

    def take(self, drawn: Drawn) -> Chunk:
        """Make a token part of the answer."""
        token, request = drawn.token, self._request
        self._advance(token)
        self.log_allowed += drawn.log_allowed
        ended = token in request.ends
        if not ended:
            self.count += 1
            if self.budget is not None:
                self.budget.take([token])
        if ended:
            self.finish = "stop"
        elif request.constraint is not None and self.state is not None:
            if request.constraint.complete(self.state) or not self.room:
                self.finish = "stop"
        elif not self.room:
            self.finish = "length"
        if self.finish is None and passed(request.deadline):
            self._end_in_time()
        before = len(self.text.token_ids)
        thought, text = self.text.add(() if ended else (token,), last=self.finish is not None)
        if self.text.stopped:
            self.finish = "stop"
        own = tuple(self.text.token_ids[before:])
        logprobs = () if drawn.logprob is None or not own else (drawn.logprob,)
        self.logprobs += logprobs
        self._chunks += 1
        return Chunk(self._chunks - 1, text, own, 0, True, thought, logprobs)

    def _end_in_time(self) -> None:
        """End the answer here, where the deadline has passed; DeadlineError where the constraint allows no end."""
        constraint, deadline = self._request.constraint, self._request.deadline
        assert deadline is not None, "a deadline has passed"
        if constraint is not None and self.state is not None and not constraint.accepts(self.state):
            fewest = int(constraint.automaton.distance[self.state])
            raise deadline.unfinished(fewest, self.count, fewest, "token")
        self.finish = "length" if constraint is None else "stop"
        self.deadline_reached = True

    def alike(self, drafted: Sequence[int]) -> int:
        """Return how many of the ``drafted`` tokens may stand before the rules of a thought's budget change, which hold
        for all rows that are read together."""
        if self.budget is None:
            return len(drafted)
        return self.budget.unchanged(drafted)

    def fitting(self, tokens: Sequence[int]) -> int:
        """Return how many of the ``tokens`` that may come next the constraint lets stand."""
        constraint, state = self._request.constraint, self.state
        if constraint is None or state is None:
            return len(tokens)
        for place, token in enumerate(tokens):
            if state == constraint.automaton.end:
                return place
            following = NextTokens.after(constraint, state, self.room - place)
            found = following.state(int(constraint.automaton.token_class[token]))
            if found is None:
                return place
            state = found
        return len(tokens)

    def _advance(self, token: int) -> None:
        """Follow the constraint; ConstraintError where it does not let the token stand."""
        constraint = self._request.constraint
        if constraint is None or self.state is None:
            return
        own = int(constraint.automaton.token_class[token])
        # What was drawn was drawn among what fits; the end of a thought is put there whether or not it does.
        state = NextTokens.after(constraint, self.state, self.room).state(own)
        if state is None:
            raise ConstraintError(
                f"token {token} cannot stand at place {self.count} of the answer: the constraint allows others only"
            )
        self.state = state

    def _constrained(self, classes: ClassReadout, following: NextTokens) -> Drawn:
        """Draw from the model's distribution over the tokens of the classes that may follow, or take the likeliest."""
        own = torch.from_numpy(following.classes)
        mass, peak = (part[0].cpu()[own].double().numpy() for part in (classes.mass, classes.peak))
        with np.errstate(divide="ignore"):
            # Of a class too unlikely for a sum in float32, its likeliest token stands for all.
            weight = np.maximum(np.log(mass), peak)
        weight[~np.isfinite(peak)] = -np.inf
        if not (weight > -np.inf).any():
            raise ConstraintError(
                f"every token that the constraint allows at place {self.count} of the answer is forbidden by another "
                "parameter"
            )
        top = float(weight.max())
        shares = np.exp(weight - top)
        log_allowed = min(0.0, top + math.log(shares.sum())) if top > _LOWEST else top
        if self._request.temperature == 0:
            token_class = int(following.classes[int(peak.argmax())])
            return Drawn(int(classes.argmax[0, token_class]), log_allowed)
        cumulative = shares.cumsum()
        at = np.searchsorted(cumulative, self._draws.token_class(self.count) * cumulative[-1], side="right")
        # What rounding put at the very end belongs to the last that weighs something.
        at = min(int(at), int(np.searchsorted(cumulative, cumulative[-1])))
        device = classes.argmax.device
        chosen = torch.tensor([int(following.classes[at])], device=device)
        uniforms = self._draws.sample(self.count, 1).to(device)
        return Drawn(int(classes.draw(chosen, uniforms)[0]), log_allowed)

    def _conditioned(self, readout: Readout) -> Readout:
        """Return the readout of rows given that no mask stands there, of a model that has one."""
        if self._runtime.mask is None or self._request.constraint is not None:
            return readout
        greedy = self._request.temperature == 0
        return self._runtime.of_text(readout, None if greedy else self._draws.sample(self.count, len(readout.argmax)))

    def _logprob(self, readout: Readout, row: int, token: int, own: float | None = None) -> TokenLogprob | None:
        """Return the log probability of a token at a row, ``own`` where it was put there; None unless asked for."""
        wanted = self._request.top_logprobs
        if wanted is None or readout.top_ids is None or readout.top_logprobs is None:
            return None
        ids, logprobs = readout.top_ids[row].tolist(), readout.top_logprobs[row].tolist()
        own = dict(zip(ids, logprobs, strict=True)).get(token) if own is None else own
        if own is None:
            tokens = readout.argmax.clone()
            tokens[row] = token
            own = float(readout.logprob(tokens)[row])
        top = tuple((one, value) for one, value in zip(ids, logprobs, strict=True) if value > -math.inf)
        return TokenLogprob(token, own, top[:wanted])

    def _shaping(self, drafted: Sequence[int]) -> Shaping | None:
        """Return what the request does to the logits of the next rows; None for nothing."""
        request, budget = self._request, self.budget
        forbidden = () if budget is None else budget.forbidden
        if request.sampling == NOTHING and not forbidden:
            return None
        # Each row counts the drafted tokens before it; of the last position nothing stands yet.
        stands = torch.ones(1 + len(drafted), dtype=torch.bool)
        stands[-1] = False
        standing = Standing(torch.tensor([*drafted, 0]), stands, torch.zeros_like(stands))
        return request.sampling.shaping(
            request.end_token_ids, self._runtime.mask, self.text.token_ids, standing, forbidden
        )
