"""``redraft pull``, ``list`` and ``rm``: checkpoints of the hub on this machine, in the hub's own cache."""

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from redraft.cli import options, printing, talk
from redraft.errors import CheckpointError, RequestError

if TYPE_CHECKING:
    from redraft.models.hub import Pulled

_COMMIT = 12


def pull(
    model: Annotated[str, typer.Argument(help="A hub id, such as google/diffusiongemma-26B-A4B-it.")],
    revision: options.Revision = None,
) -> None:
    """Fetch a checkpoint from the hub into its cache. What would not load is refused before its weights are fetched.

    Example: redraft pull google/diffusiongemma-26B-A4B-it
    """
    from redraft.models import checkpoint, hub

    here = checkpoint.find_local(model)
    if here is not None:
        raise RequestError(f"{model} is on this machine already: {here}")
    found = hub.survey(model, revision)
    hub.judge(found, bases=True)
    hub.check_room(found)
    talk.note(f"{model}, revision {found.commit[:_COMMIT]}: {printing.size(sum(found.fetched.values()))}")
    typer.echo(hub.fetch(model, revision, bases=True))


def list_models(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the checkpoints on this machine: those that ship, and those of the hub's cache.

    Example: redraft list
    """
    from redraft.models import checkpoint, hub

    bundled = {name: _folder_size(path) for name, path in checkpoint.bundled_checkpoints().items()}
    found = [one for one in hub.pulled() if _is_ours(one)]
    if as_json:
        rows = [{"name": name, "bundled": True, "bytes": size} for name, size in bundled.items()]
        typer.echo(json.dumps(rows + [_as_object(one) for one in found], indent=2))
        return
    for name, size in bundled.items():
        typer.echo(f"{name}\n  bundled, {printing.size(size)}")
    for one in found:
        used = datetime.fromtimestamp(one.last_used, UTC).date().isoformat()
        refs = f" ({', '.join(one.refs)})" if one.refs else ""
        typer.echo(
            f"{one.name}\n  {one.architecture}\n  {one.commit[:_COMMIT]}{refs}, {printing.size(one.size)}, used {used}"
        )


def remove(
    model: Annotated[str, typer.Argument(help="A hub id, as redraft list shows it.")],
    revision: Annotated[
        str | None, typer.Option("--revision", help="Only this branch, tag or beginning of a commit.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove a checkpoint from the hub's cache, and what was packed of it.

    Example: redraft rm google/diffusiongemma-26B-A4B-it
    """
    from redraft.models import hub
    from redraft.models.cache_folder import cache_folders

    own = [one for one in hub.pulled() if one.name == model]
    chosen = [one for one in own if revision is None or revision in one.refs or one.commit.startswith(revision)]
    if not own:
        raise CheckpointError(f"{model!r} is not in the hub's cache; redraft list shows what is")
    if not chosen:
        known = ", ".join(ref for one in own for ref in (one.commit[:_COMMIT], *one.refs))
        raise CheckpointError(f"{model} has no revision {revision!r} here; there are {known}")
    size = sum(one.size for one in chosen)
    if not yes and not typer.confirm(f"remove {model} ({printing.size(size)})?", err=True):
        raise RequestError("nothing was removed")
    packed = [folder for one in chosen for folder in cache_folders(one.path) if folder.is_dir()]
    freed = sum(_folder_size(folder) for folder in packed)
    for folder in packed:
        shutil.rmtree(folder)
    typer.echo(f"removed {model}, {printing.size(freed + hub.remove(chosen))} are free again")


def _is_ours(one: "Pulled") -> bool:
    from redraft.models.registry import BASES, FAMILIES

    return one.architecture in FAMILIES or one.architecture in BASES


def _as_object(one: "Pulled") -> dict[str, object]:
    return {
        "name": one.name,
        "bundled": False,
        "bytes": one.size,
        "architecture": one.architecture,
        "revision": one.commit,
        "refs": list(one.refs),
        "folder": str(one.path),
        "last_used": datetime.fromtimestamp(one.last_used, UTC).isoformat(),
    }


def _folder_size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
