"""The ground that every task runs on: a model, its tokenizer, memory and compiled constraints; and the only loop."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from redraft.canvas.corruption import Corruption
from redraft.canvas.readout import Readout, ReadoutSpec, mask_classes, without_mask
from redraft.constrain.automaton.vocabulary import Vocabulary
from redraft.constrain.compiler import CompiledConstraint, Compiler, ThoughtMarkers
from redraft.constrain.constraint import Constraint
from redraft.engine.deadline import Clock, monotonic
from redraft.engine.memory import KVPool
from redraft.engine.result import Chunk
from redraft.engine.task import Answer, EncodedReading, Forward, HostRead, Progress, Reading, Task, Waiting
from redraft.errors import GenerationError, RequestError, counted
from redraft.kernels import automata
from redraft.models.base import BlockDiffusionModel, Cache, GenerationMode, Span
from redraft.models.origin import Origin
from redraft.models.thoughts import ThoughtSyntax
from redraft.models.tokenizer import ChatTokenizer, Check

Prompt = str | Sequence[int] | Sequence[Mapping[str, Any]]
"""Raw text, token ids, or chat messages with "role" and "content"."""

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Rows:
    """The hidden rows that a forward wants."""

    last: Tensor | None
    """[C, H]: of its canvas, or [wanted, H] of what was encoded last; None for none."""
    encoded: Tensor | None = None
    """[C, H]: of what was encoded in front of its canvas."""


class Runtime:
    """One model and what belongs to it. Its forwards are for one thread at a time."""

    def __init__(
        self, model: BlockDiffusionModel, tokenizer: ChatTokenizer, prefill_chunk: int, kv_bytes: int | None, block: int
    ) -> None:
        """``prefill_chunk``: positions of a prompt that are encoded in one forward. ``kv_bytes``: what keys and values
        may take. ``block``: positions that are kept and shared together."""
        self.model, self.tokenizer, self.prefill_chunk = model, tokenizer, prefill_chunk
        self.pool = KVPool.of(model, block, kv_bytes, prefill_chunk)
        config = model.config
        markers = () if config.tool_syntax is None else config.tool_syntax.markers
        found = [tokenizer.token_id(marker) for marker in markers]
        known = [token for token in found if token is not None] if None not in found else []
        self.tool_markers = known
        """The ids of the tokens that mark tool calls; empty where the checkpoint does not have all of them."""
        thought = config.thought_syntax
        self.thought_markers = None if thought is None else _markers(thought, tokenizer)
        """None where the checkpoint's tokenizer does not have both."""
        thinking = () if self.thought_markers is None else (self.thought_markers.opening, self.thought_markers.closing)
        tokenizer.take_as_special([*known, *thinking, *model.defaults.end_token_ids, *config.image_token_ids])
        self.mask = None if model.corruption is None else model.corruption.mask
        """The token that stands for an unknown one and is never text; None for a model without one."""
        self.mask_classes = None if self.mask is None else mask_classes(config.vocab_size, self.mask)
        """Tell the mask from text; None for a model without one."""
        self.empty_thought = tokenizer.empty_thought(thought)
        """The end of a chat prompt after which the model is not to think."""
        automata.use()
        # What reads the vocabulary must not hold the runtime: deleted, that frees its memory at once.
        self.constraints = Compiler(
            lambda: Vocabulary.of(tokenizer.tokenizer, config.vocab_size, config.image_token_ids).with_markers(known)
        )
        self.clock: Clock = monotonic
        """The clock of deadlines."""
        self.drafter: Runtime | None = None
        """The draft model, if there is one (``draft_by``): it shares the forwards of this one's requests."""
        self.origin: Origin | None = None
        """The checkpoint that the model was loaded from, if it was."""

    def draft_by(self, drafter: "Runtime") -> None:
        """Have a draft model's runtime draft; its keys and values count towards this one's ``kv_bytes``."""
        drafter.pool.share(self.pool)
        self.drafter = drafter

    @property
    def pools(self) -> tuple[KVPool, ...]:
        """The memory of the model, and of the draft model if there is one."""
        return (self.pool,) if self.drafter is None else (self.pool, self.drafter.pool)

    @property
    def corruption(self) -> Corruption:
        """The noise of the model's canvases, which what denoises them has checked that it has."""
        assert self.model.corruption is not None, "canvases are denoised of models that have some"
        return self.model.corruption

    def of_text(self, readout: Readout, uniforms: Tensor | None) -> Readout:
        """Condition a readout by ``mask_classes`` on every token being text; ``uniforms`` as in ``without_mask``."""
        return readout if self.mask is None else without_mask(readout, self.mask, uniforms)

    def top_of_text(self, count: int) -> int:
        """Return how many of the likeliest tokens to read for ``count`` of text to be among them: where there is a mask
        one more, for it may be one of them; 0 for 0."""
        return count + (count > 0 and self.mask is not None)

    def check_canvas(self, verb: str) -> None:
        """Refuse a verb that needs a canvas, of a model that has none."""
        if self.model.corruption is None:
            raise RequestError(
                f"{verb} needs a canvas, and this checkpoint has none: it writes token after token; use generate or "
                "stream, with a constraint where the answer has a form"
            )

    def canvas(
        self, tokens: Tensor, cache: Cache, before: Sequence[int], self_conditioning: Tensor | None = None
    ) -> Span:
        """Return the span of a canvas [C] behind the context that ``before`` is, or ends."""
        reread = self.model.reread
        if not reread:
            return Span(tokens, cache, "denoise", self_conditioning)
        again = torch.tensor([*before[-reread:]], device=tokens.device)
        return Span(torch.cat([again, tokens]), cache, "denoise", self_conditioning, reread)

    @property
    def modes(self) -> tuple[GenerationMode, ...]:
        """The ways in which requests can be answered, the default first."""
        own = self.model.modes
        drafted: tuple[GenerationMode, ...] = ("speculative",)
        return own if self.drafter is None or "speculative" in own or "autoregressive" not in own else own + drafted

    def forward(self, forwards: Sequence[Forward]) -> list[Rows]:
        """Compute the spans of many requests together, those of drafts by the draft model -> the hidden rows that each
        wants."""
        return self._of_both(forwards, lambda runtime, picked: runtime._forward([forwards[at] for at in picked]))

    def read(self, forwards: Sequence[Forward], rows: Sequence[Rows]) -> list[Reading | None]:
        """Read what is to be read of what ``forward`` computed."""

        def part(runtime: Runtime, picked: Sequence[int]) -> list[Reading | None]:
            return runtime._read([forwards[at] for at in picked], [rows[at] for at in picked])

        return self._of_both(forwards, part)

    def _of_both(self, forwards: Sequence[Forward], part: "Callable[[Runtime, Sequence[int]], Sequence[T]]") -> list[T]:
        """Do a part of a batch by the model that each forward is for, and return all in their order."""
        if self.drafter is None:
            return list(part(self, range(len(forwards))))
        found: dict[int, T] = {}
        for runtime, drafting in ((self, False), (self.drafter, True)):
            picked = [at for at, forward in enumerate(forwards) if forward.drafting is drafting]
            found |= zip(picked, part(runtime, picked), strict=True) if picked else ()
        return [found[at] for at in range(len(forwards))]

    @torch.inference_mode()
    def _forward(self, forwards: Sequence[Forward]) -> list[Rows]:
        spans = [span for forward in forwards for span in forward.spans]
        computed = iter(self.model.forward(spans) if spans else [])
        rows = []
        for forward in forwards:
            hidden = [next(computed) for _ in forward.spans]
            last = _rows_to_read(forward.spans[-1], hidden[-1]) if hidden else None
            encoded = None if forward.encoded is None else _joined(forward.encoded.hidden, hidden[-2])
            rows.append(Rows(_joined(forward.hidden, last), encoded))
        return rows

    @torch.inference_mode()
    def _read(self, forwards: Sequence[Forward], rows: Sequence[Rows]) -> list[Reading | None]:
        wanted: list[tuple[Tensor, ReadoutSpec]] = []
        for forward, own in zip(forwards, rows, strict=True):
            wanted += [] if forward.readout is None or own.last is None else [(own.last, forward.readout)]
            also = None if forward.encoded is None else forward.encoded.readout
            wanted += [] if also is None or own.encoded is None else [(own.encoded, also)]
        found = iter(self.model.readout([own for own, _ in wanted], [spec for _, spec in wanted]) if wanted else [])
        answers: list[Reading | None] = []
        for forward, own in zip(forwards, rows, strict=True):
            if forward.readout is None or own.last is None:
                answers.append(None)
                continue
            readout, encoded = next(found), None
            if forward.encoded is not None and own.encoded is not None:
                encoded = EncodedReading(own.encoded, None if forward.encoded.readout is None else next(found))
            answers.append(Reading(readout, own.last, encoded))
        return answers

    def tokenize(
        self,
        prompt: Prompt,
        thinking: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        check: Check | None = None,
        template_variables: Mapping[str, Any] | None = None,
    ) -> Sequence[int]:
        """Return the token ids of a prompt.

        Raw text may spell special tokens, as a rendered template does; what chat messages say is text.
        ``template_variables``: what the chat template reads besides.

        Raises RequestError if it is empty, no text that the tokenizer knows, or, before the work of tokenizing it, if
        it surely does not fit the context; before that what ``check`` raises.
        """
        fits = self.fits(check)
        if prompt is None or isinstance(prompt, Mapping):
            meant = "[{'role': 'user', 'content': ...}]"
            what = "None" if prompt is None else "one mapping"
            raise RequestError(f"the prompt is {what}; give a text, token ids, or a list of chat messages, {meant}")
        if template_variables and not _is_chat(prompt):
            raise RequestError("chat_template_kwargs need chat messages: nothing else goes through the template")
        if isinstance(prompt, str):
            if not prompt:
                raise RequestError("the prompt is empty; give some text")
            return self.tokenizer.encode(prompt, fits)
        if isinstance(prompt, bytes | bytearray):
            raise RequestError("the prompt is bytes; decode it to text, or give token ids as a list")
        if isinstance(prompt, Tensor | np.ndarray):
            return cast(Sequence[int], prompt.tolist())
        if not isinstance(prompt, Sequence):
            raise RequestError(
                f"the prompt is of type {type(prompt).__name__}; give a text, token ids, or a list of chat messages"
            )
        if _is_chat(prompt):
            messages = cast(Sequence[Mapping[str, Any]], prompt)
            ending = () if thinking else self.empty_thought
            syntax = self.model.config.thought_syntax
            return self.tokenizer.encode_chat(messages, thinking, tools, fits, ending, template_variables, syntax)
        return cast(Sequence[int], prompt)

    def fits(self, check: Check | None = None) -> Check:
        """Make a check that raises RequestError for a prompt that surely does not fit the context, and before that what
        ``check`` raises."""
        context = self.model.config.context_length

        def fits(needed: int) -> None:
            if check is not None:
                check(needed)
            if needed >= context:
                raise RequestError(
                    f"the prompt has {counted(needed, 'token')} or more and the context holds {context}; "
                    f"shorten the prompt to {counted(context - 1, 'token')} or fewer"
                )

        return fits

    def question(self, instruction: str, text: str) -> Prompt:
        """Return an instruction about a text: a user's message, or raw text where there is no chat template."""
        content = f"{instruction}\n\n{text}"
        if self.tokenizer.template is None:
            return self.tokenizer.encode(f"{content}\n\n", self.fits(), literal=True)
        return [{"role": "user", "content": content}]

    def asked_of(self, text: str, instruction: str) -> Prompt:
        """Return an instruction about a text in the order that the checkpoint knows: behind the text where it was
        trained on slots, whose questions all stand there, else before it."""
        behind = self.model.defaults.extract_layout == "slots"
        return self.question(text, instruction) if behind else self.question(instruction, text)

    def compile(
        self, constraint: Constraint, stop: Sequence[str] = (), thought: ThoughtMarkers | None = None
    ) -> CompiledConstraint:
        """Compile what holds an answer to ``constraint``, free of ``stop`` strings, after a thought where there are
        markers; ConstraintError as in ``Compiler.compile``."""
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

    def min_tokens(self, constraint: Constraint) -> int:
        """Return how many tokens the shortest text takes that a constraint allows."""
        return self.compile(constraint).min_tokens

    def needed_thought_markers(self) -> ThoughtMarkers:
        """Return the token ids between which the model thinks; RequestError where it cannot."""
        syntax = self.model.config.thought_syntax
        if syntax is None:
            raise RequestError("thinking: this family of models does not think before it answers; leave it out")
        if self.thought_markers is None:
            raise RequestError(
                f"thinking: this checkpoint cannot think: its tokenizer has no {syntax.opening!r} and "
                f"{syntax.closing!r}; leave it out"
            )
        return self.thought_markers


def advance(runtime: Runtime, batch: Sequence[Progress[Any]]) -> None:
    """Do one forward for the tasks of ``batch``, each of which asks for one, and take each to what it asks next.

    What they have to know on the host is read once for all of them. What fails is repeated for each task alone, so that
    one request's fault is not another's.
    """
    forwards = [cast(Forward, progress.asked) for progress in batch]
    try:
        rows = runtime.forward(forwards)
    except Exception as error:
        for forward in forwards:
            for span in forward.spans:
                span.cache.rewind()
        if len(batch) == 1:
            batch[0].fail(error)
        for progress in batch if len(batch) > 1 else ():
            advance(runtime, [progress])
        return
    hand_out(runtime, batch, rows)


def hand_out(runtime: Runtime, batch: Sequence[Progress[Any]], rows: Sequence[Rows]) -> None:
    """Answer the forwards that the tasks of ``batch`` asked for by their ``rows``, as ``Runtime.forward`` gives them,
    and take each task to what it asks next; what the rows of one say wrong is its own fault alone."""
    forwards = [cast(Forward, progress.asked) for progress in batch]
    try:
        answers = runtime.read(forwards, rows)
    except Exception:
        for progress, forward, own in zip(batch, forwards, rows, strict=True):
            try:
                progress.advance(runtime.read([forward], [own])[0])
            except Exception as error:
                progress.fail(error)
    else:
        for progress, answer in zip(batch, answers, strict=True):
            progress.advance(answer)
    read_on_host(batch)


def read_on_host(batch: Sequence[Progress[Any]]) -> None:
    """Answer every task of ``batch`` that waits for a host read, until none does, each time with one read for all."""
    while waiting := [(progress, progress.asked) for progress in batch if isinstance(progress.asked, HostRead)]:
        tensors = [asked.tensor.flatten() for _, asked in waiting]
        values = (tensors[0] if len(tensors) == 1 else torch.cat(tensors)).tolist()
        start = 0
        for progress, asked in waiting:
            count = asked.tensor.numel()
            own: Answer = values[start : start + count]
            progress.advance(own)
            start += count


def run(runtime: Runtime, task: Task[T], on_chunk: Callable[[Chunk], None] | None = None) -> T:
    """Do all of a task, in batches of its own; GenerationError where others hold the memory that it needs."""
    progress = Progress(task, on_chunk)
    try:
        start(progress)
        while not progress.ended:
            forward_alone(runtime, progress)
    finally:
        progress.close()
    return progress.value


def forward_alone(runtime: Runtime, progress: Progress[Any]) -> None:
    """Do the forward that a task asks for, in a batch of its own; GenerationError where others hold its memory."""
    if progress.asked is Waiting.FOR_MEMORY:
        # Others may have given something back since it was asked; until this returns nobody does.
        progress.advance()
        if progress.asked is Waiting.FOR_MEMORY:
            raise GenerationError(no_room(runtime))
        return
    advance(runtime, [progress])


def start(progress: Progress[Any]) -> None:
    """Take a task to what it asks first."""
    progress.advance()
    read_on_host([progress])


def _is_chat(prompt: Prompt) -> bool:
    return isinstance(prompt, Sequence) and len(prompt) > 0 and isinstance(prompt[0], Mapping)


def _markers(thought: ThoughtSyntax, tokenizer: ChatTokenizer) -> ThoughtMarkers | None:
    opening, closing = tokenizer.token_id(thought.opening), tokenizer.token_id(thought.closing)
    return None if opening is None or closing is None else ThoughtMarkers(opening, closing, thought.name)


def _joined(before: Tensor | None, rows: Tensor | None) -> Tensor | None:
    """Return rows behind those that were given; None where there are neither."""
    if before is None or rows is None:
        return rows if before is None else before
    return torch.cat([before, rows])


def _rows_to_read(span: Span, hidden: Tensor | None) -> Tensor | None:
    """Return the rows that a span is read off: of a canvas without the last ones, which say what stands behind it."""
    return hidden[: -span.reread] if hidden is not None and span.reread else hidden


def no_room(runtime: Runtime) -> str:
    """Say why an answer that nothing else takes turns with cannot go on."""
    promised = sum(pool.promised for pool in runtime.pool.memory.pools)
    return (
        f"of the {runtime.pool.budget:,} bytes that kv_bytes allows, other answers under way hold {promised:,}; "
        "finish or close them, or let them take turns in a Scheduler"
    )
