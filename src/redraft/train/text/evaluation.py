"""Held-out records, measured during training: masked tokens that are guessed right, and canvases by the sampler."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from redraft.train.text.adapters import TrainedModel
from redraft.train.text.batch import Batch, pack
from redraft.train.text.encoding import CleanCanvas, EncodedQuestion, EncodedRecord
from redraft.train.text.objective import Bools, Example, QuestionPlan, View, lay_out, stretches
from redraft.train.text.rollout import Sampler

RATIOS = (1.0, 0.5, 0.1)
# A canvas takes all the steps early in a run, and each computes its whole batch.
THRESHOLD, STEPS = 0.9, 8
# Decides which positions are masked, the same ones at every measurement.
SEED = 7


@dataclass(frozen=True)
class Evaluation:
    """Measures a model on encoded records. Its clean answer stands before each canvas but the first."""

    records: Sequence[EncodedRecord]
    mask_token: int
    end_token: int
    batch_tokens: int

    def __call__(self, model: TrainedModel) -> dict[str, float]:
        """Return shares by name: token accuracy by the share that is masked, slots and canvases that come out exact.
        Slots also by task, and by the kind of a schema's value."""
        found = {f"accuracy at {100 * ratio:.0f}% masked": self._accuracy(model, ratio) for ratio in RATIOS}
        return found | self._exact(model)

    @torch.no_grad()
    def _accuracy(self, model: TrainedModel, ratio: float) -> float:
        right = count = 0
        for batch in self._batches(ratio):
            hidden = model.hidden(batch)
            for canvas in batch.canvases:
                # Fillers are masked as well, but not counted.
                places = (canvas.hidden & (canvas.weights == canvas.weights.max())).nonzero()[:, 0]
                logits = model.logits(hidden[(canvas.first + places).to(hidden.device)])
                right += int((logits.argmax(-1).cpu() == canvas.clean[places]).sum())
                count += len(places)
        return right / max(1, count)

    def _exact(self, model: TrainedModel) -> dict[str, float]:
        sampler = Sampler(model, THRESHOLD, STEPS)
        slots: dict[str, list[bool]] = defaultdict(list)
        kinds: dict[str, list[bool]] = defaultdict(list)
        whole: list[bool] = []
        steps: list[int] = []
        for batch in self._batches(1.0):
            taken = _sample(sampler, batch)
            flat = batch.tokens.cpu()
            for canvas, number in zip(batch.canvases, taken, strict=True):
                got = flat[canvas.first + 1 : canvas.first + 1 + len(canvas.clean)].tolist()
                right = [self._same(got[own], canvas.clean[own].tolist()) for own in stretches(canvas.free.tolist())]
                slots[canvas.task] += right
                for kind, one in zip(canvas.kinds, right, strict=bool(canvas.kinds)):
                    kinds[kind].append(one)
                whole.append(all(right))
                steps.append(number)
        every = [one for own in slots.values() for one in own]
        found = {
            "exact slots": _mean(every),
            "exact canvases": _mean(whole),
            "mean steps": _mean(steps),
        }
        by_task = {f"exact slots, {task}": _mean(own) for task, own in sorted(slots.items())}
        by_kind = {f"exact slots, {kind}": _mean(own) for kind, own in sorted(kinds.items())}
        return found | (by_task if len(by_task) > 1 else {}) | by_kind

    def _same(self, got: Sequence[int], clean: Sequence[int]) -> bool:
        return self._text(got) == self._text(clean)

    def _text(self, tokens: Sequence[int]) -> list[int]:
        """Return what stands before the end."""
        return list(tokens[: tokens.index(self.end_token) if self.end_token in tokens else len(tokens)])

    def _batches(self, ratio: float) -> Iterator[Batch]:
        chosen: list[Example] = []
        for index, record in enumerate(self.records):
            rng = np.random.default_rng([SEED, index])
            plans = [self._plan(question, ratio, rng) for question in record.questions]
            example = lay_out(plans, record.shared, self.mask_token)
            if chosen and sum(len(one.tree) for one in chosen) + len(example.tree) > self.batch_tokens:
                yield pack(chosen)
                chosen = []
            chosen.append(example)
        if chosen:
            yield pack(chosen)

    def _plan(self, question: EncodedQuestion, ratio: float, rng: np.random.Generator) -> QuestionPlan:
        return QuestionPlan(question, tuple((View(_some(one, ratio, rng)),) for one in question.canvases), False)


def _some(canvas: CleanCanvas, ratio: float, rng: np.random.Generator) -> Bools:
    """Return so many of a canvas's free positions, one at least."""
    free = np.array(canvas.free)
    places = rng.permutation(free.nonzero()[0])
    hidden = np.zeros_like(free)
    hidden[places[: max(1, round(ratio * len(places)))]] = True
    return hidden


def _sample(sampler: Sampler, batch: Batch) -> list[int]:
    """Denoise all canvases of a batch to their ends; returns the steps that each took."""
    taken = [0] * len(batch.canvases)
    for number in range(1, sampler.steps + 1):
        open = [index for index, canvas in enumerate(batch.canvases) if canvas.hidden.any()]
        if not open:
            break
        sampler.advance(batch, [batch.canvases[index] for index in open], number)
        for index in open:
            taken[index] = number
    return taken


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(1, len(values))
