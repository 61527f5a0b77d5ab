"""Options that several verbs share, alone and in groups.

A group is a dataclass whose fields are options. A verb takes it as one parameter; ``grouped`` shows typer its fields.
"""

import functools
import inspect
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_type_hints

import typer

from redraft.cli import settings, talk
from redraft.errors import RequestError
from redraft.files import check_writable
from redraft.room import MemoryLimit, parse_memory

if TYPE_CHECKING:
    from redraft.api import Engine
    from redraft.canvas.acceptance import ConfidenceThreshold
    from redraft.measure.tune.recipe import Recipe
    from redraft.models.base import CanvasLength
    from redraft.models.checkpoint import DType
    from redraft.record.recorder import RecordingFolder

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help="A bundled name, a checkpoint folder, a GGUF file, or a hub id; by default REDRAFT_MODEL, the settings' "
        "or pocket.",
    ),
]
Revision = Annotated[str | None, typer.Option("--revision", help="Branch, tag or commit of a hub id.")]
DTypeOption = Annotated[str, typer.Option("--dtype", help="auto, float32, bfloat16, int8 or int4.")]
Device = Annotated[
    str | None,
    typer.Option("--device", help="auto, cpu, cuda or mps; by default REDRAFT_DEVICE, the settings' or auto."),
]
PackFolderOption = Annotated[
    str | None,
    typer.Option(
        "--pack-folder",
        metavar="DIR",
        help="Where weights packed for the kernels are kept: a folder, auto, or none; by default REDRAFT_PACK_FOLDER.",
    ),
]
MemoryOption = Annotated[
    str | None,
    typer.Option(
        "--memory",
        metavar="SIZE",
        help="What it may take, such as 24GB; auto for what is left, none not to ask; by default REDRAFT_MEMORY.",
    ),
]
DraftModelOption = Annotated[
    str | None,
    typer.Option("--draft-model", help="A small model with the same vocabulary, which drafts in mode speculative."),
]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="Processor threads; by default one a core.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the answer and its cost as JSON.")]


def model_name(given: str | None) -> str:
    """Return the model that a command is for: what it was given, or the user's default."""
    return settings.setting("model").value if given is None else given


def default_models() -> list[str]:
    """Return the models that are served where none is named: the user's default, else all that ship."""
    found = settings.setting("model")
    if found.origin != settings.BUILT_IN_ORIGIN:
        return [found.value]
    from redraft.models.checkpoint import served_by_default

    return served_by_default(found.value)


def device_name(given: str | None) -> str:
    """Return the device that a command is for: what it was given, or the user's default."""
    return settings.setting("device").value if given is None else given


def pack_folder_name(given: str | None) -> str | None:
    """Return where packed weights are kept: where a command was told, or the user's default; None for nowhere."""
    place = settings.setting("pack_folder").value if given is None else given
    return None if place == "none" else place


def load_engine(
    model: str | None,
    dtype: str,
    threads: int | None,
    *,
    revision: str | None = None,
    device: str | None = None,
    pack_folder: str | None = None,
    memory: str | None = None,
    **more: Any,
) -> "Engine":
    """Load a model for a verb, on the number of threads it was given; what is None is the user's default. ``more`` as
    in ``redraft.load``."""
    name = model_name(model)
    device = device_name(device)
    place = pack_folder_name(pack_folder)
    limit = memory_limit(memory)
    import redraft
    from redraft.cli.packing import told
    from redraft.kernels.library import use_threads

    if threads is not None:
        use_threads(threads)
    begun = time.perf_counter()
    with told() as on_packing:
        engine = redraft.load(
            name,
            revision=revision,
            dtype=cast("DType", dtype),
            device=device,
            pack_folder=place,
            on_packing=on_packing,
            memory=limit,
            **more,
        )
    origin = engine.origin
    if origin is not None:
        if origin.choice is not None and not origin.choice.usual:
            talk.note(f"dtype auto is {origin.choice.format}, {origin.choice.reason}")
        talk.detail(
            f"loaded {name} ({origin.checkpoint.path}) as {origin.dtype} on {origin.device}, kernels {origin.kernels}, "
            f"in {time.perf_counter() - begun:.1f} s"
        )
    return engine


def memory_shares(
    models: Sequence[str],
    dtype: str,
    device: str | None,
    memory: str | None,
    kv_bytes: int | None,
    pack_folder: str | None,
) -> list[str]:
    """Judge several models together before one is loaded, and return what to give ``load_engine`` for each."""
    from redraft.loading import share_out

    limits = share_out(
        models,
        dtype=cast("DType", dtype),
        device=device_name(device),
        memory=memory_limit(memory),
        kv_bytes=kv_bytes,
        pack_folder=pack_folder_name(pack_folder),
    )
    return ["none" if limit is None else str(limit) for limit in limits]


def memory_limit(given: str | None) -> "MemoryLimit":
    """Return what a model may take: what a command was given, or the user's default."""
    return parse_memory(memory_text(given))


def memory_text(given: str | None) -> str:
    """Return the same as it was written."""
    return settings.setting("memory").value if given is None else given


class Mode(StrEnum):
    """The ways to write an answer; a test compares them with the engine's."""

    diffusion = "diffusion"
    autoregressive = "autoregressive"
    speculative = "speculative"


ModeOption = Annotated[
    Mode | None,
    typer.Option(
        "--mode",
        help="Denoise canvases, write token after token, or draft by canvases what the latter would write; by default "
        "the checkpoint's.",
    ),
]


class Quality(StrEnum):
    """The words of ``quality``; a test compares them with the engine's."""

    fast = "fast"
    balanced = "balanced"
    exact = "exact"


class Verify(StrEnum):
    """Verifiers that a model has itself."""

    causal = "causal"


class Stopping(StrEnum):
    """Rules of when a canvas is finished."""

    stable = "stable"
    reproduces = "reproduces"


@dataclass(frozen=True)
class Loading:
    """The model, and how it is computed."""

    model: Model = None
    revision: Revision = None
    dtype: DTypeOption = "auto"
    device: Device = None
    pack_folder: PackFolderOption = None
    memory: MemoryOption = None
    threads: Threads = None
    draft_model: DraftModelOption = None

    def engine(self) -> "Engine":
        return load_engine(
            self.model,
            self.dtype,
            self.threads,
            revision=self.revision,
            device=self.device,
            pack_folder=self.pack_folder,
            memory=self.memory,
            **({} if self.draft_model is None else {"draft_model": self.draft_model}),
        )


@dataclass(frozen=True)
class Recordings:
    """The folder for recordings, if any are kept."""

    record: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep what happens, a file a request, for replay and diff.")
    ] = None
    record_prompt: Annotated[
        bool, typer.Option("--record-prompt/--no-record-prompt", help="Keep the prompt as well.")
    ] = True

    def folder(self) -> "RecordingFolder | None":
        """Make the folder, if one is wanted; RecordingError where nothing can be written to it."""
        if self.record is None:
            return None
        from redraft.record.recorder import RecordingFolder

        return RecordingFolder(self.record, keep_prompts=self.record_prompt)


# Parameters that verbs on canvases alone do not have.
_OF_GENERATE = ("mode", "verify", "verify_threshold")


@dataclass(frozen=True)
class Sampling:
    """The rules by which canvases are denoised, or tokens drawn."""

    mode: ModeOption = None
    seed: Annotated[int | None, typer.Option(help="Same seed, same answer; by default a random one.")] = None
    temperature: Annotated[
        float | None,
        typer.Option(help="Scales the checkpoint's schedule; of tokens one by one, divides the logits. 0 is greedy."),
    ] = None
    max_denoising_steps: Annotated[int | None, typer.Option(help="Steps a canvas may take.")] = None
    entropy_bound: Annotated[float | None, typer.Option(help="Nats a step may accept; lower is more careful.")] = None
    confidence_threshold: Annotated[
        float | None, typer.Option(help="Accept positions at least this probable, in place of the entropy bound.")
    ] = None
    stopping: Annotated[
        Stopping, typer.Option(help="A canvas ends when its argmax is stable and sure, or reproduces what was seen.")
    ] = Stopping.stable
    canvas_length: Annotated[
        str | None,
        typer.Option(metavar="N", help="Positions denoised at once; auto for the least that fit the answer."),
    ] = None
    best_of: Annotated[int, typer.Option(help="Candidates for every canvas, of which the surest stays.")] = 1
    verify: Annotated[
        Verify | None, typer.Option(help="Denoise again what the causal rows of the same weights find unlikely.")
    ] = None
    verify_threshold: Annotated[
        float, typer.Option(help="Of --verify: the probability below which a token is unlikely.")
    ] = 0.01
    top_p: Annotated[
        float | None, typer.Option(help="Leave the likeliest tokens of so much probability together; 1 leaves all.")
    ] = None
    top_k: Annotated[int | None, typer.Option(help="Leave so many of the likeliest tokens; 0 leaves all.")] = None
    min_p: Annotated[
        float | None, typer.Option(help="Leave tokens at least so many times as probable as the likeliest one.")
    ] = None
    logit_bias: Annotated[
        list[str] | None,
        typer.Option(metavar="ID=BIAS", help="Add to a token's logit, -100 to 100; may be repeated."),
    ] = None
    presence_penalty: Annotated[
        float, typer.Option(help="Taken from the logit of a token that the answer has already, -2 to 2.")
    ] = 0.0
    frequency_penalty: Annotated[float, typer.Option(help="The same for each time that the answer has it.")] = 0.0
    repetition_penalty: Annotated[
        float | None,
        typer.Option(help="Divides the logit of a token that the answer has already; below 0 it multiplies."),
    ] = None
    deadline_ms: Annotated[
        float | None, typer.Option(help="Milliseconds by which the answer is wanted: the best that there is then.")
    ] = None
    quality: Annotated[
        Quality | None, typer.Option(help="In the place of steps, a bound and a mode: how carefully to write.")
    ] = None

    recipe: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Settings that redraft tune found; what else is given counts before them."),
    ] = None

    def check(self) -> None:
        """Refuse what no model could honour; RequestError names it."""
        from redraft.engine import request

        if self.recipe is not None:
            self._recipe()

        request.check_seed(self.seed)
        if self.temperature is not None:
            request.check_temperature(self.temperature)
        self._canvas_length()
        for name in ("max_denoising_steps", "best_of"):
            value = getattr(self, name)
            if value is not None:
                request.check_whole(name, value, 1)
        if self.entropy_bound is not None:
            request.check_number("entropy_bound", self.entropy_bound, 0)
            if self.confidence_threshold is not None:
                raise RequestError("--entropy-bound and --confidence-threshold exclude each other; give one of them")
        self._acceptance()
        self._check_dial()
        request.check_threshold(self.verify_threshold)
        if self.mode is not None:
            request.check_of_mode(self.mode.value, self._of_canvases())
        check_without_model(
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            logit_bias=self.biases(),
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            repetition_penalty=self.repetition_penalty,
        )

    def _check_dial(self) -> None:
        from redraft.engine.deadline import Deadline, monotonic
        from redraft.engine.quality import check_quality

        if self.deadline_ms is not None:
            Deadline.after(self.deadline_ms, monotonic)
        check_quality(
            None if self.quality is None else self.quality.value,
            max_denoising_steps=self.max_denoising_steps,
            entropy_bound=self.entropy_bound,
            acceptance=self.confidence_threshold,
        )

    def _of_canvases(self) -> dict[str, object]:
        """Return what was given that is for canvases."""
        return {
            "max_denoising_steps": self.max_denoising_steps,
            "entropy_bound": self.entropy_bound,
            "acceptance": self.confidence_threshold,
            "stopping": None if self.stopping is Stopping.stable else self.stopping,
            "canvas_length": self.canvas_length,
            "best_of": None if self.best_of == 1 else self.best_of,
            "verify": self.verify,
        }

    def _canvas_length(self) -> "CanvasLength | None":
        from redraft.engine.canvas_length import check_canvas_length
        from redraft.models.base import AUTO

        given = self.canvas_length
        if given is None or given == AUTO:
            return None if given is None else AUTO
        return check_canvas_length(int(given) if given.lstrip("-").isdecimal() else given)

    def _acceptance(self) -> "ConfidenceThreshold | None":
        if self.confidence_threshold is None:
            return None
        from redraft.canvas.acceptance import ConfidenceThreshold

        try:
            return ConfidenceThreshold(self.confidence_threshold)
        except ValueError as error:
            raise RequestError(f"--confidence-threshold: {error}") from error

    def parameters(self, engine: "Engine", *, generates: bool = True) -> dict[str, Any]:
        """Return the parameters that the engine knows them as. ``generates``: False for a verb that writes on canvases
        alone, and takes no mode."""
        from redraft.canvas.stopping import ReproducesCanvas

        parameters: dict[str, Any] = {
            "mode": None if self.mode is None else self.mode.value,
            "seed": self.seed,
            "temperature": self.temperature,
            "max_denoising_steps": self.max_denoising_steps,
            "entropy_bound": self.entropy_bound,
            "canvas_length": self._canvas_length(),
            "best_of": self.best_of,
            "verify": None if self.verify is None else self.verify.value,
            "verify_threshold": self.verify_threshold,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "min_p": self.min_p,
            "logit_bias": self.biases(),
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
            "repetition_penalty": self.repetition_penalty,
            "deadline_ms": self.deadline_ms,
            "quality": None if self.quality is None else self.quality.value,
        }
        acceptance = self._acceptance()
        if acceptance is not None:
            parameters["acceptance"] = acceptance
        if self.stopping is Stopping.reproduces:
            parameters["stopping"] = ReproducesCanvas(engine.model.defaults.confidence_threshold)
        if not generates:
            self.check_canvases()
            parameters = {name: value for name, value in parameters.items() if name not in _OF_GENERATE}
        return parameters if self.recipe is None else self._recipe().beside(parameters, generates=generates)

    def check_canvases(self) -> None:
        """Refuse a mode, and what verifies answers of ``generate``, for a verb that writes on canvases alone."""
        if self.verify is not None:
            raise RequestError(f"--verify {self.verify.value} is for generate and chat; leave it out")
        if self.mode not in (None, Mode.diffusion):
            raise RequestError(
                f"--mode {self.mode.value}: fill, edit and extract write on canvases alone; leave it out"
            )

    def _recipe(self) -> "Recipe":
        from redraft.measure.tune.recipe import read_recipe

        assert self.recipe is not None, "there is one"
        return read_recipe(self.recipe)

    def biases(self) -> dict[int, float] | None:
        """Return the biases by tokens; RequestError for one that is not written as it must be."""
        found: dict[int, float] = {}
        for given in self.logit_bias or ():
            token, _, bias = given.partition("=")
            try:
                found[int(token)] = float(bias)
            except ValueError:
                raise RequestError(f"--logit-bias {given!r} is no ID=BIAS, such as 106=-5") from None
        return found or None


@dataclass(frozen=True)
class Ending:
    """The ends of an answer beside its own and stop strings."""

    min_tokens: Annotated[int, typer.Option(help="No end and no stop string before so many tokens.")] = 0
    ignore_eos: Annotated[bool, typer.Option("--ignore-eos", help="Never end before max tokens; to measure.")] = False
    stop_token_id: Annotated[
        list[int] | None, typer.Option(metavar="ID", help="Token at which the answer ends; may be repeated.")
    ] = None

    def parameters(self) -> dict[str, Any]:
        """Return the parameters that the engine knows them as."""
        check_without_model(min_tokens=self.min_tokens, ignore_eos=self.ignore_eos, stop_token_ids=self.stop_token_id)
        return {
            "min_tokens": self.min_tokens,
            "ignore_eos": self.ignore_eos,
            "stop_token_ids": self.stop_token_id,
        }


class Effort(StrEnum):
    """The words of ``reasoning_effort``."""

    NONE = "none"
    INSTANT = "instant"
    MINIMAL = "minimal"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    XHIGH = "xhigh"
    MAX = "max"


@dataclass(frozen=True)
class Thinking:
    """The options of thinking: if the model does it first, how long and how carefully."""

    thinking: Annotated[bool, typer.Option("--thinking", help="Let the model think first, on standard error.")] = False
    thinking_budget: Annotated[
        int | None, typer.Option(min=0, help="Tokens that the thought may take; the answer follows.")
    ] = None
    effort: Annotated[
        Effort | None,
        typer.Option("--reasoning-effort", help="No thought (none, minimal), or one; low is fast, high careful."),
    ] = None

    def parameters(self) -> dict[str, Any]:
        """Return the parameters that the engine knows them as; RequestError for what contradicts itself."""
        from redraft.engine.thinking import wants_thought

        given = {
            "thinking": self.thinking or None,
            "thinking_budget": self.thinking_budget,
            "reasoning_effort": None if self.effort is None else self.effort.value,
        }
        wants_thought(given["thinking"], given["reasoning_effort"], given["thinking_budget"])
        return given


def grouped(verb: Callable[..., None]) -> Callable[..., None]:
    """Wrap a verb so that typer sees the fields of each group, in the group's place."""
    annotations = get_type_hints(verb, include_extras=True)
    groups: dict[str, Any] = {name: group for name, group in annotations.items() if is_dataclass(group)}
    shown: list[inspect.Parameter] = []
    for parameter in inspect.signature(verb).parameters.values():
        if parameter.name not in groups:
            shown.append(parameter.replace(kind=parameter.KEYWORD_ONLY, annotation=annotations[parameter.name]))
            continue
        group = groups[parameter.name]
        of_fields = get_type_hints(group, include_extras=True)
        shown += [
            inspect.Parameter(f.name, parameter.KEYWORD_ONLY, default=f.default, annotation=of_fields[f.name])
            for f in fields(group)
        ]

    @functools.wraps(verb)
    def with_fields(**given: Any) -> None:
        for name, group in groups.items():
            given[name] = group(**{f.name: given.pop(f.name) for f in fields(group)})
        verb(**given)

    with_fields.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    with_fields.__annotations__ = {parameter.name: parameter.annotation for parameter in shown}
    return with_fields


def check_without_model(**given: Any) -> None:
    """Refuse sampling parameters that no model could honour, whatever its vocabulary and its context."""
    from redraft.engine.sampling import NOTHING, check_sampling

    said = {name: value for name, value in given.items() if value is not None}
    check_sampling(vocab_size=1 << 31, room=1 << 31, **{**vars(NOTHING), **said})


def check_answer(
    sampling: Sampling,
    max_tokens: int | None,
    stop: list[str] | None = None,
    *,
    watch: bool = False,
    recordings: Recordings = Recordings(),
    generates: bool = True,
) -> None:
    """Refuse, before a model is loaded, what no model could honour."""
    from redraft.engine import request

    sampling.check()
    if not generates:
        sampling.check_canvases()
    if sampling.mode not in (None, Mode.diffusion):
        for name, given in (("--watch", watch), ("--record", recordings.record is not None)):
            if given:
                raise RequestError(
                    f"{name} is for denoising steps, and mode {sampling.mode.value!r} shows none; leave it out"
                )
    if max_tokens is not None:
        request.check_whole("max_tokens", max_tokens, 1)
    request.check_stop(stop)


def check_output(path: Path) -> None:
    """Refuse, before any work, a file that could not be written."""
    if not path.parent.is_dir():
        raise RequestError(f"the folder of {path} does not exist; make it first")
    try:
        check_writable(path)
    except OSError as error:
        raise RequestError(f"{path} cannot be written: {error.strerror}") from error


def same_place(path: Path, model: str) -> bool:
    """Tell whether a path is where a model lies: whoever writes it says so itself."""
    return path.resolve() == Path(model).expanduser().resolve()


def check_folder(path: Path, *, new: bool = False) -> None:
    """Refuse, before any work, a folder that could not be made or written to; ``new``: or that has something in it."""
    there = next(place for place in (path, *path.absolute().parents) if place.exists())
    if not there.is_dir():
        what = "it" if there == path else str(there)
        raise RequestError(f"{path} cannot be a folder: {what} is a file; give another folder")
    if not os.access(there, os.W_OK):
        raise RequestError(f"{path} cannot be written: {there} may not be written to; give another folder")
    if new and path.is_dir() and any(path.iterdir()):
        raise RequestError(f"{path}: the folder is not empty; give a new one, or remove it")
