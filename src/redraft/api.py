"""``Engine``: one model behind one method a verb."""

import asyncio
import functools
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from redraft.canvas.acceptance import AcceptanceRule
from redraft.canvas.draft import Draft
from redraft.canvas.stopping import StoppingRule
from redraft.constrain.constraint import Constraint
from redraft.constrain.inference.decisions import Normalize
from redraft.constrain.language.template import Hole
from redraft.constrain.python_types import as_constraint
from redraft.engine.generation import Generate, Recorders, to_record
from redraft.engine.quality import Quality
from redraft.engine.request import (
    VERIFY_THRESHOLD,
    Request,
    Verify,
    check_drafter,
    check_listeners,
    check_mode,
    check_whole,
    generate,
)
from redraft.engine.result import Chunk, OnStep, Result
from redraft.engine.runtime import Prompt, Runtime, forward_alone, run, start
from redraft.engine.sampling import LogitBias
from redraft.engine.scheduler import Handle, Scheduler
from redraft.engine.task import Progress, Runnable, StepRecorder, Task
from redraft.engine.thinking import ReasoningEffort, wants_thought, without_switches
from redraft.engine.tools import GenerateWithTools, ToolChoice, calling, tokens_with_tools, tool_use
from redraft.engine.verify import Verifier
from redraft.errors import BatchError, RequestError, counted
from redraft.models.base import (
    KV_BLOCK,
    PREFILL_CHUNK,
    BlockDiffusionModel,
    CanvasLength,
    ExtractLayout,
    GenerationMode,
)
from redraft.models.origin import Origin
from redraft.models.tokenizer import ChatTokenizer
from redraft.tasks.choose import ChooseResult, choose
from redraft.tasks.edit import EditResult, edit
from redraft.tasks.extract import Extraction, ExtractRequest, V, extract
from redraft.tasks.fill import FillResult, fill
from redraft.tasks.score import Bound, ScoreResult, score

P = ParamSpec("P")
T = TypeVar("T")


def in_async(verb: Callable[Concatenate["Engine", P], T]) -> Callable[Concatenate["Engine", P], Coroutine[Any, Any, T]]:
    """Make the ``async`` twin of a verb: it runs in batches with what else is under way; cancelled, it ends."""

    @functools.wraps(verb)
    async def twin(engine: "Engine", /, *given: P.args, **named: P.kwargs) -> T:
        scheduler, request, on_step = await engine._checked(verb, given, named)
        handle: Handle[T] = scheduler.submit(request, on_step=on_step)
        try:
            return await asyncio.wrap_future(handle.future)
        except asyncio.CancelledError:
            handle.cancel()
            raise

    return twin


def streamed_in_async(
    verb: Callable[Concatenate["Engine", P], Result],
) -> Callable[Concatenate["Engine", P], "AsyncGeneration"]:
    """Make the twin of a verb that hands out its chunks."""

    @functools.wraps(verb)
    def twin(engine: "Engine", /, *given: P.args, **named: P.kwargs) -> "AsyncGeneration":
        return AsyncGeneration(engine._checked(verb, given, named))

    return twin


class Engine:
    """One model, its tokenizer and its memory. One thread at a time may use it; the ``async`` twins share it."""

    def __init__(
        self,
        model: BlockDiffusionModel,
        tokenizer: ChatTokenizer,
        prefill_chunk: int = PREFILL_CHUNK,
        kv_bytes: int | None = None,
        kv_block: int = KV_BLOCK,
        draft: "Engine | None" = None,
    ) -> None:
        """``prefill_chunk``: positions of a prompt encoded in one forward. On the kernels it changes no bit of a
        result; in torch results differ between values by the rounding of the dtype. ``kv_bytes``: what keys and values
        may take, those of a draft model and those that are kept for later prompts included. ``kv_block``: positions
        that are kept and shared together. ``draft``: a small model with the same vocabulary, which drafts in mode
        "speculative"; RequestError for one with another.
        """
        check_whole("prefill_chunk", prefill_chunk, 1)
        check_whole("kv_block", kv_block, 1)
        if kv_bytes is not None:
            check_whole("kv_bytes", kv_bytes, 1)
        self._runtime: Runtime | None = Runtime(model, tokenizer, prefill_chunk, kv_bytes, kv_block)
        if draft is not None:
            check_drafter(self.runtime, draft.runtime)
            self.runtime.draft_by(draft.runtime)
        self._scheduler: Scheduler | None = None
        self._starting = threading.Lock()

    @property
    def runtime(self) -> Runtime:
        """Model, tokenizer, memory and compiled constraints, on which requests run. RequestError once it is closed."""
        if self._runtime is None:
            raise RequestError("this engine was closed; load the model again")
        return self._runtime

    @property
    def model(self) -> BlockDiffusionModel:
        """The model itself."""
        return self.runtime.model

    @property
    def tokenizer(self) -> ChatTokenizer:
        """Its tokenizer and chat template."""
        return self.runtime.tokenizer

    @property
    def origin(self) -> Origin | None:
        """The model's source, if it was loaded from a checkpoint."""
        return self.runtime.origin

    def close(self) -> None:
        """Free the model's memory; requests of the ``async`` twins that still run are cancelled."""
        if self._scheduler is not None:
            self._scheduler.close()
        self._runtime = self._scheduler = None

    def __enter__(self) -> "Engine":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        if self._runtime is None:
            return "<redraft.Engine, closed>"
        origin, config = self._runtime.origin, self._runtime.model.config
        name = "a model" if origin is None else f"{origin.source!r} {origin.dtype} on {origin.device}"
        canvas = f"canvas {config.canvas_length}" if config.canvas_length else "no canvas"
        return f"<redraft.Engine of {name}, context {config.context_length}, {canvas}>"

    def generate(
        self,
        prompt: Prompt,
        *,
        mode: GenerationMode | None = None,
        max_tokens: int | None = None,
        seed: int | None = None,
        temperature: float | None = None,
        max_denoising_steps: int | None = None,
        entropy_bound: float | None = None,
        stop: str | Sequence[str] | None = None,
        canvas_length: CanvasLength | None = None,
        acceptance: AcceptanceRule | None = None,
        stopping: StoppingRule | None = None,
        constraint: Constraint | type[Any] | None = None,
        thinking: bool | None = None,
        thinking_budget: int | None = None,
        reasoning_effort: ReasoningEffort | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        verifier: Verifier | None = None,
        verify_rounds: int = 3,
        best_of: int = 1,
        draft: Draft | None = None,
        top_logprobs: int | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        min_p: float | None = None,
        logit_bias: LogitBias | None = None,
        presence_penalty: float = 0.0,
        frequency_penalty: float = 0.0,
        repetition_penalty: float | None = None,
        min_tokens: int = 0,
        ignore_eos: bool = False,
        stop_token_ids: Sequence[int] | None = None,
        deadline_ms: float | None = None,
        quality: Quality | None = None,
        causal_logprobs: bool = False,
        verify: Verify | None = None,
        verify_threshold: float = VERIFY_THRESHOLD,
        tools: Sequence[Mapping[str, Any]] | None = None,
        tool_choice: ToolChoice = "auto",
        on_step: OnStep | None = None,
        record: Recorders | None = None,
    ) -> Result:
        """Answer ``prompt`` (raw text, token ids, or chat messages) and return the whole answer.

        mode: "diffusion" denoises canvases, "autoregressive" writes token after token, "speculative" writes what the
        latter would, drafted by canvases; by default the checkpoint's. max_tokens: at most so many tokens, by default
        what the context has left. seed: 0 .. 2**64-1, by default a random one, which the result names. temperature:
        scales the checkpoint's schedule, or in the other modes divides the logits, by default by what the checkpoint
        says; 0 takes the argmax for a sample. max_denoising_steps, entropy_bound (nats a canvas): by default the
        checkpoint's, of a draft 4 steps. stop: strings at which the answer ends, not part of it. canvas_length:
        positions denoised at once, at most the model's own.
        acceptance: the rule itself in place of the entropy bound, such as ``ConfidenceThreshold``. stopping: the rule
        in place of the checkpoint's stable-and-confident one, such as ``ReproducesCanvas``.

        constraint: ``JSONSchema``, ``Regex``, ``Choice`` or ``Template``, or a Python type such as a pydantic model, a
        ``Literal`` or ``list[int]``, which the whole answer matches; stop strings then do not occur in it. thinking:
        ask the model to think first; the thought is not part of the answer, nor held to the constraint.
        thinking_budget: tokens that the thought may take; it is ended there, and the answer follows. reasoning_effort:
        "none", "instant" and "minimal" are no thought, "low", "medium" and "high" are one; of the checkpoint's steps
        "instant", "minimal" and "low" take half as many, with twice the entropy bound, "high" twice as many, with half
        of it. chat_template_kwargs: more that the chat template reads; ``enable_thinking`` is as ``thinking``.
        verifier: called with a ``Candidate`` for every canvas, says which positions are wrong; these alone are denoised
        again, at most verify_rounds times. best_of: so many candidates for every canvas, of which the one with the
        fewest wrong positions stays, then the one that the model is surest of. draft: what the canvases start from in
        the place of noise. top_logprobs: keep so many of the likeliest tokens of every position with their log
        probabilities, 0 to 20; without a constraint.

        top_k, top_p, min_p: leave a position's likeliest tokens: so many, or those of so much probability together, or
        those at least so many times as probable as the likeliest; where a constraint allows none of them it wins.
        logit_bias: added to the logits of tokens by their ids, -100 to 100. presence_penalty, frequency_penalty (-2 to
        2), repetition_penalty: for tokens that the answer has already, the prompt not counted. min_tokens: no end token
        and no stop string before so many tokens. ignore_eos: no end token at all. stop_token_ids: tokens at which the
        answer ends, not part of it. In modes that write tokens one by one top_k, top_p, min_p and repetition_penalty
        are by default the checkpoint's. docs/sampling.md defines each.

        deadline_ms: milliseconds from the call by which the answer is wanted; the best canvas that there is then ends
        it, and ``deadline_reached`` says so. Under a constraint it is whole and valid, or DeadlineError says what would
        be needed. quality: "fast", "balanced" or "exact" in the place of steps and a bound. docs/tune.md explains both.
        causal_logprobs: keep the log probability that the causal rows of the same weights give each token of a canvas.
        verify: "causal" is a verifier: positions are wrong whose token has less than ``verify_threshold`` of
        probability there. docs/modes.md has both.

        Raises RequestError, before any work, for a prompt or parameter that cannot be honoured (ConstraintError if it
        is the constraint), and GenerationError while running if the model yields NaN.

        tools: functions that the answer may call, as OpenAI's clients write them, with chat messages; ``tool_calls`` of
        the result are valid under their schemas. tool_choice: "auto", "none", "required", or the one to call.

        on_step: called after every denoising step. record: a ``RecordingFolder``, which keeps what happens. Both are
        for mode "diffusion".
        """
        request = self.request(
            prompt,
            mode=mode,
            max_tokens=max_tokens,
            seed=seed,
            temperature=temperature,
            max_denoising_steps=max_denoising_steps,
            entropy_bound=entropy_bound,
            stop=stop,
            canvas_length=canvas_length,
            acceptance=acceptance,
            stopping=stopping,
            constraint=constraint,
            thinking=thinking,
            thinking_budget=thinking_budget,
            reasoning_effort=reasoning_effort,
            chat_template_kwargs=chat_template_kwargs,
            verifier=verifier,
            verify_rounds=verify_rounds,
            best_of=best_of,
            draft=draft,
            top_logprobs=top_logprobs,
            top_p=top_p,
            top_k=top_k,
            min_p=min_p,
            logit_bias=logit_bias,
            presence_penalty=presence_penalty,
            frequency_penalty=frequency_penalty,
            repetition_penalty=repetition_penalty,
            min_tokens=min_tokens,
            ignore_eos=ignore_eos,
            stop_token_ids=stop_token_ids,
            deadline_ms=deadline_ms,
            quality=quality,
            causal_logprobs=causal_logprobs,
            verify=verify,
            verify_threshold=verify_threshold,
            tools=tools,
            tool_choice=tool_choice,
        )
        check_listeners(on_step, record, request.mode, self.runtime.modes)
        return self._run(self._answer(request, record, tools is not None), on_step)

    def stream(
        self,
        prompt: Prompt,
        *,
        mode: GenerationMode | None = None,
        max_tokens: int | None = None,
        seed: int | None = None,
        temperature: float | None = None,
        max_denoising_steps: int | None = None,
        entropy_bound: float | None = None,
        stop: str | Sequence[str] | None = None,
        canvas_length: CanvasLength | None = None,
        acceptance: AcceptanceRule | None = None,
        stopping: StoppingRule | None = None,
        constraint: Constraint | type[Any] | None = None,
        thinking: bool | None = None,
        thinking_budget: int | None = None,
        reasoning_effort: ReasoningEffort | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        verifier: Verifier | None = None,
        verify_rounds: int = 3,
        best_of: int = 1,
        draft: Draft | None = None,
        top_logprobs: int | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        min_p: float | None = None,
        logit_bias: LogitBias | None = None,
        presence_penalty: float = 0.0,
        frequency_penalty: float = 0.0,
        repetition_penalty: float | None = None,
        min_tokens: int = 0,
        ignore_eos: bool = False,
        stop_token_ids: Sequence[int] | None = None,
        deadline_ms: float | None = None,
        quality: Quality | None = None,
        causal_logprobs: bool = False,
        verify: Verify | None = None,
        verify_threshold: float = VERIFY_THRESHOLD,
        tools: Sequence[Mapping[str, Any]] | None = None,
        tool_choice: ToolChoice = "auto",
        on_step: OnStep | None = None,
        record: Recorders | None = None,
    ) -> "Generation":
        """Start answering ``prompt``; iterate for a chunk each canvas, or each token.

        Parameters and errors as in ``generate``.
        """
        request = self.request(
            prompt,
            mode=mode,
            max_tokens=max_tokens,
            seed=seed,
            temperature=temperature,
            max_denoising_steps=max_denoising_steps,
            entropy_bound=entropy_bound,
            stop=stop,
            canvas_length=canvas_length,
            acceptance=acceptance,
            stopping=stopping,
            constraint=constraint,
            thinking=thinking,
            thinking_budget=thinking_budget,
            reasoning_effort=reasoning_effort,
            chat_template_kwargs=chat_template_kwargs,
            verifier=verifier,
            verify_rounds=verify_rounds,
            best_of=best_of,
            draft=draft,
            top_logprobs=top_logprobs,
            top_p=top_p,
            top_k=top_k,
            min_p=min_p,
            logit_bias=logit_bias,
            presence_penalty=presence_penalty,
            frequency_penalty=frequency_penalty,
            repetition_penalty=repetition_penalty,
            min_tokens=min_tokens,
            ignore_eos=ignore_eos,
            stop_token_ids=stop_token_ids,
            deadline_ms=deadline_ms,
            quality=quality,
            causal_logprobs=causal_logprobs,
            verify=verify,
            verify_threshold=verify_threshold,
            tools=tools,
            tool_choice=tool_choice,
        )
        check_listeners(on_step, record, request.mode, self.runtime.modes)
        request = request if record is None else to_record(request)
        recorder = None if record is None else record.recorder(request, self.runtime)
        answer = self._answer(request, None, tools is not None)
        return Generation(self.runtime, answer.task(on_step, recorder), recorder)

    def generate_many(
        self,
        prompts: Sequence[Prompt],
        *,
        seeds: Sequence[int] | None = None,
        mode: GenerationMode | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        max_denoising_steps: int | None = None,
        entropy_bound: float | None = None,
        stop: str | Sequence[str] | None = None,
        canvas_length: CanvasLength | None = None,
        acceptance: AcceptanceRule | None = None,
        stopping: StoppingRule | None = None,
        constraint: Constraint | type[Any] | None = None,
        thinking: bool | None = None,
        thinking_budget: int | None = None,
        reasoning_effort: ReasoningEffort | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        verifier: Verifier | None = None,
        verify_rounds: int = 3,
        best_of: int = 1,
        draft: Draft | None = None,
        top_logprobs: int | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        min_p: float | None = None,
        logit_bias: LogitBias | None = None,
        presence_penalty: float = 0.0,
        frequency_penalty: float = 0.0,
        repetition_penalty: float | None = None,
        min_tokens: int = 0,
        ignore_eos: bool = False,
        stop_token_ids: Sequence[int] | None = None,
        deadline_ms: float | None = None,
        quality: Quality | None = None,
        causal_logprobs: bool = False,
        verify: Verify | None = None,
        verify_threshold: float = VERIFY_THRESHOLD,
        tools: Sequence[Mapping[str, Any]] | None = None,
        tool_choice: ToolChoice = "auto",
        max_batch_rows: int | None = None,
        record: Recorders | None = None,
    ) -> list[Result]:
        """Answer several prompts in batches and return the answers in their order.

        seeds: one for each prompt, by default random ones. max_batch_rows: rows of one forward at most. Other
        parameters as in ``generate``. A prompt that cannot be honoured is refused before any work, with its number; if
        one fails while running, BatchError is raised when the others have ended, and holds their results.
        """
        if isinstance(prompts, str | bytes):
            raise RequestError("prompts must be a list of prompts; give a single one to generate")
        if seeds is not None and len(seeds) != len(prompts):
            raise RequestError(
                f"there are {counted(len(seeds), 'seed')} for {counted(len(prompts), 'prompt')}; give one for each"
            )
        requests = []
        for number, prompt in enumerate(prompts):
            try:
                requests.append(
                    self.request(
                        prompt,
                        seed=None if seeds is None else seeds[number],
                        mode=mode,
                        max_tokens=max_tokens,
                        temperature=temperature,
                        max_denoising_steps=max_denoising_steps,
                        entropy_bound=entropy_bound,
                        stop=stop,
                        canvas_length=canvas_length,
                        acceptance=acceptance,
                        stopping=stopping,
                        constraint=constraint,
                        thinking=thinking,
                        thinking_budget=thinking_budget,
                        reasoning_effort=reasoning_effort,
                        chat_template_kwargs=chat_template_kwargs,
                        verifier=verifier,
                        verify_rounds=verify_rounds,
                        best_of=best_of,
                        draft=draft,
                        top_logprobs=top_logprobs,
                        top_p=top_p,
                        top_k=top_k,
                        min_p=min_p,
                        logit_bias=logit_bias,
                        presence_penalty=presence_penalty,
                        frequency_penalty=frequency_penalty,
                        repetition_penalty=repetition_penalty,
                        min_tokens=min_tokens,
                        ignore_eos=ignore_eos,
                        stop_token_ids=stop_token_ids,
                        deadline_ms=deadline_ms,
                        quality=quality,
                        causal_logprobs=causal_logprobs,
                        verify=verify,
                        verify_threshold=verify_threshold,
                        tools=tools,
                        tool_choice=tool_choice,
                    )
                )
            except RequestError as error:
                raise type(error)(f"prompt {number}: {error}") from error
        check_listeners(None, record, check_mode(mode, self.runtime.modes), self.runtime.modes)
        return self._many([self._answer(one, record, tools is not None) for one in requests], max_batch_rows)

    def request(
        self,
        prompt: Prompt,
        *,
        mode: GenerationMode | None = None,
        max_tokens: int | None = None,
        seed: int | None = None,
        temperature: float | None = None,
        max_denoising_steps: int | None = None,
        entropy_bound: float | None = None,
        stop: str | Sequence[str] | None = None,
        canvas_length: CanvasLength | None = None,
        acceptance: AcceptanceRule | None = None,
        stopping: StoppingRule | None = None,
        constraint: Constraint | type[Any] | None = None,
        thinking: bool | None = None,
        thinking_budget: int | None = None,
        reasoning_effort: ReasoningEffort | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        verifier: Verifier | None = None,
        verify_rounds: int = 3,
        best_of: int = 1,
        draft: Draft | None = None,
        top_logprobs: int | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        min_p: float | None = None,
        logit_bias: LogitBias | None = None,
        presence_penalty: float = 0.0,
        frequency_penalty: float = 0.0,
        repetition_penalty: float | None = None,
        min_tokens: int = 0,
        ignore_eos: bool = False,
        stop_token_ids: Sequence[int] | None = None,
        deadline_ms: float | None = None,
        quality: Quality | None = None,
        causal_logprobs: bool = False,
        verify: Verify | None = None,
        verify_threshold: float = VERIFY_THRESHOLD,
        tools: Sequence[Mapping[str, Any]] | None = None,
        tool_choice: ToolChoice = "auto",
    ) -> Request:
        """Check what ``prompt`` asks for, before any work; parameters and errors as in ``generate``."""
        wanted = as_constraint(constraint)
        if tools is not None:
            use = tool_use(tools, tool_choice)
            thinks = wants_thought(thinking, reasoning_effort, thinking_budget, chat_template_kwargs)
            variables = without_switches(chat_template_kwargs)
            prompt = tokens_with_tools(self.runtime, prompt, use, thinks, variables)
            thinking, chat_template_kwargs = thinks, None
            wanted = calling(self.runtime, use, wanted)
        elif tool_choice not in ("auto", "none"):
            raise RequestError(f"tool_choice {tool_choice!r} needs tools; give at least one")
        return generate(
            self.runtime,
            prompt,
            mode=mode,
            max_tokens=max_tokens,
            seed=seed,
            temperature=temperature,
            max_denoising_steps=max_denoising_steps,
            entropy_bound=entropy_bound,
            stop=stop,
            canvas_length=canvas_length,
            acceptance=acceptance,
            stopping=stopping,
            constraint=cast(Any, wanted),
            thinking=thinking,
            thinking_budget=thinking_budget,
            reasoning_effort=reasoning_effort,
            chat_template_kwargs=chat_template_kwargs,
            verifier=verifier,
            verify_rounds=verify_rounds,
            best_of=best_of,
            draft=draft,
            top_logprobs=top_logprobs,
            top_p=top_p,
            top_k=top_k,
            min_p=min_p,
            logit_bias=logit_bias,
            presence_penalty=presence_penalty,
            frequency_penalty=frequency_penalty,
            repetition_penalty=repetition_penalty,
            min_tokens=min_tokens,
            ignore_eos=ignore_eos,
            stop_token_ids=stop_token_ids,
            deadline_ms=deadline_ms,
            quality=quality,
            causal_logprobs=causal_logprobs,
            verify=verify,
            verify_threshold=verify_threshold,
        )

    def begin(self, request: Request, on_step: OnStep | None = None, record: Recorders | None = None) -> "Generation":
        """Start answering a request that is checked; on_step and record as in ``generate``."""
        check_listeners(on_step, record, request.mode, self.runtime.modes)
        request = request if record is None else to_record(request)
        recorder = None if record is None else record.recorder(request, self.runtime)
        return Generation(self.runtime, Generate(self.runtime, request).task(on_step, recorder), recorder)

    def fill(
        self,
        prefix: str,
        suffix: str,
        *,
        prompt: Prompt | None = None,
        hole: Hole | None = None,
        max_tokens: int | None = None,
        seed: int | None = None,
        temperature: float | None = None,
        max_denoising_steps: int | None = None,
        entropy_bound: float | None = None,
        canvas_length: CanvasLength | None = None,
        acceptance: AcceptanceRule | None = None,
        stopping: StoppingRule | None = None,
        verifier: Verifier | None = None,
        verify_rounds: int = 3,
        best_of: int = 1,
        top_logprobs: int | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        min_p: float | None = None,
        logit_bias: LogitBias | None = None,
        presence_penalty: float = 0.0,
        frequency_penalty: float = 0.0,
        repetition_penalty: float | None = None,
        deadline_ms: float | None = None,
        quality: Quality | None = None,
        on_step: OnStep | None = None,
        record: Recorders | None = None,
    ) -> FillResult:
        """Write what stands between ``prefix`` and ``suffix``, and return all three.

        prompt: what comes before the prefix, such as chat messages that say what is wanted. hole: what may stand there,
        any text by default. max_tokens: of the middle; by default what one canvas holds beside the suffix's beginning,
        or as many as the hole needs. Other parameters, and errors, as in ``generate``.
        """
        check_listeners(on_step, record)
        request = fill(
            self.runtime,
            prefix,
            suffix,
            prompt=prompt,
            hole=hole,
            record=record,
            max_tokens=max_tokens,
            seed=seed,
            temperature=temperature,
            max_denoising_steps=max_denoising_steps,
            entropy_bound=entropy_bound,
            canvas_length=canvas_length,
            acceptance=acceptance,
            stopping=stopping,
            verifier=verifier,
            verify_rounds=verify_rounds,
            best_of=best_of,
            top_logprobs=top_logprobs,
            top_p=top_p,
            top_k=top_k,
            min_p=min_p,
            logit_bias=logit_bias,
            presence_penalty=presence_penalty,
            frequency_penalty=frequency_penalty,
            repetition_penalty=repetition_penalty,
            deadline_ms=deadline_ms,
            quality=quality,
        )
        return self._run(request, on_step)

    def edit(
        self,
        text: str,
        spans: Sequence[tuple[int, int]] | None = None,
        *,
        instruction: str | None = None,
        strength: float | None = None,
        hole: Hole | Sequence[Hole] | None = None,
        max_tokens: int | None = None,
        seed: int | None = None,
        temperature: float | None = None,
        max_denoising_steps: int | None = None,
        entropy_bound: float | None = None,
        canvas_length: CanvasLength | None = None,
        acceptance: AcceptanceRule | None = None,
        stopping: StoppingRule | None = None,
        constraint: Constraint | type[Any] | None = None,
        verifier: Verifier | None = None,
        verify_rounds: int = 3,
        best_of: int = 1,
        top_logprobs: int | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        min_p: float | None = None,
        logit_bias: LogitBias | None = None,
        presence_penalty: float = 0.0,
        frequency_penalty: float = 0.0,
        repetition_penalty: float | None = None,
        deadline_ms: float | None = None,
        quality: Quality | None = None,
        on_step: OnStep | None = None,
        record: Recorders | None = None,
    ) -> EditResult:
        """Rewrite the ``spans`` of ``text``, (start, end) in characters, or with an instruction alone all of it.

        Everything outside of the spans stays as it is, byte for byte. instruction: said to the model as a user's
        message, along with the text. strength: the share of the old text that is noise at the start, 0 to 1, by default
        0.8; the rest the model may keep or not. Without it, or with 1, a checkpoint that was trained on slots writes
        spans into slots, from nothing, where they fit. hole: what may stand in the spans, one for all or one each.
        constraint: for the whole text where no spans are given. Other parameters, and errors, as in ``generate``.
        """
        check_listeners(on_step, record)
        more: dict[str, Any] = {"constraint": constraint, "max_tokens": max_tokens}
        request = edit(
            self.runtime,
            text,
            spans,
            instruction=instruction,
            strength=strength,
            hole=hole,
            record=record,
            **{name: value for name, value in more.items() if value is not None},
            seed=seed,
            temperature=temperature,
            max_denoising_steps=max_denoising_steps,
            entropy_bound=entropy_bound,
            canvas_length=canvas_length,
            acceptance=acceptance,
            stopping=stopping,
            verifier=verifier,
            verify_rounds=verify_rounds,
            best_of=best_of,
            top_logprobs=top_logprobs,
            top_p=top_p,
            top_k=top_k,
            min_p=min_p,
            logit_bias=logit_bias,
            presence_penalty=presence_penalty,
            frequency_penalty=frequency_penalty,
            repetition_penalty=repetition_penalty,
            deadline_ms=deadline_ms,
            quality=quality,
        )
        return self._run(request, on_step)

    def choose(
        self,
        prompt: Prompt,
        options: Sequence[str] | Mapping[str, Sequence[str]],
        *,
        frame: str | None = None,
        max_denoising_steps: int = 1,
        temperature: float | None = None,
        calibrated: bool = False,
        normalize: Normalize | None = None,
        layout: ExtractLayout | None = None,
        seed: int | None = None,
        entropy_bound: float | None = None,
        canvas_length: CanvasLength | None = None,
        acceptance: AcceptanceRule | None = None,
        stopping: StoppingRule | None = None,
        deadline_ms: float | None = None,
        on_step: OnStep | None = None,
        record: Recorders | None = None,
    ) -> ChooseResult:
        """Find the probability of each of ``options`` as the answer to ``prompt``, all ways to split it into tokens
        together.

        options: the answers to one question, or a mapping of questions to theirs, all decided on one canvas. frame: how
        the answers stand there, a template with a hole ``{name}`` for each question; by default one line each, in
        order, or the answer alone. max_denoising_steps: with one, everything is read off the first step; with more, the
        canvas is denoised under the frame first, and read at its last step. temperature: of the logits that are read, 1
        by default. calibrated: apply the temperature that was fitted for this checkpoint instead. normalize: None
        compares options by their whole probability, "length" by its geometric mean over their bytes, so that a long one
        is not behind for its length. layout: "slots" reads each question in a slot of its own, filled with end tokens
        behind the option, "text" in a text; by default as the checkpoint was trained. deadline_ms: the canvas is read
        at the step that there is then. Other parameters, and errors, as in ``generate``.
        """
        check_listeners(on_step, record)
        request = choose(
            self.runtime,
            prompt,
            options,
            frame=frame,
            max_denoising_steps=max_denoising_steps,
            temperature=temperature,
            calibrated=calibrated,
            normalize=normalize,
            layout=layout,
            record=record,
            seed=seed,
            entropy_bound=entropy_bound,
            canvas_length=canvas_length,
            acceptance=acceptance,
            stopping=stopping,
            deadline_ms=deadline_ms,
        )
        return self._run(request, on_step)

    def extract(
        self,
        text: str,
        schema: type[V] | Mapping[str, Any] | str,
        *,
        instruction: str | None = None,
        confidence: bool = True,
        layout: ExtractLayout | None = None,
        verbatim: bool = False,
        draft: object = None,
        max_tokens: int | None = None,
        seed: int | None = None,
        temperature: float | None = None,
        max_denoising_steps: int | None = None,
        entropy_bound: float | None = None,
        canvas_length: CanvasLength | None = None,
        acceptance: AcceptanceRule | None = None,
        stopping: StoppingRule | None = None,
        verifier: Verifier | None = None,
        verify_rounds: int = 3,
        best_of: int = 1,
        top_logprobs: int | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        min_p: float | None = None,
        logit_bias: LogitBias | None = None,
        presence_penalty: float = 0.0,
        frequency_penalty: float = 0.0,
        repetition_penalty: float | None = None,
        deadline_ms: float | None = None,
        quality: Quality | None = None,
        on_step: OnStep | None = None,
        record: Recorders | None = None,
    ) -> Extraction[V]:
        """Read ``text`` into JSON that is valid under ``schema``: a JSON schema, or a Python type, such as a pydantic
        model, a dataclass or a TypedDict. The result's ``value`` is then of that type.

        instruction: what the model is told, in the place of a sentence that names the schema. confidence: each value's;
        of JSON text that takes one denoising step more for every field, of which on_step and record are not told.
        layout: "slots" reads all values at once, each into a slot of its own, "text" writes JSON; by default as the
        checkpoint was trained, and text where a schema has no slots or a value is longer than its own. verbatim: in
        slots, strings but for dates and times are stretches of the text. draft: a value, or its JSON, that the canvases
        start from, for the model to correct what is wrong in it; of a model whose tokens stay once they stand, in slots
        alone. Other parameters, and errors, as in ``generate``; GenerationError where an open object has a key twice,
        of which no pointer could say which.
        """
        check_listeners(on_step, record)
        request: ExtractRequest[V] = extract(
            self.runtime,
            text,
            schema,
            instruction=instruction,
            confidence=confidence,
            layout=layout,
            verbatim=verbatim,
            draft=draft,
            record=record,
            max_tokens=max_tokens,
            seed=seed,
            temperature=temperature,
            max_denoising_steps=max_denoising_steps,
            entropy_bound=entropy_bound,
            canvas_length=canvas_length,
            acceptance=acceptance,
            stopping=stopping,
            verifier=verifier,
            verify_rounds=verify_rounds,
            best_of=best_of,
            top_logprobs=top_logprobs,
            top_p=top_p,
            top_k=top_k,
            min_p=min_p,
            logit_bias=logit_bias,
            presence_penalty=presence_penalty,
            frequency_penalty=frequency_penalty,
            repetition_penalty=repetition_penalty,
            deadline_ms=deadline_ms,
            quality=quality,
        )
        return self._run(request, on_step)

    def score(
        self,
        prompt: Prompt,
        text: str | Sequence[int],
        *,
        top_logprobs: int | None = None,
        bound: Bound | None = None,
        samples: int | None = None,
        seed: int | None = None,
    ) -> ScoreResult:
        """Find the log-likelihood of ``text`` (a string or token ids) behind ``prompt``, in nats: exact, in the model's
        causal mode. No end token is added.

        A string behind a string is tokenized together with it and split where the prompt's tokens end; RequestError
        where one token would span the border. Behind chat messages or token ids a text is tokenized by itself, as what
        the model's turn says. The prompt may be empty where the tokenizer begins every text with a token of its own.

        top_logprobs: keep so many of the likeliest tokens at each position, 0 to 20. bound: "monte_carlo" for the
        evidence lower bound of an absorbing family's diffusion in the place of the likelihood, estimated from
        ``samples`` masked canvases (128 by default) that ``seed`` draws; docs/score.md says what it is. Raises
        RequestError, before any work, for what cannot be scored.
        """
        request = score(self.runtime, prompt, text, top_logprobs=top_logprobs, bound=bound, samples=samples, seed=seed)
        return self._run(request, None)

    def score_many(
        self,
        prompts: Sequence[Prompt],
        texts: Sequence[str | Sequence[int]],
        *,
        top_logprobs: int | None = None,
        bound: Bound | None = None,
        samples: int | None = None,
        seed: int | None = None,
        max_batch_rows: int | None = None,
    ) -> list[ScoreResult]:
        """Score several texts in batches, each behind the prompt of the same number, and return the scores in their
        order.

        max_batch_rows: rows of one forward at most. Other parameters as in ``score``. A pair that cannot be scored is
        refused before any work, with its number; if one fails while running, BatchError is raised when the others have
        ended, and holds their results.
        """
        for name, given in (("prompts", prompts), ("texts", texts)):
            if isinstance(given, str | bytes):
                raise RequestError(f"{name} must be a list; give a single prompt and text to score")
        if len(prompts) != len(texts):
            raise RequestError(
                f"there are {counted(len(texts), 'text')} for {counted(len(prompts), 'prompt')}; give one for each"
            )
        more: dict[str, Any] = {"top_logprobs": top_logprobs, "bound": bound, "samples": samples, "seed": seed}
        requests = []
        for number, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
            try:
                requests.append(score(self.runtime, prompt, text, **more))
            except RequestError as error:
                raise type(error)(f"text {number}: {error}") from error
        return self._many(requests, max_batch_rows)

    def min_tokens(self, constraint: Constraint | type[Any]) -> int:
        """Return how many tokens the shortest text takes that a constraint allows."""
        return self.runtime.min_tokens(cast(Constraint, as_constraint(constraint)))

    async def _checked(
        self, verb: Callable[..., Any], given: Sequence[Any], named: Mapping[str, Any]
    ) -> tuple[Scheduler, Any, OnStep | None]:
        """Check and compile what an ``async`` twin was given, off the event loop -> where it runs, and what."""
        with self._starting:
            if self._scheduler is None:
                self._scheduler = Scheduler(self.runtime)
        request, on_step = await asyncio.to_thread(verb, _Checking(self.runtime), *given, **named)
        return self._scheduler, request, on_step

    def _answer(self, request: Request, record: Recorders | None, calls: bool) -> Generate | GenerateWithTools:
        answer = Generate(self.runtime, request, record)
        return GenerateWithTools(answer) if calls else answer

    def _many(self, requests: Sequence[Runnable[T]], max_batch_rows: int | None) -> list[T]:
        """Run requests in batches of their own."""
        limits = {} if max_batch_rows is None else {"max_batch_rows": check_whole("max_batch_rows", max_batch_rows, 1)}
        scheduler = Scheduler(self.runtime, max_waiting=len(requests) + 1, **limits)
        try:
            return _all([scheduler.submit(one) for one in requests])
        finally:
            scheduler.close()

    def _run(self, request: Runnable[T], on_step: OnStep | None) -> T:
        if self._scheduler is not None:
            return self._scheduler.submit(request, on_step=on_step).result()
        return run(self.runtime, request.task(on_step))

    agenerate = in_async(generate)
    afill = in_async(fill)
    aedit = in_async(edit)
    achoose = in_async(choose)
    aextract = in_async(extract)
    ascore = in_async(score)
    astream = streamed_in_async(generate)


class _Checking(Engine):
    """An engine whose verbs check and compile a request, and hand it back in the place of running it."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime, self._scheduler = runtime, None

    def _run(self, request: Runnable[T], on_step: OnStep | None) -> T:
        return request, on_step  # type: ignore[return-value]


class Generation(Iterator[Chunk]):
    """An answer under way: iterate for its chunks, one a canvas; ``result`` runs what is left and returns the whole."""

    def __init__(self, runtime: Runtime, task: Task[Result], recorder: StepRecorder | None) -> None:
        self._runtime = runtime
        self.recorder = recorder
        """The recorder that keeps the answer; None where nothing does."""
        self._chunks: list[Chunk] = []
        self._closed = False
        self._progress: Progress[Result] = Progress(task, self._chunks.append)

    def __next__(self) -> Chunk:
        progress = self._progress
        while not self._chunks:
            if self._closed:
                raise StopIteration
            if progress.ended:
                if progress.error is not None:
                    raise progress.error
                raise StopIteration
            if progress.asked is None:
                start(progress)
            else:
                forward_alone(self._runtime, progress)
        return self._chunks.pop(0)

    def close(self) -> None:
        """Stop here and give back all memory; of an answer that is not whole there will be no result."""
        self._progress.close()
        self._closed = not self._progress.ended

    def result(self) -> Result:
        """Finish the answer and return it."""
        for _ in self:
            pass
        if self._closed:
            raise RuntimeError("the generation was closed before it was whole; there is no result")
        return self._progress.value

    def __repr__(self) -> str:
        state = "finished" if self._progress.ended else "closed" if self._closed else "under way"
        return f"<redraft.Generation, {state}>"


class AsyncGeneration(AsyncIterator[Chunk]):
    """An answer under way among others: ``async for`` its chunks, or ``await`` its ``result``."""

    def __init__(self, prepared: Awaitable[tuple[Scheduler, Runnable[Result], OnStep | None]]) -> None:
        self._prepared = prepared
        self._handle: Handle[Result] | None = None
        self._chunks: asyncio.Queue[Chunk | None] = asyncio.Queue()

    async def __anext__(self) -> Chunk:
        handle = await self._begun()
        chunk = await self._chunks.get()
        if chunk is None:
            # Whoever asks once more is told the same.
            self._chunks.put_nowait(None)
            if handle.future.exception() is not None:
                handle.future.result()
            raise StopAsyncIteration
        return chunk

    async def result(self) -> Result:
        """Wait for the whole answer."""
        async for _ in self:
            pass
        return (await self._begun()).future.result()

    def cancel(self) -> None:
        """End the answer; it gives back what it holds."""
        if self._handle is not None:
            self._handle.cancel()

    async def _begun(self) -> Handle[Result]:
        if self._handle is None:
            loop = asyncio.get_running_loop()
            scheduler, request, on_step = await self._prepared

            def post(chunk: Chunk | None) -> None:
                loop.call_soon_threadsafe(self._chunks.put_nowait, chunk)

            self._handle = scheduler.submit(request, on_chunk=post, on_step=on_step)
            self._handle.future.add_done_callback(lambda _: post(None))
        return self._handle


def _all(handles: Sequence[Handle[T]]) -> list[T]:
    """All results, or BatchError with those that there are."""
    results: list[T | None] = []
    errors: dict[int, Exception] = {}
    for number, handle in enumerate(handles):
        try:
            results.append(handle.result())
        except Exception as error:
            results.append(None)
            errors[number] = error
    if errors:
        number, first = next(iter(errors.items()))
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        raise BatchError(f"prompt {number}{more}: {first}", results, errors) from first
    return results  # type: ignore[return-value]
