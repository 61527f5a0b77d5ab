"""A scheduler and a model runner in the manner of vLLM, over a model of ours in plain torch."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from redraft.engine.memory import KVPool, PooledCache
from redraft.engine.request import Request
from redraft.models.base import Mode, Span
from redraft.models.family import PlainModel
from redraft.vllm_plugin.canvases import Canvases, Input, Output, Share, Writing


@dataclass(eq=False)
class Served:
    """A request as vLLM's scheduler has it."""

    request: Request
    max_tokens: int
    cache: PooledCache
    ends: tuple[int, ...]
    output: list[int] = field(default_factory=list)
    finish: str | None = None
    error: Exception | None = None

    @property
    def context(self) -> list[int]:
        return [*self.request.prompt, *self.output]


class TinyVLLM:
    """Schedules prefills in chunks, canvases and commits of all requests in one forward, as long as a budget lasts."""

    def __init__(self, model: PlainModel, canvases: Canvases, budget: int = 64) -> None:
        self.model, self.canvases, self.budget = model, canvases, budget
        self.pool = KVPool.of(model)
        self.running: dict[int, Served] = {}
        self.suspended: dict[int, tuple[Served, Writing]] = {}
        self.forwards = self.batches_of_many = 0

    def add(self, slot: int, request: Request, max_tokens: int | None = None) -> Served:
        self.canvases.add(slot, request)
        cache, _ = self.pool.open(request.prompt)
        served = Served(request, request.max_tokens if max_tokens is None else max_tokens, cache, request.ends)
        self.running[slot] = served
        return served

    def preempt(self, slot: int) -> None:
        """Take a request's blocks away; its task stays."""
        writing = self.canvases.remove(slot)
        assert writing is not None
        self.suspended[slot] = self.running.pop(slot), writing

    def resume(self, slot: int, lost: int = 0) -> None:
        """Go on, where the last ``lost`` tokens never arrived."""
        served, writing = self.suspended.pop(slot)
        served.output = served.output[: len(served.output) - lost]
        served.cache, _ = self.pool.open(served.request.prompt)
        writing.go_on_from(len(served.output))
        self.canvases.slots[slot] = writing
        self.running[slot] = served

    def finish(self) -> None:
        while self.running:
            self.step()

    def step(self, spoil: int | None = None) -> list[Output]:
        """Do one forward. ``spoil``: the slot whose logits become NaN."""
        left, spans, shares, inputs = self.budget, list[Span](), list[Share](), list[Input]()
        for slot, served in self.running.items():
            missing = served.context[served.cache.length :]
            if missing and left:
                spans.append(Span(torch.tensor(missing[:left]), served.cache, "encode"))
                left -= len(spans[-1].tokens)
            elif not missing and (asked := self.canvases.slots[slot].input) is not None:
                if len(asked.tokens) > left:
                    continue
                left -= len(asked.tokens)
                mode: Mode = "encode" if asked.encode else "denoise"
                wanted = len(asked.tokens) if asked.encode else 0
                spans.append(Span(asked.tokens, served.cache, mode, asked.self_conditioning, wanted=wanted))
                shares.append(Share(slot, sum(share.rows for share in shares), len(asked.tokens)))
                inputs.append(asked)
        assert spans, "somebody has something to do"
        self.forwards += 1
        self.batches_of_many += len(spans) > 1
        with torch.inference_mode():
            hidden = self.model.forward(spans)
            logits = [self.model.logits(own) for own in hidden if own is not None]
        rows = torch.cat(logits) if logits else torch.empty(0, 0)
        for share in shares:
            if share.slot == spoil:
                rows[share.first + 1] = float("nan")
        outputs = self.canvases.step(rows, shares)
        for share, asked, output in zip(shares, inputs, outputs, strict=True):
            self._take(share.slot, asked, output)
        return outputs

    def _take(self, slot: int, asked: Input, output: Output) -> None:
        served = self.running[slot]
        if output.error is not None:
            served.error, served.finish = output.error, "error"
        assert list(output.tokens) == (asked.tokens.tolist() if asked.encode else [])
        for token in output.tokens:
            served.output.append(token)
            if token in served.ends:
                served.finish = "stop"
                served.output.pop()
            elif len(served.output) == served.max_tokens or len(served.context) == served.request.context_length:
                served.finish = "length"
            if served.finish is not None:
                break
        if served.finish is not None:
            served.cache.close()
            del self.running[slot]
            self.canvases.remove(slot)


def cut(logits: Tensor, share: Share) -> tuple[Tensor, list[Share]]:
    """What a budget that ends in the middle of a canvas leaves of it."""
    return logits[:3], [Share(share.slot, 0, 3)]
