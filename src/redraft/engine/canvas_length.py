"""The length of a canvas: given, the checkpoint's own, or the least that fits of those that it was trained on."""

from redraft.engine.runtime import Runtime
from redraft.errors import RequestError
from redraft.models.base import AUTO, CanvasLength


def trained_lengths(runtime: Runtime) -> tuple[int, ...]:
    """Return the lengths that "auto" picks from, the least first; none for a model that has one length alone."""
    model = runtime.model
    return model.defaults.canvas_lengths or tuple(getattr(model.config, "free_canvas_lengths", ()))


def pick_canvas_length(runtime: Runtime, given: CanvasLength | None, needed: int | None) -> int:
    """Return a canvas's length. ``given``: None for the checkpoint's own, which is "auto" where it names the lengths
    that it was trained on. ``needed``: the positions that an answer takes at most; None where nobody knows.

    Raises RequestError for a length that is none, or "auto" of a model that was trained on one length alone.
    """
    longest = runtime.model.config.canvas_length
    if given is None:
        given = AUTO if runtime.model.defaults.canvas_lengths else longest
    if given != AUTO:
        return check_canvas_length(given, longest)
    lengths = trained_lengths(runtime)
    if not lengths:
        raise RequestError(
            f"canvas_length 'auto': this checkpoint was trained on canvases of {longest} positions alone; leave it out"
        )
    return next((length for length in lengths if needed is not None and length >= needed), lengths[-1])


def check_canvas_length(given: object, longest: int | None = None) -> int:
    """Return a length that is a number; RequestError for what is no length of a canvas of at most ``longest``."""
    if isinstance(given, bool) or not isinstance(given, int):
        raise RequestError(f"canvas_length {given!r} must be a whole number, or 'auto'")
    if given < 1 or (longest is not None and given > longest):
        room = "1 or more" if longest is None else f"from 1 to {longest}"
        raise RequestError(f"canvas_length {given} is out of range; it must be {room}")
    return given
