"""``redraft serve``: serves a model, or several, in the wire formats that existing clients speak."""

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from redraft.cli import options
from redraft.errors import CheckpointError, RedraftError, RequestError

if TYPE_CHECKING:
    from redraft.api import Engine
    from redraft.record.recorder import RecordingFolder

_KEY_VARIABLE = "REDRAFT_API_KEY"
# The scheduler's own, which a test compares them with: to import it takes seconds.
MAX_CONCURRENCY, MAX_BATCH_ROWS = 16, 1024


def serve(
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            help="A bundled name, a checkpoint folder, a GGUF file, or a hub id; may be repeated, and the first one "
            "answers who names none. By default REDRAFT_MODEL, the settings' or all that ship.",
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen at; the default is this machine alone.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen at; 0 picks a free one.")] = 8000,
    name: Annotated[
        list[str] | None,
        typer.Option(help="What clients call the model; by default its own name. Once for each --model, in order."),
    ] = None,
    api_key: Annotated[
        list[str] | None, typer.Option(envvar=_KEY_VARIABLE, help="Key that clients must send; may be repeated.")
    ] = None,
    max_concurrency: Annotated[
        int, typer.Option(min=1, help="Requests that share the model's forwards; others wait.")
    ] = MAX_CONCURRENCY,
    max_batch_rows: Annotated[
        int, typer.Option(min=1, help="Rows of one forward; a canvas is in it whole or not at all.")
    ] = MAX_BATCH_ROWS,
    max_waiting: Annotated[int, typer.Option(min=0, help="Requests that may wait; more are refused with 429.")] = 256,
    kv_bytes: Annotated[int | None, typer.Option(min=1, help="Memory for keys and values of all requests.")] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            "--max-tokens-default",
            min=1,
            help="Tokens of an answer where the client does not say; by default what fits.",
        ),
    ] = None,
    mode: options.ModeOption = None,
    recipe: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Settings that redraft tune found, for requests that do not name theirs."),
    ] = None,
    max_prompt_tokens: Annotated[int | None, typer.Option(min=1, help="Longer prompts are refused with 413.")] = None,
    max_body_bytes: Annotated[int, typer.Option(min=1, help="Larger bodies are refused with 413.")] = 4 << 20,
    cors: Annotated[
        list[str] | None, typer.Option(help="Origin whose pages may ask; may be repeated. Off by default.")
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            help="Name under which the server may be asked for, besides localhost and addresses; '*' for any. May be "
            "repeated. With --api-key any name is allowed by default."
        ),
    ] = None,
    grace: Annotated[
        float, typer.Option(min=0, help="Seconds that running requests have to finish when the server is stopped.")
    ] = 30.0,
    log_prompts: Annotated[bool, typer.Option("--log-prompts", help="Write prompts to the log.")] = False,
    record: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep what happens, a file an answer, for replay and diff.")
    ] = None,
    record_prompt: Annotated[
        bool, typer.Option("--record-prompt/--no-record-prompt", help="Keep the prompts as well.")
    ] = True,
    revision: options.Revision = None,
    dtype: options.DTypeOption = "auto",
    device: options.Device = None,
    pack_folder: options.PackFolderOption = None,
    memory: options.MemoryOption = None,
    threads: options.Threads = None,
    draft_model: options.DraftModelOption = None,
    replicas: Annotated[
        int | None,
        typer.Option(min=1, help="Processes on Ray that each load the models and share the machine; one may be lost."),
    ] = None,
) -> None:
    """Serve models over HTTP: OpenAI, Anthropic, Mercury, Codestral and System One clients.

    Example: redraft serve --model sudoku --port 8000
    """
    try:
        from redraft.serve import server
    except ModuleNotFoundError as missing:
        raise RequestError(
            f"the server needs {missing.name}; install it with: pip install 'redraft[serve]'"
        ) from missing
    from redraft.measure.tune.recipe import read_recipe
    from redraft.serve.backend import share_memory
    from redraft.serve.http.hosts import check_hosts
    from redraft.serve.http.limits import RequestLimits
    from redraft.serve.http.security import check_keys
    from redraft.serve.state import ServerSettings

    if not api_key and not os.environ.get(_KEY_VARIABLE, "-").strip():
        raise RequestError(f"{_KEY_VARIABLE} is set and empty; give it a key, or unset it to let everybody in")
    check_keys(api_key or ())
    check_hosts(allowed_host or ())
    server.check_address(host, port)
    recordings = options.Recordings(record, record_prompt).folder()
    own = None if recipe is None else read_recipe(recipe)
    models = list(model or options.default_models())
    names = list(name or (Path(one).name for one in models))
    of_one = {"revision": revision, "recipe": recipe, "draft_model": draft_model}
    _check_models(models, names, replicas is not None, of_one)
    if replicas is not None:
        _serve_replicas(
            model=models, name=names, revision=revision, dtype=dtype, device=options.device_name(device),
            threads=threads, memory=options.memory_text(memory), kv_bytes=kv_bytes,
            pack_folder=options.pack_folder_name(pack_folder), draft_model=draft_model, replicas=replicas,
            max_concurrency=max_concurrency, max_waiting=max_waiting, max_batch_rows=max_batch_rows,
            max_tokens=max_tokens, max_prompt_tokens=max_prompt_tokens, max_body_bytes=max_body_bytes,
            mode=None if mode is None else mode.value, recipe=None if recipe is None else str(recipe),
            api_keys=api_key or [], cors=cors or [], allowed_hosts=allowed_host, log_prompts=log_prompts,
            record=None if record is None else str(record), record_prompt=record_prompt,
        )(host=host, port=port, grace=grace)  # fmt: skip
        return
    limits = options.memory_shares(models, dtype, device, memory, kv_bytes, pack_folder)
    loaded = [
        options.load_engine(
            one, dtype, threads,
            revision=revision, device=device, pack_folder=pack_folder, kv_bytes=kv_bytes, memory=limit,
            **({} if draft_model is None else {"draft_model": draft_model}),
        )
        for one, limit in zip(models, limits, strict=True)
    ]  # fmt: skip
    engines = dict(zip(names, loaded, strict=True))
    share_memory(loaded, kv_bytes)
    _check_answers(engines, mode, recordings)
    for known_as, engine in engines.items() if recordings is not None else ():
        if engine.origin is not None:
            # Large weights are read through for it, which the first request need not wait for.
            typer.echo(f"recording {known_as} to {record}, weights {engine.origin.digest[:12]}", err=True)
    settings = ServerSettings(
        model=names[0],
        api_keys=api_key or (),
        cors=cors or (),
        allowed_hosts=allowed_host,
        limits=RequestLimits(body_bytes=max_body_bytes, prompt_tokens=max_prompt_tokens),
        max_tokens=max_tokens,
        log_prompts=log_prompts,
        record=recordings,
        mode=None if mode is None else mode.value,
        recipe=own,
    )
    server.run(
        engines,
        settings,
        host=host,
        port=port,
        max_concurrency=max_concurrency,
        max_waiting=max_waiting,
        max_batch_rows=max_batch_rows,
        grace=grace,
    )


def _serve_replicas(**given: Any) -> Callable[..., None]:
    """Return what serves with replicas, their options checked; RedraftError where Ray is not installed."""
    try:
        from redraft.serve import ray
    except ModuleNotFoundError as missing:
        raise RedraftError(
            f"replicas need Ray, and {missing.name} is missing; install it with: pip install 'redraft[serve,ray]'"
        ) from missing
    from pydantic import ValidationError

    from redraft.serve.replicas.arguments import Arguments

    try:
        return functools.partial(ray.run, Arguments(**given))
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"]))
        raise RequestError(f"{where + ': ' if where else ''}{fault['msg'].removeprefix('Value error, ')}") from error


def _check_models(models: Sequence[str], names: Sequence[str], elsewhere: bool, of_one: Mapping[str, Any]) -> None:
    """Refuse, before any weights are read, names that clash, a model that cannot be served, and what is for one.
    ``elsewhere``: the models are read in other processes."""
    from redraft.models import checkpoint
    from redraft.serve.backend import check_names

    if len(names) != len(models):
        raise RequestError(
            f"--name was given {len(names)} times and there are {len(models)} models; give it once for each --model, "
            "in order, or not at all"
        )
    check_names(names)
    if len(models) == 1 and not elsewhere:
        return
    for option, given in of_one.items():
        if given is not None and len(models) > 1:
            raise RequestError(f"--{option.replace('_', '-')} is for one model, and {len(models)} are to be served")
    for model in models:
        try:
            found = checkpoint.find_local(model)
            if found is not None:
                checkpoint.read(found)
        except CheckpointError as error:
            raise CheckpointError(f"--model {model}: {error}") from error


def _check_answers(
    engines: "Mapping[str, Engine]", mode: "options.ModeOption", recordings: "RecordingFolder | None"
) -> None:
    """Refuse a mode that a model does not have, and recordings of answers that show no denoising steps."""
    from redraft.engine.request import check_listeners, check_mode

    for name, engine in engines.items():
        try:
            modes = engine.runtime.modes
            check_listeners(None, recordings, check_mode(mode, modes), modes)
        except RequestError as error:
            raise RequestError(f"{name}: {error}") from error
