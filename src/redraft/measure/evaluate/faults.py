"""The two kinds of wrong answer: artefacts of how text is made, and well-formed values that are false.

They call for different cures: an artefact for another layout, more denoising steps or a stopping rule, a false value
for a better model. The rule is about form alone, and the first of these that holds decides:

1. An option that a schema lists is a **wrong value**: it cannot be ill-formed.
2. **malformed**: a control character or U+FFFD, a marker of the model, white space at an end, quotes or brackets that
   do not pair; none of which the truth has.
3. **repeated**: the truth twice or more; or, with a letter in it, a word twice in a row, two characters or more three
   times in a row, one four times in a row, and neither the truth nor the source has that.
4. A value that the source has, between borders of words, is a **wrong value**: something else was read.
5. **cut**: nothing, or a part of the truth that begins or ends within a word.
6. **shifted**: more than half of the truth and of the answer are the same, the end of one and the beginning of the
   other, and the border is within a word.
7. **no span**: the truth is in the source between borders of words, and the answer is not.
8. Everything else is a **wrong value**, also a value that is missing, one too many, or of another type.
"""

import json
import re
from collections.abc import Collection
from typing import Any, Literal

Fault = Literal["malformed", "repeated", "cut", "shifted", "no span", "wrong value", "failed"]
ARTEFACTS: tuple[Fault, ...] = ("malformed", "repeated", "cut", "shifted", "no span")
WRONG_VALUE: Fault = "wrong value"
FAILED: Fault = "failed"
"""The fault of what has no answer: the model refused the item, or failed at it."""

_BROKEN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffd]")
_MARKER = re.compile(r"<\|[^<>|\n]{1,40}\|>")
_PAIRS = (("(", ")"), ("[", "]"), ("{", "}"), ("\u201c", "\u201d"))
_REPEATS = (
    re.compile(r"\b(\w+)(?:\W+\1\b)+", re.IGNORECASE),
    re.compile(r"(.{2,40}?)\1{2,}", re.DOTALL),
    re.compile(r"(.)\1{3,}"),
)
# Fewer digits are alike by chance.
_MIN_DIGITS = 2


def text_fault(
    answer: str, truth: str | None = None, source: str | None = None, markers: Collection[str] = ()
) -> Fault:
    """Name the fault of a wrong text. ``truth``: the right one, where there is one; ``source``: the text that it was
    read from, where it was read; ``markers``: texts of the model's special tokens."""
    if _is_malformed(answer, truth, markers):
        return "malformed"
    if _is_repeated(answer, truth, source):
        return "repeated"
    if not answer:
        return "cut"
    if source is not None and is_span(answer, source):
        return WRONG_VALUE
    if truth is not None:
        if _is_cut(answer, truth):
            return "cut"
        if _is_shifted(answer, truth):
            return "shifted"
        if source is not None and is_span(truth, source):
            return "no span"
    return WRONG_VALUE


def value_fault(
    answer: Any, truth: Any, source: str, options: Collection[str] = (), markers: Collection[str] = ()
) -> Fault:
    """Name the fault of a wrong JSON value of a field. ``options``: texts that the schema lists."""
    if isinstance(answer, str) and isinstance(truth, str):
        return WRONG_VALUE if answer in options else text_fault(answer, truth, source, markers)
    if _is_number(answer) and _is_number(truth):
        return _number_fault(json.dumps(answer), json.dumps(truth), source)
    return WRONG_VALUE


def is_span(text: str, source: str) -> bool:
    """Tell whether ``source`` has ``text`` between borders of words; white space of any kind is one space."""
    text, source = (" ".join(one.split()) for one in (text, source))
    return bool(text) and any(
        not _within_word(source, start) and not _within_word(source, start + len(text))
        for start in _occurrences(text, source)
    )


def _number_fault(answer: str, truth: str, source: str) -> Fault:
    if len(answer) > len(truth) and _copies(answer, truth):
        return "repeated"
    if is_span(answer, source) or min(map(_digits, (answer, truth))) < _MIN_DIGITS:
        return WRONG_VALUE
    if 2 * len(answer) >= len(truth) and _is_cut(answer, truth):
        return "cut"
    if _is_shifted(answer, truth):
        return "shifted"
    return "no span" if is_span(truth, source) else WRONG_VALUE


def _is_malformed(answer: str, truth: str | None, markers: Collection[str]) -> bool:
    known = truth or ""
    if any(found not in known for found in _BROKEN.findall(answer) + _MARKER.findall(answer)):
        return True
    if any(marker and marker in answer and marker not in known for marker in markers):
        return True
    if truth is not None and answer != answer.strip() and truth == truth.strip():
        return True
    return not _is_paired(answer) and _is_paired(known)


def _is_paired(text: str) -> bool:
    return text.count('"') % 2 == 0 and all(text.count(opening) == text.count(closing) for opening, closing in _PAIRS)


def _is_repeated(answer: str, truth: str | None, source: str | None) -> bool:
    if truth and len(answer) > len(truth) and _copies(answer, truth):
        return True
    known = [one for one in (truth, source) if one is not None]
    repeats = (found for rule in _REPEATS for found in rule.finditer(answer))
    return any(
        any(map(str.isalpha, found.group(1))) and all(found.group() not in one for one in known) for found in repeats
    )


def _copies(text: str, unit: str) -> bool:
    """Tell whether a text is ``unit`` twice or more, with nothing but white space and punctuation between."""
    return re.fullmatch(rf"(?:{re.escape(unit)}[\W_]*){{2,}}", text) is not None


def _is_cut(answer: str, truth: str) -> bool:
    places = list(_occurrences(answer, truth)) if len(answer) < len(truth) else []
    return bool(places) and all(
        _within_word(truth, start) or _within_word(truth, start + len(answer)) for start in places
    )


def _is_shifted(answer: str, truth: str) -> bool:
    return _overlaps(truth, answer, truth) or _overlaps(answer, truth, truth)


def _overlaps(first: str, second: str, truth: str) -> bool:
    """Tell whether more than half of two texts is the end of ``first`` and the beginning of ``second``, and the border
    of that is within a word of the truth, which is one of them."""
    longest = min(len(first), len(second)) - 1
    for length in range(longest, max(len(first), len(second)) // 2, -1):
        if first.endswith(second[:length]):
            return _within_word(truth, len(truth) - length if truth is first else length)
    return False


def _occurrences(part: str, whole: str) -> "list[int]":
    found = []
    at = whole.find(part)
    while at >= 0:
        found.append(at)
        at = whole.find(part, at + 1)
    return found


def _within_word(text: str, at: int) -> bool:
    """Tell whether a place lies between two letters or digits."""
    return 0 < at < len(text) and text[at - 1].isalnum() and text[at].isalnum()


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _digits(text: str) -> int:
    return sum(mark.isdigit() for mark in text)
