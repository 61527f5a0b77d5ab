"""The log-likelihood of a text behind a prompt: exact in the model's causal mode, or a Monte Carlo bound of diffusion.

Every token of the text is read off the row before it; rows of the prompt but the last are not read, and may come out of
the prefix cache.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Literal, cast, get_args

import torch
from torch import Tensor

from redraft.canvas.random import PositionRandom
from redraft.canvas.readout import Readout, ReadoutSpec
from redraft.engine.context import open_context
from redraft.engine.memory import PooledCache
from redraft.engine.request import check_prompt, check_seed, check_text, check_whole
from redraft.engine.result import OnStep, TokenLogprob, Usage
from redraft.engine.runtime import Prompt, Runtime
from redraft.engine.task import Forward, Task, encode, read
from redraft.errors import GenerationError, RequestError, counted
from redraft.models.base import Span
from redraft.models.tokenizer import Check
from redraft.tasks.bound import SAMPLES, estimate

Bound = Literal["monte_carlo"]
MAX_TOP = 20


@dataclass(frozen=True)
class ScoreResult:
    """A text's log-likelihood given the prompt, in natural logarithms; of the text alone, no end token added."""

    log_likelihood: float
    """The sum of ``token_logprobs``; with a bound an unbiased estimate of a lower bound of it."""
    token_ids: tuple[int, ...]
    """The text's tokens."""
    usage: Usage
    token_logprobs: tuple[float, ...] = ()
    """The log-probability of each token given all before it; empty with a bound, which orders tokens otherwise."""
    greedy: tuple[bool, ...] = ()
    """For each token whether it is the likeliest one."""
    logprobs: tuple[TokenLogprob, ...] = ()
    """The same with the likeliest tokens at each position; empty unless asked for."""
    bound: Bound | None = None
    """The name of the bound that ``log_likelihood`` estimates; None where it is exact."""
    samples: int | None = None
    """Masked canvases that the bound was estimated with, of each of the text's canvases."""
    standard_error: float | None = None
    """The bound's standard error, nats; None where it is exact, or cannot be known from one sample."""
    seed: int | None = None
    """The seed of the bound's masks."""
    following: TokenLogprob | None = None
    """One token written behind the text, in the causal mode; None unless asked for."""

    @property
    def is_greedy(self) -> bool:
        """True if every token is the likeliest one: greedy decoding in the causal mode writes the text."""
        return bool(self.greedy) and all(self.greedy)


@dataclass(frozen=True)
class NextToken:
    """A token to write behind the text: how it is drawn."""

    temperature: float = 0.0
    """Divides the logits; 0 takes the likeliest token."""
    seed: int = 0


@dataclass(frozen=True, eq=False)
class ScoreRequest:
    """A text to score that is checked (a ``task.Runnable``)."""

    runtime: Runtime
    prompt: tuple[int, ...]
    text: tuple[int, ...]
    top_logprobs: int | None = None
    """The number of the likeliest tokens that are kept at each position; None keeps none."""
    next_token: NextToken | None = None

    def task(self, on_step: OnStep | None = None) -> Task[ScoreResult]:
        """Begin to score. There are no denoising steps to be told of."""
        began, runtime = perf_counter(), self.runtime
        tokens = torch.tensor([*self.prompt, *self.text], device=runtime.model.device)
        # The row of the text's last token says only what follows it.
        end = len(tokens) - (self.next_token is None)
        first = len(self.prompt) - 1
        # What is read has to be computed: of the cache nothing is used behind the prompt's last token but one.
        cache, cached = yield from open_context(runtime, self.prompt[:first], room=end - first)
        try:
            cache.follow([*self.prompt, *self.text][first:end])
            scored, following, forwards = yield from self._read(cache, tokens, first, end)
        finally:
            cache.close()
        if not all(math.isfinite(one.logprob) for one in scored):
            place = next(place for place, one in enumerate(scored) if not math.isfinite(one.logprob))
            raise GenerationError(
                f"the log-probability of token {place} of the text is {scored[place].logprob}; the checkpoint's "
                "weights are damaged, or too large for this dtype. Try dtype='float32', or load the checkpoint afresh"
            )
        logprobs = tuple(one.logprob for one in scored)
        seconds = perf_counter() - began
        kept = self.top_logprobs
        return ScoreResult(
            math.fsum(logprobs),
            self.text,
            Usage(len(self.prompt), cached, len(self.text), 0, 0, seconds, seconds, forwards),
            logprobs,
            tuple(one.top[0][0] == one.token for one in scored),
            () if kept is None else tuple(replace(one, top=one.top[:kept]) for one in scored),
            following=following,
        )

    def _read(
        self, cache: PooledCache, tokens: Tensor, first: int, end: int
    ) -> Task[tuple[list[TokenLogprob], TokenLogprob | None, int]]:
        """Encode up to ``end``, and read every row from ``first`` on; counts the forwards of these."""
        scored: list[TokenLogprob] = []
        forwards = 0
        following: TokenLogprob | None = None
        spec = self._spec(1.0, None)
        chunk = self.runtime.prefill_chunk
        while cache.length < end:
            start, stop = cache.length, min(cache.length + chunk, end)
            wanted = stop - max(start, first)
            span = Span(tokens[start:stop], cache, "encode", wanted=max(0, wanted))
            if wanted <= 0:
                yield from encode(span)
                continue
            forwards += 1
            reading = yield from read(Forward((span,), spec))
            right = tokens[stop - wanted + 1 : stop + 1]
            scored += _told(self.runtime.of_text(reading.readout, None), right)
            if stop == len(tokens) and self.next_token is not None:
                following = yield from self._follow(self.next_token, reading.hidden[-1:])
        return scored, following, forwards

    def _follow(self, wanted: NextToken, hidden: Tensor) -> Task[TokenLogprob]:
        """Draw the token that follows a row [1, H]."""
        uniforms = None if wanted.temperature == 0 else PositionRandom(wanted.seed, 0, 1, 1).sample
        spec = self._spec(wanted.temperature or 1.0, uniforms)
        readout = self.runtime.of_text((yield from read(Forward(readout=spec, hidden=hidden))).readout, uniforms)
        (following,) = _told(readout, readout.sample)
        return following

    def _spec(self, temperature: float, uniforms: Tensor | None) -> ReadoutSpec:
        # The likeliest token is always wanted: it says which tokens are greedy.
        count = self.runtime.top_of_text(max(1, self.top_logprobs or 0))
        return ReadoutSpec(temperature, uniforms, top_logprobs=count, classes=self.runtime.mask_classes)


@dataclass(frozen=True, eq=False)
class BoundRequest:
    """A text whose log-likelihood is to be bounded, checked (a ``task.Runnable``)."""

    runtime: Runtime
    prompt: tuple[int, ...]
    text: tuple[int, ...]
    samples: int
    seed: int

    def task(self, on_step: OnStep | None = None) -> Task[ScoreResult]:
        """Begin to estimate the bound. There are no denoising steps to be told of."""
        began = perf_counter()
        found = yield from estimate(self.runtime, self.prompt, self.text, self.samples, self.seed)
        seconds = perf_counter() - began
        return ScoreResult(
            found.value,
            self.text,
            Usage(len(self.prompt), found.cached, len(self.text), found.canvases, found.forwards, seconds, seconds),
            bound="monte_carlo",
            samples=self.samples,
            standard_error=found.standard_error,
            seed=self.seed,
        )


def score(
    runtime: Runtime,
    prompt: Prompt,
    text: str | Sequence[int],
    *,
    top_logprobs: int | None = None,
    bound: Bound | None = None,
    samples: int | None = None,
    seed: int | None = None,
    check: Check | None = None,
) -> ScoreRequest | BoundRequest:
    """Check a request for the log-likelihood of ``text`` (a string or token ids) behind ``prompt``.

    A string behind a string is tokenized together with it, as one text, and split where the prompt's tokens end;
    RequestError where one token would span the border. Behind chat messages or token ids a text is tokenized by itself,
    and behind messages names of special tokens in it are text: it is what the model's turn says. An empty prompt is one
    where the tokenizer begins every text with a token of its own.

    top_logprobs: keep so many of the likeliest tokens at each position, 0 to 20. bound: None for the exact likelihood
    of the causal mode; "monte_carlo" for the evidence lower bound of an absorbing family's diffusion (Sahoo et al.,
    arXiv 2406.07524; Nie et al., arXiv 2502.09992), from ``samples`` masked canvases (128 by default) drawn by
    ``seed``. check: as in ``Runtime.tokenize``.

    Raises RequestError, before any work, for what cannot be scored.
    """
    kept = None if top_logprobs is None else check_whole("top_logprobs", top_logprobs, 0, MAX_TOP)
    check_bound(bound, samples, seed)
    if bound is not None and kept is not None:
        raise RequestError("top_logprobs and bound exclude each other; a bound has no log-probabilities of tokens")
    before, own = tokens_of(runtime, prompt, text, check)
    _check_room(runtime, len(before), len(own))
    if bound is None:
        check_causal(runtime)
        return ScoreRequest(runtime, before, own, kept)
    if runtime.mask is None:
        raise RequestError(
            "bound 'monte_carlo' is for families whose noise is a mask, and this one's is not; leave it out, for the "
            "causal mode has an exact likelihood"
        )
    return BoundRequest(runtime, before, own, SAMPLES if samples is None else samples, check_seed(seed))


def check_bound(bound: object, samples: int | None, seed: int | None) -> None:
    """Raise RequestError for a bound that there is not, and for what draws nothing without one."""
    if bound is not None and bound not in get_args(Bound):
        raise RequestError(
            f"bound {bound!r} must be 'monte_carlo', or None for the exact likelihood of the causal mode"
        )
    for name, value in (("samples", samples), ("seed", seed)):
        if bound is None and value is not None:
            raise RequestError(f"{name} is for bound='monte_carlo'; without a bound nothing is drawn, leave it out")
    if samples is not None:
        check_whole("samples", samples, 1)
    if seed is not None:
        check_seed(seed)


def score_all(
    runtime: Runtime, tokens: Sequence[int], *, top_logprobs: int | None = None, next_token: NextToken | None = None
) -> ScoreRequest:
    """Check a request for the log-likelihood of all ``tokens`` but the first, which nothing comes before.

    top_logprobs: as in ``score``. next_token: draw one more token, which is not part of the likelihood.
    """
    config = runtime.model.config
    check_causal(runtime)
    given = check_prompt(tokens, config.vocab_size, config.image_token_ids)
    _check_mask(runtime, given)
    _check_room(runtime, 0, len(given))
    return ScoreRequest(runtime, given[:1], given[1:], top_logprobs, next_token)


def check_causal(runtime: Runtime) -> None:
    """Raise RequestError where the model has no causal mode to score in."""
    if "autoregressive" not in runtime.model.modes:
        raise RequestError(
            "this checkpoint has no causal mode, and so no exact likelihood"
            + ("; bound='monte_carlo' gives a lower bound of it" if runtime.mask_classes is not None else "")
        )


def tokens_of(
    runtime: Runtime, prompt: Prompt, text: str | Sequence[int], check: Check | None = None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the tokens of a prompt and those of the text behind it, as ``score`` says; RequestError for neither."""
    config = runtime.model.config
    if isinstance(text, str):
        check_text("text", text)
    elif isinstance(text, bytes | bytearray | Mapping) or not isinstance(text, Sequence | Tensor):
        raise RequestError(f"text is of type {type(text).__name__}; give a string, or token ids")
    if len(text) == 0:
        raise RequestError("text is empty; give at least one token to score")
    if isinstance(prompt, str):
        before, own = _behind_string(runtime, prompt, text, check)
    else:
        before = list(runtime.tokenize(prompt, check=check))
        if isinstance(text, str):
            # Messages hold no special tokens but the template's, and neither does the turn that follows them.
            messages = bool(before) and isinstance(prompt[0], Mapping)
            own = runtime.tokenizer.encode_text(text, runtime.fits(check), literal=messages)
        else:
            own = _ids(text)
    given = check_prompt(before, config.vocab_size, config.image_token_ids)
    checked = check_prompt(own, config.vocab_size, config.image_token_ids, "text")
    _check_mask(runtime, checked)
    return given, checked


def _behind_string(
    runtime: Runtime, prompt: str, text: str | Sequence[int], check: Check | None
) -> tuple[list[int], list[int]]:
    tokenizer, fits = runtime.tokenizer, runtime.fits(check)
    before = tokenizer.encode(prompt, fits)
    if not before:
        raise RequestError(
            "the prompt is empty, and this tokenizer begins no text with a token of its own, so that nothing says how "
            "likely the first token is; give a prompt"
        )
    if not isinstance(text, str):
        return before, _ids(text)
    whole = tokenizer.encode(prompt + text, fits)
    same = next((at for at, (one, other) in enumerate(zip(before, whole, strict=False)) if one != other), len(before))
    if same < len(before):
        raise RequestError(
            f"the prompt's end {tokenizer.decode_all(before[same:])!r} and the text's beginning make the token "
            f"{tokenizer.piece(whole[same])!r} together, so that no token is the first of the text; move the border, "
            "as a space from the prompt's end to the text's beginning, or give token ids"
        )
    return before, whole[len(before) :]


def _ids(text: Sequence[int] | Tensor) -> list[int]:
    return cast("list[int]", text.tolist()) if isinstance(text, Tensor) else list(text)


def _check_mask(runtime: Runtime, text: Sequence[int]) -> None:
    mask = runtime.mask
    if mask is not None and mask in text:
        raise RequestError(f"text token {text.index(mask)} ({mask}) is the mask, which stands in no text")


def _check_room(runtime: Runtime, before: int, own: int) -> None:
    needed, context, pool = before + own, runtime.model.config.context_length, runtime.pool
    if needed > context:
        raise RequestError(
            f"prompt and text have {counted(needed, 'token')} together and the context holds {context}; shorten them "
            f"by {needed - context}"
        )
    if pool.budget is not None and pool.bytes_for(needed) > pool.budget:
        fits = pool.positions_for(pool.budget, needed)
        raise RequestError(
            f"kv_bytes {pool.budget:,} is too small: the keys and values of the {needed} tokens of prompt and text "
            f"take {pool.bytes_for(needed):,}; {counted(fits, 'token')} would fit"
        )


def _told(readout: Readout, tokens: Tensor) -> list[TokenLogprob]:
    """Return the log-probabilities of ``tokens``, which may be one fewer than the rows that were read."""
    top_ids, top_logprobs = readout.top_ids, readout.top_logprobs
    assert top_ids is not None, "the likeliest tokens were asked for"
    assert top_logprobs is not None, "the likeliest tokens were asked for"
    padded = readout.argmax.clone()
    padded[: len(tokens)] = tokens
    own = readout.logprob(padded).tolist()
    found = []
    for token, logprob, ids, values in zip(tokens.tolist(), own, top_ids.tolist(), top_logprobs.tolist(), strict=False):
        top = tuple(zip(ids, values, strict=True))
        # One figure for one token: by itself it may be rounded otherwise.
        found.append(TokenLogprob(token, dict(top).get(token, logprob), top))
    return found
