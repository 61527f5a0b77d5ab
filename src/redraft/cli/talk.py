"""The amount that a command says beside its answer: ``--quiet`` and ``--verbose``, which every verb has."""

import functools
import inspect
import logging
from collections.abc import Callable
from typing import Annotated, Any, get_type_hints

import typer

from redraft.errors import RequestError

QUIET, NORMAL, VERBOSE = -1, 0, 1
INTERRUPTED = 130
"""The exit code of what Ctrl-C ended, as shells have it: 128 and the number of the signal."""


class _Loudness:
    """The loudness of the command that runs in this process."""

    level = NORMAL


def level() -> int:
    """Return how much is to be said."""
    return _Loudness.level


def set_level(value: int) -> None:
    """Choose how much is to be said; also by the logger of the library."""
    _Loudness.level = value
    # Warnings are said in any case. What a server logs is what it says: where it listens, and a line a request.
    for name, normal in (("redraft", logging.WARNING), ("redraft.serve", logging.INFO)):
        levels = {QUIET: logging.WARNING, NORMAL: normal, VERBOSE: logging.DEBUG}
        logging.getLogger(name).setLevel(levels[value])


def note(text: str, nl: bool = True) -> None:
    """Say something about an answer on standard error: its cost, a hint, progress. Not with ``--quiet``."""
    if level() > QUIET:
        typer.echo(text, nl=nl, err=True)


def detail(text: str) -> None:
    """Say what only ``--verbose`` is to say."""
    if level() >= VERBOSE:
        typer.echo(text, err=True)


def talking(verb: Callable[..., None]) -> Callable[..., None]:
    """Give a verb ``--verbose`` and ``--quiet``."""
    signature, annotations = inspect.signature(verb), get_type_hints(verb, include_extras=True)
    shown = [
        one.replace(kind=one.KEYWORD_ONLY, annotation=annotations[name]) for name, one in signature.parameters.items()
    ]
    shown += [
        inspect.Parameter("verbose", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=_Verbose),
        inspect.Parameter("quiet", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=_Quiet),
    ]

    @functools.wraps(verb)
    def talks(*, verbose: bool, quiet: bool, **given: Any) -> None:
        if verbose and quiet:
            raise RequestError("--verbose and --quiet exclude each other; give one of them")
        set_level(VERBOSE if verbose else QUIET if quiet else NORMAL)
        verb(**given)

    talks.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    talks.__annotations__ = {one.name: one.annotation for one in shown}
    return talks


_Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Say more: what is loaded, from where, how long it takes.")
]
_Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing beside the answer but errors and warnings.")]
