"""``Engine``: one model, its tokenizer, and ``generate``."""

import inspect
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import torch

from redraft.canvas.acceptance import AcceptanceRule, EntropyBound
from redraft.canvas.schedule import LinearTemperature
from redraft.canvas.stopping import StableAndConfident, StoppingRule
from redraft.engine import request as checks
from redraft.engine.prefix import PrefixCache
from redraft.engine.request import Request
from redraft.engine.result import Chunk, FinishReason, Result, StepEvent, Usage
from redraft.engine.runner import denoise_canvas
from redraft.engine.text import TextStream
from redraft.errors import RequestError
from redraft.models.base import BlockDiffusionModel
from redraft.models.tokenizer import ChatTokenizer

Prompt = str | Sequence[int] | Sequence[Mapping[str, Any]]


class Generation(Iterator[Chunk]):
    """An answer under way: iterate for its chunks, one a canvas; ``result`` runs what is left and returns the whole."""

    def __init__(self, engine: "Engine", request: Request, on_step: Callable[[StepEvent], None] | None) -> None:
        self._result: Result | None = None
        self._chunks = self._run(engine, request, on_step)

    def __next__(self) -> Chunk:
        return next(self._chunks)

    def result(self) -> Result:
        """Finish the answer and return it."""
        for _ in self._chunks:
            pass
        if self._result is None:
            raise RuntimeError("the generation ended with an error, which was raised where it was iterated")
        return self._result

    def _run(self, engine: "Engine", request: Request, on_step: Callable[[StepEvent], None] | None) -> Iterator[Chunk]:
        began = time.perf_counter()
        cache, cached = engine.prefixes.encode(request.prompt)
        stream = TextStream(engine.tokenizer.decode, request.stop)
        first_token = 0.0
        steps, unconverged, finish, index = 0, [], None, 0
        encoded, uncommitted = len(request.prompt), None
        while finish is None:
            # A canvas is never cut short for max_tokens: the model was trained on whole ones. Only the end of the
            # context leaves no room for one.
            length = min(request.canvas_length, request.context_length - encoded)
            canvas = denoise_canvas(engine.model, cache, request, index, length, on_step, uncommitted)
            steps += canvas.denoising_steps
            if not canvas.converged:
                unconverged.append(index)
            kept, finish = _cut(canvas.tokens.tolist(), request, len(stream.token_ids))
            encoded += length
            if finish is None and encoded == request.context_length:
                finish = "length"
            before = len(stream.token_ids)
            text = stream.add(kept, last=finish is not None)
            if stream.stopped:
                finish = "stop"
            first_token = first_token or time.perf_counter() - began
            yield Chunk(index, text, tuple(stream.token_ids[before:]), canvas.denoising_steps, canvas.converged)
            index += 1
            # Handed out before it is committed, which the next canvas's first step does; after the last one nothing.
            uncommitted = canvas.tokens
        engine.prefixes.keep(cache, request.prompt)
        self._result = Result(
            text=stream.text,
            token_ids=tuple(stream.token_ids),
            finish_reason=finish,
            seed=request.seed,
            unconverged_canvases=tuple(unconverged),
            usage=Usage(
                prompt_tokens=len(request.prompt),
                cached_prompt_tokens=cached,
                completion_tokens=len(stream.token_ids),
                canvases=index,
                denoising_steps=steps,
                time_to_first_token=first_token,
                seconds=time.perf_counter() - began,
            ),
        )


def _cut(tokens: list[int], request: Request, so_far: int) -> tuple[list[int], FinishReason | None]:
    """What of a finished canvas belongs to the answer, and whether the answer ends with it."""
    end = next((i for i, token in enumerate(tokens) if token in request.end_token_ids), None)
    room = request.max_tokens - so_far
    if end is not None and end <= room:
        return tokens[:end], "stop"
    return tokens[:room], "length" if len(tokens) >= room else None


class Engine:
    """Generates with one model. Not safe for use from several threads at once."""

    def __init__(self, model: BlockDiffusionModel, tokenizer: ChatTokenizer, prefill_chunk: int = 256) -> None:
        """``prefill_chunk``: positions encoded in one forward. Results for one value are bit for bit reproducible;
        between values they differ by the rounding of the dtype."""
        self.model = model
        self.tokenizer = tokenizer
        self.prefixes = PrefixCache(model, checks.check_whole("prefill_chunk", prefill_chunk, 1))

    def generate(self, prompt: Prompt, **parameters: Any) -> Result:
        """Answer ``prompt`` and return the whole answer; parameters and errors as in ``stream``."""
        return self.stream(prompt, **parameters).result()

    def stream(
        self,
        prompt: Prompt,
        *,
        max_tokens: int | None = None,
        seed: int | None = None,
        temperature: float = 1.0,
        max_denoising_steps: int | None = None,
        entropy_bound: float | None = None,
        stop: str | Sequence[str] | None = None,
        canvas_length: int | None = None,
        acceptance: AcceptanceRule | None = None,
        stopping: StoppingRule | None = None,
        on_step: Callable[[StepEvent], None] | None = None,
        **unknown: object,
    ) -> Generation:
        """Start answering ``prompt``: a raw text, token ids, or chat messages (``{"role", "content"}``).

        max_tokens: at most so many tokens, by default what the context has left. seed: 0 .. 2**64-1, by default a
        random one, which the result names. temperature: scales the checkpoint's schedule; 0 takes the argmax for a
        sample. max_denoising_steps, entropy_bound (nats a canvas): by default the checkpoint's. stop: strings at
        which the answer ends, not part of it. canvas_length: positions denoised at once, at most the model's own.
        acceptance: the rule itself in place of the entropy bound, such as ``ConfidenceThreshold``. stopping: the rule
        in place of the checkpoint's stable-and-confident one, such as ``ReproducesCanvas``. on_step: called after
        every denoising step.

        Raises RequestError, before any work, for a prompt or parameter that cannot be honoured, and GenerationError
        while running if the model yields NaN.
        """
        if unknown:
            known = ", ".join(name for name, p in _PARAMETERS.items() if p.kind is p.KEYWORD_ONLY)
            raise RequestError(f"unknown parameter {next(iter(unknown))!r}; known are {known}")
        if acceptance is not None and entropy_bound is not None:
            raise RequestError("entropy_bound and acceptance exclude each other; put the bound into EntropyBound(...)")
        config, defaults = self.model.config, self.model.defaults
        tokens = checks.check_prompt(self._tokenize(prompt), config.vocab_size, config.image_token_ids)
        bound = defaults.entropy_bound if entropy_bound is None else entropy_bound
        steps = defaults.max_denoising_steps if max_denoising_steps is None else max_denoising_steps
        length = config.canvas_length if canvas_length is None else canvas_length
        request = Request(
            prompt=tokens,
            max_tokens=checks.check_length(max_tokens, len(tokens), config.context_length),
            canvas_length=checks.check_whole("canvas_length", length, 1, config.canvas_length),
            seed=checks.check_seed(seed),
            temperature=checks.check_temperature(temperature),
            max_denoising_steps=checks.check_whole("max_denoising_steps", steps, 1),
            schedule=LinearTemperature(defaults.t_max, defaults.t_min),
            acceptance=acceptance or EntropyBound(checks.check_number("entropy_bound", bound, 0)),
            stopping=stopping or StableAndConfident(defaults.stability_threshold, defaults.confidence_threshold),
            stop=checks.check_stop(stop),
            end_token_ids=defaults.end_token_ids,
            context_length=config.context_length,
        )
        return Generation(self, request, on_step)

    def _tokenize(self, prompt: Prompt) -> Sequence[int]:
        if isinstance(prompt, str):
            if not prompt:
                raise RequestError("the prompt is empty; give some text")
            return self.tokenizer.encode(prompt)
        if len(prompt) and isinstance(prompt[0], Mapping):
            return self.tokenizer.encode_chat(cast(Sequence[Mapping[str, Any]], prompt))
        return prompt.tolist() if isinstance(prompt, torch.Tensor) else cast(Sequence[int], prompt)


_PARAMETERS = inspect.signature(Engine.stream).parameters
