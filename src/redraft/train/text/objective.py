"""The absorbing-mask objective (MDLM, Sahoo et al. 2024; LLaDA, Nie et al. 2025): what is hidden of a clean canvas, how
its guess is scored, and a causal loss on clean answers beside it.

The prompt stays as it is. With t ~ U(0, 1) the number of masks on n positions is uniform from 0 to n, so that number is
drawn here, from 1 on, and where they stand after it; n divided by it is in the place of 1/t.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from redraft.canvas.corruption import MaskOrder
from redraft.errors import DataError
from redraft.train.text.encoding import CleanCanvas, EncodedQuestion, EncodedRecord
from redraft.train.text.tree import Tree

Loss = Literal["mask", "mask-weighted"]
ANYWHERE = 0.25
"""Share of canvases with masks anywhere where they are revealed from left to right: a draft leaves others."""
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class ObjectiveConfig:
    """``loss`` "mask" is the mean cross-entropy of masked positions, "mask-weighted" the bound on the likelihood: each
    canvas's sum divided by its share of masks, over all its positions."""

    loss: Loss = "mask"
    fully_masked: float = 0.15
    """Share of canvases of which nothing is shown, as where an answer begins."""
    complementary: float = 0.0
    """Share of canvases that are shown twice, the second time with masks on the other positions."""
    views: int = 1
    """Times that a canvas is shown, each with masks of its own: its context, most of the rows, is computed once. Their
    numbers of masks are spread evenly from one to all."""
    causal_share: float = 0.3
    """Share of questions whose clean answer is trained as the base was, each token from those before it."""
    rollout_share: float = 0.0
    """Share of canvases, once rollouts have begun, on which the model's own sampler has taken steps."""
    rollout_from: float = 0.75
    """Progress of the run, from 0 to 1, at which rollouts begin."""
    rollout_steps: int = 3
    """The most steps that a rollout takes."""
    rollout_threshold: float = 0.9
    """The probability from which on a rollout reveals a token."""

    def __post_init__(self) -> None:
        if self.loss not in get_args(Loss):
            raise ValueError(f"loss {self.loss!r} is not known; choose one of {', '.join(get_args(Loss))}")
        for name in ("fully_masked", "complementary", "causal_share", "rollout_share", "rollout_from"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} {getattr(self, name)} must be a share from 0 to 1")
        for name in ("rollout_steps", "views"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} must be at least 1")
        if not 0 < self.rollout_threshold <= 1:
            raise ValueError(f"rollout_threshold {self.rollout_threshold} must be a probability above 0")


@dataclass(frozen=True, eq=False)
class NoisyCanvas:
    """A canvas of which some positions are masks, in a tree."""

    start: int
    """The row of its tree that says what stands at its first position; the others follow."""
    clean: CleanCanvas
    hidden: Bools
    """[C]: the masks."""
    weighted: bool
    """Scored by the bound instead of the mean."""
    task: str
    sampled_steps: int = 0
    """Steps that the model's sampler takes on it before it is scored."""


@dataclass(frozen=True)
class CausalTarget:
    """A token that a row of clean text predicts."""

    row: int
    token: int
    weight: float


@dataclass
class Example:
    """A tree, and what is scored in it."""

    tree: Tree = field(default_factory=Tree)
    canvases: list[NoisyCanvas] = field(default_factory=list)
    causal: list[CausalTarget] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class View:
    """One way in which a canvas is shown."""

    hidden: Bools
    sampled_steps: int = 0


@dataclass(frozen=True)
class QuestionPlan:
    """A question as it is trained this time: the views of each of its canvases, and whether its clean answer is."""

    question: EncodedQuestion
    views: tuple[tuple[View, ...], ...]
    causal: bool
    weighted: bool = False

    @property
    def rows(self) -> int:
        """An upper bound of the rows it takes beside the prompt."""
        noisy = sum(
            len(views) * (len(canvas.tokens) + 1)
            for canvas, views in zip(self.question.canvases, self.views, strict=True)
        )
        return noisy + sum(len(canvas.tokens) for canvas in self.question.canvases[: None if self.causal else -1])


@dataclass(frozen=True)
class MaskObjective:
    """Makes trees of records. What is drawn for record ``index`` depends on (seed, index) and the progress alone."""

    config: ObjectiveConfig
    mask_token: int
    max_rows: int
    """The most rows of a tree; a record's questions are spread over as many trees as that takes."""
    seed: int = 0
    order: MaskOrder = "any"
    """The order in which the model reveals masks; "left-to-right" puts them on the rest of each gap."""

    def examples(self, record: EncodedRecord, index: int, progress: float) -> list[Example]:
        """Lay a record out.

        Raises DataError for a question that does not fit into a tree.
        """
        plans = [
            self._plan(question, np.random.default_rng([self.seed, index, number]), progress)
            for number, question in enumerate(record.questions)
        ]
        return [lay_out(group, record.shared, self.mask_token) for group in self._groups(plans, record)]

    def _plan(self, question: EncodedQuestion, rng: np.random.Generator, progress: float) -> QuestionPlan:
        causal = bool(rng.random() < self.config.causal_share)
        views = tuple(tuple(self._views(canvas, rng, progress)) for canvas in question.canvases)
        return QuestionPlan(question, views, causal, self.config.loss == "mask-weighted")

    def _views(self, canvas: CleanCanvas, rng: np.random.Generator, progress: float) -> Iterator[View]:
        config, free = self.config, np.array(canvas.free)
        for number in range(config.views):
            # Drawn in any case, so that the other draws do not depend on the progress.
            rolled_out, twice, whole = rng.random(3)
            steps = int(rng.integers(1, config.rollout_steps + 1))
            share = number / config.views, (number + 1) / config.views
            if whole < config.fully_masked:
                hidden = free
            elif self.order == "left-to-right" and rng.random() >= ANYWHERE:
                hidden = rests(canvas, rng)
            else:
                hidden = masked(free, rng, share)
            if progress >= config.rollout_from and rolled_out < config.rollout_share:
                yield View(free, steps)
                continue
            yield View(hidden)
            others = free & ~hidden
            if twice < config.complementary and others.any():
                yield View(others)

    def _groups(self, plans: Sequence[QuestionPlan], record: EncodedRecord) -> Iterator[list[QuestionPlan]]:
        """Spread questions over trees of at most ``max_rows`` rows."""
        group: list[QuestionPlan] = []
        rows = record.shared
        for number, plan in enumerate(plans):
            own = len(plan.question.prompt) - record.shared + plan.rows
            if record.shared + own > self.max_rows:
                which = "a question" if len(plans) == 1 else f"question {number}"
                raise DataError(
                    f"{record.where}: {which} takes {record.shared + own} tokens, and a batch has {self.max_rows}; "
                    "raise the tokens of a batch, or shorten the record"
                )
            if group and rows + own > self.max_rows:
                yield group
                group, rows = [], record.shared
            group.append(plan)
            rows += own
        if group:
            yield group


def masked(free: Bools, rng: np.random.Generator, share: tuple[float, float] = (0.0, 1.0)) -> Bools:
    """Return which of the ``free`` positions are masks: a number of them that is uniform between two shares of all, and
    at least 1."""
    places = free.nonzero()[0]
    low, high = 1 + int(share[0] * len(places)), max(1, int(share[1] * len(places)))
    hidden = np.zeros_like(free)
    hidden[rng.permutation(places)[: rng.integers(low, max(low, high) + 1)]] = True
    return hidden


def rests(canvas: CleanCanvas, rng: np.random.Generator) -> Bools:
    """Return which free positions are masks: the rest of each gap, from a token of its text on that is drawn, its end
    among them, or nothing of a gap that is done; something of one gap at least."""
    hidden = np.array(canvas.free)
    gaps = stretches(canvas.free)
    shown = []
    for gap in gaps:
        weights = canvas.weights[gap]
        said = 1 + max(place for place, weight in enumerate(weights) if weight == max(weights))
        shown.append((int(rng.integers(said + 1)), said))
    if all(place == said for place, said in shown):
        last = int(rng.integers(len(gaps)))
        shown[last] = int(rng.integers(shown[last][1])), shown[last][1]
    for gap, (place, said) in zip(gaps, shown, strict=True):
        hidden[gap.start : gap.stop if place == said else gap.start + place] = False
    return hidden


def stretches(free: Sequence[bool]) -> list[slice]:
    """Return the stretches of a canvas that are filled in: where ``free`` is True."""
    borders = [i for i in range(len(free) + 1) if (i < len(free) and free[i]) != (i > 0 and free[i - 1])]
    return [slice(start, end) for start, end in list(pairwise(borders))[::2]]


def lay_out(plans: Sequence[QuestionPlan], shared: int, mask_token: int) -> Example:
    """Make one tree of questions whose prompts begin with the same ``shared`` tokens."""
    example = Example()
    first = plans[0].question.prompt[:shared]
    root = example.tree.add(first, None) if first else None
    for plan in plans:
        rest = plan.question.prompt[shared:]
        _lay_out_question(example, plan, example.tree.add(rest, root) if rest else root, mask_token)
    return example


def _lay_out_question(example: Example, plan: QuestionPlan, parent: int | None, mask_token: int) -> None:
    question = plan.question
    if parent is None:
        raise DataError("a prompt is empty; a canvas needs a token before it")
    for number, (canvas, views) in enumerate(zip(question.canvases, plan.views, strict=True)):
        for view in views:
            shown = np.where(view.hidden, mask_token, canvas.tokens).tolist()
            start = example.tree.segments[example.tree.add_canvas(shown, parent)].start
            example.canvases.append(
                NoisyCanvas(start, canvas, view.hidden, plan.weighted, question.task, view.sampled_steps)
            )
        followed = number + 1 < len(question.canvases)
        # Of the last clean canvas nothing is needed but to be scored: the token that comes last predicts nothing.
        clean = canvas.tokens if followed else canvas.tokens[: _scored(canvas) - 1] if plan.causal else ()
        copy = example.tree.add(clean, parent) if clean else None
        if plan.causal:
            _add_causal(example, canvas, example.tree.last_row(parent), copy)
        if copy is not None:
            parent = copy


def _add_causal(example: Example, canvas: CleanCanvas, before: int, copy: int | None) -> None:
    """Score a clean canvas: row ``before`` predicts its first token, each row of the copy the one after its own."""
    start = None if copy is None else example.tree.segments[copy].start
    for place in range(_scored(canvas)):
        if canvas.free[place]:
            row = before if place == 0 or start is None else start + place - 1
            example.causal.append(CausalTarget(row, canvas.tokens[place], canvas.weights[place]))


def _scored(canvas: CleanCanvas) -> int:
    """Return how many first positions hold all that is no filler at the end."""
    heaviest = max(canvas.weights)
    return max(place for place, weight in enumerate(canvas.weights) if weight == heaviest) + 1
