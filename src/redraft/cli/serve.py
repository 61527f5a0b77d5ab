"""``redraft serve``: serves one model in the wire formats that existing clients speak."""

import os
from pathlib import Path
from typing import Annotated

import typer

from redraft.cli import options
from redraft.errors import RequestError

_KEY_VARIABLE = "REDRAFT_API_KEY"
# The scheduler's own, which a test compares them with: to import it takes seconds.
MAX_CONCURRENCY, MAX_BATCH_ROWS = 16, 1024


def serve(
    model: options.Model = None,
    host: Annotated[str, typer.Option(help="Address to listen at; the default is this machine alone.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen at; 0 picks a free one.")] = 8000,
    name: Annotated[str | None, typer.Option(help="What clients call the model; by default its own name.")] = None,
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
    threads: options.Threads = None,
    draft_model: options.DraftModelOption = None,
) -> None:
    """Serve a model over HTTP: OpenAI, Anthropic, Mercury, Codestral and System One clients.

    Example: redraft serve --model sudoku --port 8000
    """
    try:
        from redraft.serve import server
    except ModuleNotFoundError as missing:
        raise RequestError(
            f"the server needs {missing.name}; install it with: pip install 'redraft[serve]'"
        ) from missing
    from redraft.measure.tune.recipe import read_recipe
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
    engine = options.load_engine(
        model, dtype, threads,
        revision=revision, device=device, pack_folder=pack_folder, kv_bytes=kv_bytes,
        **({} if draft_model is None else {"draft_model": draft_model}),
    )  # fmt: skip
    from redraft.engine.request import check_listeners, check_mode

    modes = engine.runtime.modes
    check_listeners(None, recordings, check_mode(mode, modes), modes)
    if recordings is not None and engine.origin is not None:
        # Large weights are read through for it, which the first request need not wait for.
        typer.echo(f"recording to {record}, weights {engine.origin.digest[:12]}", err=True)
    settings = ServerSettings(
        model=name or Path(options.model_name(model)).name,
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
        engine,
        settings,
        host=host,
        port=port,
        max_concurrency=max_concurrency,
        max_waiting=max_waiting,
        max_batch_rows=max_batch_rows,
        grace=grace,
    )
