"""The place in a text of each value that was read from it."""

import re
from collections.abc import Iterator

from redraft.constrain.language.json.spans import leaves
from redraft.errors import GenerationError

_NUMBER = re.compile(r"[-+]?\d[\d.,]*")
_WORD = re.compile(r"\w")


def places_of(text: str, found: str) -> dict[str, tuple[int, int]]:
    """Return where each value of the JSON ``found`` stands in ``text``, by JSON pointer: its first character, and the
    one after its last.

    A string stands where it is written, at the borders of words, in whatever case and with whatever space between its
    words; a number where one of its size is written. Values that are alike are given the places in their order. A value
    that is written in another form, such as a date, or not at all, has no place. Raises GenerationError for what is not
    JSON.
    """
    try:
        values = leaves(found)
    except ValueError as error:
        raise GenerationError(f"no places can be told: {error}") from error
    taken: set[tuple[int, int]] = set()
    places: dict[str, tuple[int, int]] = {}
    for leaf in values:
        match leaf.value:
            case str(value) if value.strip():
                candidates = list(_strings(text, value.strip()))
            case bool():
                candidates = []
            case int() | float():
                candidates = list(_numbers(text, float(leaf.value)))
            case _:
                candidates = []
        if candidates:
            place = next((one for one in candidates if one not in taken), candidates[0])
            taken.add(place)
            places[leaf.pointer] = place
    return places


def _strings(text: str, value: str) -> Iterator[tuple[int, int]]:
    """Yield the places of a string, those in its own case first."""
    pattern = r"\s+".join(map(re.escape, value.split()))
    before, after = (r"\b" if _WORD.match(end) else "" for end in (value[0], value[-1]))
    own: list[tuple[int, int]] = []
    for flags in (0, re.IGNORECASE):
        for match in re.finditer(before + pattern + after, text, flags):
            if match.span() not in own:
                own.append(match.span())
    yield from own


def _numbers(text: str, value: float) -> Iterator[tuple[int, int]]:
    """Yield the places of a number, written with or without commas between thousands, or with one for a point."""
    for match in _NUMBER.finditer(text):
        written = match[0].rstrip(".,")
        if value in set(_read(written)):
            yield match.start(), match.start() + len(written)


def _read(written: str) -> Iterator[float]:
    for plain in (written.replace(",", ""), written.replace(".", "").replace(",", ".")):
        try:
            yield float(plain)
        except ValueError:
            continue
