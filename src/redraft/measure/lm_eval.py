"""A model class for lm-eval (EleutherAI's lm-evaluation-harness), registered as ``redraft`` when this is imported.

``python -m redraft.measure.lm_eval`` is lm-eval's own command with it. lm-eval itself has to be installed.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from redraft.api import Engine
from redraft.engine.request import MAX_STOP_STRINGS, check_switch, check_whole
from redraft.errors import RequestError
from redraft.loading import load
from redraft.measure.evaluate.ask import outside
from redraft.tasks.score import Bound

try:
    # lm-eval registers its own models only while there is none.
    import lm_eval.models  # noqa: F401
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
except ImportError as error:
    raise ImportError('lm-eval is not installed; pip install "lm_eval>=0.4.9" beside redraft') from error

T = TypeVar("T")
S = TypeVar("S")
log = logging.getLogger("redraft")
MAX_NEW_TOKENS = 256
"""Tokens of an answer to a task that sets no limit, as with lm-eval's other models."""
_AT_ONCE = 64
_WRITING = ("until", "max_gen_toks", "max_tokens", "temperature", "do_sample", "top_p", "top_k", "seed")


@register_model("redraft")
class RedraftLM(TemplateLM):  # type: ignore[misc]  # untyped, or not installed
    """A checkpoint as lm-eval sees a model: log-likelihoods by ``Engine.score``, answers by ``Engine.generate``."""

    def __init__(
        self,
        pretrained: str | None = None,
        engine: Engine | None = None,
        dtype: str = "auto",
        device: str = "auto",
        revision: str | None = None,
        bound: Bound | None = None,
        samples: int | None = None,
        seed: int = 0,
        max_gen_toks: int = MAX_NEW_TOKENS,
        add_bos_token: bool = True,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
    ) -> None:
        """``pretrained``: what ``redraft.load`` takes, with dtype, device and revision; or an ``engine``. ``bound``,
        ``samples``, ``seed``: as in ``Engine.score``; the seed is that of answers, too. ``add_bos_token``: contexts
        begin with the token that the tokenizer begins texts with. ``batch_size`` and ``max_batch_size``, which lm-eval
        always gives, ask for nothing: the scheduler makes batches."""
        super().__init__()
        if (pretrained is None) == (engine is None):
            raise RequestError("give exactly one of pretrained, a model's name, and engine")
        self._engine = (
            engine if pretrained is None else load(pretrained, dtype=dtype, device=device, revision=revision)  # type: ignore[arg-type]
        )
        self._bound, self._samples, self._seed = bound, samples, seed
        self._begins = check_switch("add_bos_token", add_bos_token)
        self._max_gen_toks = check_whole("max_gen_toks", max_gen_toks, 1)
        self._cut = False

    @property
    def engine(self) -> Engine:
        """The engine that answers."""
        assert self._engine is not None, "one of two is given"
        return self._engine

    @property
    def max_length(self) -> int:
        """Tokens of a context."""
        return self.engine.model.config.context_length

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        ends = self.engine.model.defaults.end_token_ids
        if not ends:
            raise RequestError("the checkpoint names no end token, which stands for an empty context")
        return ends[0]

    @property
    def prefix_token_id(self) -> int:
        """The token that stands for an empty context: that with which the tokenizer begins texts, or the end token."""
        begins = self.engine.tokenizer.encode("")
        return begins[0] if begins else self.eot_token_id

    @property
    def tokenizer_name(self) -> str:
        """A name for the template, by which lm-eval keeps answers apart."""
        origin = self.engine.origin
        return "redraft" if origin is None else f"{origin.source}-{origin.tokenizer[:12]}"

    def chat_template(self, chat_template: bool | str = False) -> str:
        """Return the checkpoint's own template."""
        return self.engine.tokenizer.template or ""

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Render messages as the prompt of the model's turn; RequestError where they end with that turn's beginning."""
        if not add_generation_prompt:
            raise RequestError("a beginning of the model's own turn is not supported; leave gen_prefix out of the task")
        return self.engine.tokenizer.decode_all(self.engine.runtime.tokenize(chat_history))

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Tokenize a text, with the token that texts begin with unless it has it already, or is to have none."""
        tokenizer = self.engine.tokenizer
        if add_special_tokens is False or not self._begins:
            return tokenizer.encode_text(string)
        tokens, begins = tokenizer.encode(string), tokenizer.encode("")
        twice = begins and tokens[: 2 * len(begins)] == begins * 2
        return tokens[len(begins) :] if twice else tokens

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        """Score a continuation behind each context; a context that does not fit loses its beginning."""

        async def one(request: tuple[Any, list[int], list[int]]) -> tuple[float, bool]:
            asked, context, continuation = request
            found = await self._score(context, continuation)
            if asked is not None:
                self.cache_hook.add_partial("loglikelihood", asked, found)
            return found

        return self._all(one, requests, disable_tqdm)

    async def _score(self, context: list[int], continuation: list[int]) -> tuple[float, bool]:
        if not continuation:
            # All of it is part of the context's last token.
            return 0.0, True
        kept = self.max_length - len(continuation)
        if len(context) > kept:
            if not self._cut:
                log.warning("a context of %d tokens is cut from the left to %d", len(context), kept)
            self._cut = True
            context = context[len(context) - kept :] if kept > 0 else []
        seed = None if self._bound is None else self._seed
        result = await self.engine.ascore(context, continuation, bound=self._bound, samples=self._samples, seed=seed)
        return result.log_likelihood, result.is_greedy

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Score whole texts, in windows of the context's length where they are longer."""

        async def one(request: Any) -> float:
            (text,) = request.args
            windows = map(
                make_disjoint_window,
                get_rolling_token_windows(
                    token_list=self.tok_encode(text, add_special_tokens=False),
                    prefix_token=self.prefix_token_id,
                    # Of a window its first token is the context.
                    max_seq_len=self.max_length - 1,
                    context_len=1,
                ),
            )
            found = float(sum([(await self._score(context, own))[0] for context, own in windows]))
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, found)
            return found

        return self._all(one, requests, disable_tqdm)

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Write an answer to each context, up to its stop strings."""

        async def one(request: Any) -> str:
            context, settings = request.args
            result = await self.engine.agenerate(self.tok_encode(context), **self._parameters(settings))
            self.cache_hook.add_partial("generate_until", request.args, result.text)
            return result.text

        return self._all(one, requests, disable_tqdm)

    def _parameters(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return the parameters of ``Engine.generate`` for a task's settings; RequestError for an unknown one."""
        for name in settings:
            if name not in _WRITING:
                raise RequestError(f"{name} is not known among a task's generation_kwargs; known are {_WRITING}")
        until = settings.get("until") or []
        stop = [until] if isinstance(until, str) else [text for text in until if text]
        if len(stop) > MAX_STOP_STRINGS:
            raise RequestError(f"until has {len(stop)} strings; at most {MAX_STOP_STRINGS} are supported")
        greedy = settings.get("do_sample") is False
        given = {name: settings[name] for name in ("top_p", "top_k") if settings.get(name) is not None}
        return {
            **given,
            "temperature": 0.0 if greedy else float(settings.get("temperature", 0.0)),
            "max_tokens": settings.get("max_gen_toks", settings.get("max_tokens", self._max_gen_toks)),
            "seed": settings.get("seed", self._seed),
            "stop": stop or None,
        }

    def _all(self, one: Callable[[S], Awaitable[T]], requests: Sequence[S], quiet: bool) -> list[T]:
        """Answer all requests in order, so many at once that batches are full."""
        from tqdm import tqdm

        gate = asyncio.Semaphore(_AT_ONCE)
        bar = tqdm(total=len(requests), desc="redraft", disable=quiet)

        async def gated(request: S) -> T:
            async with gate:
                found = await one(request)
            bar.update()
            return found

        async def all_of_them() -> list[T]:
            return await asyncio.gather(*map(gated, requests))

        asked: Coroutine[Any, Any, list[T]] = all_of_them()
        try:
            return outside(asked)
        finally:
            bar.close()


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
