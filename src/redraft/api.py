"""``Engine``: one model, its tokenizer, and ``generate``."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

import torch

from redraft.canvas.acceptance import AcceptanceRule, EntropyBound
from redraft.canvas.schedule import LinearTemperature
from redraft.canvas.stopping import StableAndConfident, StoppingRule
from redraft.constrain.automaton.vocabulary import Vocabulary
from redraft.constrain.compiler import CompiledConstraint, Compiler, ThoughtMarkers
from redraft.constrain.constraint import Constraint
from redraft.engine import request as checks
from redraft.engine.context import Contexts
from redraft.engine.generation import Generation
from redraft.engine.memory import KVPool
from redraft.engine.request import Draft, Request
from redraft.engine.result import OnStep, Result
from redraft.engine.task import Work, finish
from redraft.engine.text import AnswerText
from redraft.engine.verify import Verifier
from redraft.errors import RequestError
from redraft.models.base import KV_BLOCK, PREFILL_CHUNK, BlockDiffusionModel
from redraft.models.origin import Origin
from redraft.models.tokenizer import ChatTokenizer, Check
from redraft.tasks.choose import ChooseResult, Choosing, choose
from redraft.tasks.extract import Extraction, extract
from redraft.tasks.infill import EditResult, FillResult, edit, fill

Prompt = str | Sequence[int] | Sequence[Mapping[str, Any]]


class Recorders(Protocol):
    """Makes generations, and decisions, that are recorded."""

    def generation(self, engine: "Engine", request: Request, on_step: OnStep | None) -> Generation: ...

    def decision(self, choosing: Choosing, on_step: OnStep | None) -> Work[ChooseResult]: ...


class Engine:
    """Generates with one model. Not safe for use from several threads at once."""

    def __init__(
        self,
        model: BlockDiffusionModel,
        tokenizer: ChatTokenizer,
        prefill_chunk: int = PREFILL_CHUNK,
        kv_bytes: int | None = None,
        kv_block: int = KV_BLOCK,
    ) -> None:
        """``prefill_chunk``: positions encoded in one forward. On the kernels it changes no bit of a result; in torch
        results differ between values by the rounding of the dtype. ``kv_bytes``: what keys and values may take, those
        that are kept for later prompts included. ``kv_block``: positions that are kept and shared together."""
        self.model = model
        self.tokenizer = tokenizer
        self.origin: Origin | None = None
        """Set where the engine was loaded from a checkpoint."""
        checks.check_whole("prefill_chunk", prefill_chunk, 1)
        checks.check_whole("kv_block", kv_block, 1)
        if kv_bytes is not None:
            checks.check_whole("kv_bytes", kv_bytes, 1)
        self.pool = KVPool.of(model, kv_block, kv_bytes, prefill_chunk)
        self.contexts = Contexts(model, self.pool, prefill_chunk)
        config = model.config
        found = [tokenizer.token_id(marker) for marker in config.tool_syntax.markers]
        self.tool_markers = [token for token in found if token is not None] if None not in found else []
        """The ids of the tokens that mark tool calls; empty where the checkpoint does not have all of them."""
        opening, closing = map(tokenizer.token_id, config.thought_markers)
        self.thought_markers = None if opening is None or closing is None else ThoughtMarkers(opening, closing)
        """None where the checkpoint's tokenizer does not have both."""
        self.empty_thought = tokenizer.empty_thought(config.thought_markers)
        """The end of a chat prompt after which the model is not to think."""
        self.constraints = Compiler(
            lambda: Vocabulary.of(tokenizer.tokenizer, config.vocab_size, config.image_token_ids).with_markers(
                self.tool_markers
            )
        )

    def generate(self, prompt: Prompt, **parameters: Any) -> Result:
        """Answer ``prompt`` and return the whole answer; parameters and errors as in ``stream``."""
        return self.stream(prompt, **parameters).result()

    def stream(
        self,
        prompt: Prompt,
        *,
        on_step: OnStep | None = None,
        record: Recorders | None = None,
        **parameters: Any,
    ) -> Generation:
        """Start answering ``prompt``; parameters and errors as in ``request``. on_step: called after every denoising
        step. record: a ``RecordingFolder``, which keeps what happens."""
        return self.begin(self.request(prompt, **parameters), on_step, record)

    def begin(self, request: Request, on_step: OnStep | None = None, record: Recorders | None = None) -> Generation:
        """Start answering a request that is checked; on_step and record as in ``stream``."""
        checks.check_listeners(on_step, record)
        return Generation(self, request, on_step) if record is None else record.generation(self, request, on_step)

    def request(
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
        constraint: Constraint | None = None,
        thinking: bool = False,
        verifier: Verifier | None = None,
        verify_rounds: int = 3,
        best_of: int = 1,
        draft: Draft | None = None,
        top_logprobs: int | None = None,
        **unknown: object,
    ) -> Request:
        """What ``prompt`` asks for, checked: a raw text, token ids, or chat messages (``{"role", "content"}``).

        max_tokens: at most so many tokens, by default what the context has left. seed: 0 .. 2**64-1, by default a
        random one, which the result names. temperature: scales the checkpoint's schedule; 0 takes the argmax for a
        sample. max_denoising_steps, entropy_bound (nats a canvas): by default the checkpoint's. stop: strings at
        which the answer ends, not part of it. canvas_length: positions denoised at once, at most the model's own.
        acceptance: the rule itself in place of the entropy bound, such as ``ConfidenceThreshold``. stopping: the rule
        in place of the checkpoint's stable-and-confident one, such as ``ReproducesCanvas``.

        constraint: ``JSONSchema``, ``Regex``, ``Choice`` or ``Template``, which the whole answer matches; stop strings
        then do not occur in it. thinking: ask the model to think first; the thought is not part of the answer, nor
        held to the constraint. verifier: called with a ``Candidate`` for every canvas, says which positions are wrong;
        these alone are denoised again, at most verify_rounds times. best_of: so many candidates for every canvas, of
        which the one with the fewest wrong positions stays, then the one that the model is surest of. draft: what the
        canvases start from in the place of noise. top_logprobs: keep so many of the likeliest tokens of every position
        with their log probabilities, 0 to 20; without a constraint.

        Raises RequestError, before any work, for a prompt or parameter that cannot be honoured (ConstraintError if it
        is the constraint), and GenerationError while running if the model yields NaN.
        """
        if unknown:
            name = next(iter(unknown))
            if name in ("on_step", "record"):
                raise RequestError(
                    f"{name} cannot be given here; generate, stream, fill and edit take it, extract takes record"
                )
            known = ", ".join(own for own, p in _PARAMETERS.items() if p.kind is p.KEYWORD_ONLY)
            raise RequestError(f"unknown parameter {name!r}; known are {known}, on_step, record")
        if top_logprobs is not None and constraint is not None:
            raise RequestError("top_logprobs and constraint exclude each other; what a constraint leaves is no token's")
        if acceptance is not None and entropy_bound is not None:
            raise RequestError("entropy_bound and acceptance exclude each other; put the bound into EntropyBound(...)")
        config, defaults = self.model.config, self.model.defaults
        tokens = checks.check_prompt(self.tokenize(prompt, thinking), config.vocab_size, config.image_token_ids)
        bound = defaults.entropy_bound if entropy_bound is None else entropy_bound
        steps = defaults.max_denoising_steps if max_denoising_steps is None else max_denoising_steps
        length = config.canvas_length if canvas_length is None else canvas_length
        length = checks.check_whole("canvas_length", length, 1, config.canvas_length)
        thought = self._needed_thought_markers() if checks.check_switch("thinking", thinking) else None
        room = checks.check_length(max_tokens, len(tokens), config.context_length)
        room = checks.check_memory(self.pool, len(tokens), room, length, max_tokens is not None)
        stop_strings = checks.check_stop(stop)
        rounds = checks.check_whole("verify_rounds", verify_rounds, 0)
        compiled = None if constraint is None else self.compile(constraint, stop_strings, thought)
        if compiled is not None:
            checks.check_budget(compiled, max_tokens, room)
        return Request(
            prompt=tokens,
            max_tokens=room,
            canvas_length=length,
            seed=checks.check_seed(seed),
            temperature=checks.check_temperature(temperature),
            max_denoising_steps=checks.check_whole("max_denoising_steps", steps, 1),
            schedule=LinearTemperature(defaults.t_max, defaults.t_min),
            acceptance=checks.check_rule("acceptance", acceptance, ("accepted",), "ConfidenceThreshold(0.9)")
            or EntropyBound(checks.check_number("entropy_bound", bound, 0)),
            stopping=checks.check_rule("stopping", stopping, ("memory", "finished"), "ReproducesCanvas()")
            or StableAndConfident(defaults.stability_threshold, defaults.confidence_threshold),
            stop=stop_strings,
            end_token_ids=defaults.end_token_ids,
            context_length=config.context_length,
            constraint=compiled,
            demand=constraint,
            thought=thought,
            verifier=checks.check_verifier(verifier),
            verify_rounds=rounds if verifier is not None else 0,
            best_of=checks.check_whole("best_of", best_of, 1),
            draft=checks.check_draft(draft, config.vocab_size),
            top_logprobs=None if top_logprobs is None else checks.check_whole("top_logprobs", top_logprobs, 0, 20),
        )

    def fill(
        self,
        prefix: str,
        suffix: str,
        *,
        on_step: OnStep | None = None,
        record: Recorders | None = None,
        **parameters: Any,
    ) -> FillResult:
        """Write what stands between ``prefix`` and ``suffix``; parameters and errors as in ``infill.fill``, on_step and
        record as in ``stream``."""
        return finish(fill(self, prefix, suffix, **parameters).work(on_step, record), self.pool)

    def edit(
        self,
        text: str,
        spans: Sequence[tuple[int, int]] | None = None,
        *,
        on_step: OnStep | None = None,
        record: Recorders | None = None,
        **parameters: Any,
    ) -> EditResult:
        """Rewrite parts of ``text``, or the whole by an instruction; parameters and errors as in ``infill.edit``,
        on_step and record as in ``stream``."""
        return finish(edit(self, text, spans, **parameters).work(on_step, record), self.pool)

    def choose(
        self,
        prompt: Prompt,
        options: Sequence[str] | Mapping[str, Sequence[str]],
        *,
        record: Recorders | None = None,
        **parameters: Any,
    ) -> ChooseResult:
        """The probability of each option, of one question or several; parameters and errors as in ``decide.choose``,
        record as in ``stream``."""
        return finish(choose(self, prompt, options, **parameters).work(record=record), self.pool)

    def extract(self, text: str, schema: Mapping[str, Any] | str, **parameters: Any) -> Extraction:
        """Read ``text`` into JSON under a schema; parameters and errors as in ``extract.extract``."""
        return finish(extract(self, text, schema, **parameters), self.pool)

    def tokenize(
        self,
        prompt: Prompt,
        thinking: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        check: Check | None = None,
    ) -> Sequence[int]:
        """The token ids of a prompt.

        Raises RequestError if it is empty, no text that the tokenizer knows, or, before the work of tokenizing it, if
        it surely does not fit the context; before that what ``check`` raises.
        """
        fits = self.fits(check)
        if isinstance(prompt, str):
            if not prompt:
                raise RequestError("the prompt is empty; give some text")
            return self.tokenizer.encode(prompt, fits)
        if len(prompt) and isinstance(prompt[0], Mapping):
            messages = cast(Sequence[Mapping[str, Any]], prompt)
            ending = () if thinking else self.empty_thought
            return self.tokenizer.encode_chat(messages, thinking, tools, fits, ending)
        return prompt.tolist() if isinstance(prompt, torch.Tensor) else cast(Sequence[int], prompt)

    def fits(self, check: Check | None = None) -> Check:
        """Raises RequestError for a prompt that surely does not fit the context; before that what ``check`` raises."""
        context = self.model.config.context_length

        def fits(fewest: int) -> None:
            if check is not None:
                check(fewest)
            if fewest >= context:
                raise RequestError(
                    f"the prompt has {fewest} tokens or more and the context holds {context}; "
                    f"shorten the prompt to {context - 1} tokens or fewer"
                )

        return fits

    def question(self, instruction: str, text: str) -> Prompt:
        """An instruction about a text: a user's message, or raw text where the checkpoint has no chat template."""
        content = f"{instruction}\n\n{text}"
        return f"{content}\n\n" if self.tokenizer.template is None else [{"role": "user", "content": content}]

    def fewest_tokens(self, constraint: Constraint) -> int:
        """How many tokens the shortest text takes that a constraint allows."""
        return self.compile(constraint).fewest_tokens

    def compile(
        self, constraint: Constraint, stop: Sequence[str] = (), thought: ThoughtMarkers | None = None
    ) -> CompiledConstraint:
        """What holds an answer to ``constraint``, free of ``stop`` strings, after a thought where there are markers;
        ConstraintError as in ``Compiler.compile``."""
        # Looked for, not made: what is compiled already need not be written out again.
        if isinstance(constraint, type) or inspect.getattr_static(constraint, "expression", None) is None:
            raise RequestError(
                f"constraint {constraint!r} must be a JSONSchema, Regex, Choice or Template, such as "
                "redraft.JSONSchema({...})"
            )
        ends = self.model.defaults.end_token_ids
        if not ends:
            raise RequestError("the checkpoint names no end token, with which a constrained answer has to end")
        return self.constraints.compile(constraint, ends, stop, thought)

    def answer_text(self, request: Request, stop: Sequence[str] = ()) -> AnswerText:
        """Takes the tokens of an answer to ``request`` apart."""
        # Under a constraint without a thought no marker can stand.
        markers = self.thought_markers if request.constraint is None else request.thought
        tokenizer = self.tokenizer
        return AnswerText(tokenizer.decode, stop, markers, tokenizer.settled, thinking=request.thought is not None)

    def _needed_thought_markers(self) -> ThoughtMarkers:
        if self.thought_markers is None:
            opening, closing = self.model.config.thought_markers
            raise RequestError(
                f"this checkpoint cannot think: its tokenizer has no {opening!r} and {closing!r}; leave thinking out"
            )
        return self.thought_markers


_PARAMETERS = inspect.signature(Engine.request).parameters
