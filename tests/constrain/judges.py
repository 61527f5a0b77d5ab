"""Whether a text is what a schema or a pattern asks for, judged without any code of redraft.

A text passes only if it does so by every reading that readers are known to have: numbers as doubles and as decimals,
patterns as Python, RE2 and JavaScript understand them, formats as the jsonschema package and as Python's own parsers
check them.
"""

import datetime
import ipaddress
import json
import re
import uuid
from collections.abc import Callable, Mapping
from decimal import Decimal
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import jsonschema
import llguidance
from jsonschema import validators

FORMATS = ("date", "date-time", "time", "email", "uuid", "ipv4", "uri")


def valid_json(schema: Mapping[str, Any] | bool | str, text: str | bytes) -> bool:
    """Whether a text is one JSON value, by RFC 8259 to the letter, that is valid under a schema (draft 2020-12)."""
    written = schema if isinstance(schema, str) else json.dumps(schema)
    try:
        text = text.decode() if isinstance(text, bytes) else text
        values = [_parsed(text, number) for number in (float, Decimal)]
    except (ValueError, RecursionError):
        return False
    return all(validator.is_valid(value) for validator, value in zip(_validators(written), values, strict=True))


def full_match(pattern: str, text: str | bytes) -> bool:
    """Whether the whole of a text matches a pattern, in each of the dialects that can read the pattern."""
    try:
        text = text.decode() if isinstance(text, bytes) else text
    except UnicodeDecodeError:
        return False
    return all(reading.fullmatch(text) for reading in _readings(pattern))


def guidance_accepts(schema: Mapping[str, Any] | bool, text: bytes) -> bool | None:
    """Whether the llguidance package accepts a JSON text; None for a schema that it does not support.

    It is narrower than a schema in its own ways: members stand in declared order, and a string is written with no
    more escapes than JSON requires.
    """
    return _walked(_json_grammar(json.dumps(schema)), text)


def guidance_matches(pattern: str, text: bytes) -> bool | None:
    """Whether the llguidance package matches the whole text; None for a pattern that it does not support."""
    return _walked(llguidance.LLMatcher.grammar_from_regex(pattern), text)


# JSON


def _parsed(text: str, number: Callable[[str], float | Decimal]) -> Any:
    value = json.loads(text, parse_float=number, parse_constant=_no_constant)
    # Half a surrogate pair, which JSON can spell and no text can hold, has no bytes.
    json.dumps(value, ensure_ascii=False, default=str).encode()
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


@cache
def _validators(schema: str) -> tuple[jsonschema.protocols.Validator, jsonschema.protocols.Validator]:
    """For values with doubles, and for values with decimals."""
    return tuple(
        _VALIDATOR(json.loads(schema, parse_float=number), format_checker=_FORMAT_CHECKER)
        for number in (float, Decimal)
    )


def _pattern(validator: Any, pattern: str, value: Any, schema: Any) -> Any:
    if isinstance(value, str) and not all(reading.search(value) for reading in _readings(pattern)):
        yield jsonschema.ValidationError(f"{value!r} does not match {pattern!r}")


def _is_integer(checker: Any, value: Any) -> bool:
    if isinstance(value, Decimal):
        return value == value.to_integral_value()
    return isinstance(value, int | float) and not isinstance(value, bool) and value % 1 == 0


_VALIDATOR = validators.extend(
    jsonschema.Draft202012Validator,
    {"pattern": _pattern},
    type_checker=jsonschema.Draft202012Validator.TYPE_CHECKER.redefine("integer", _is_integer),
)


# Patterns


@cache
def _readings(pattern: str) -> tuple[re.Pattern[str], ...]:
    """JavaScript's, and where the pattern is Python's as well, Python's with classes of Unicode and of ASCII."""
    javascript = re.compile(_from_javascript(pattern), re.ASCII)
    try:
        return javascript, re.compile(pattern), re.compile(pattern, re.ASCII)
    except re.error:
        return (javascript,)


_SPACE = "\\t-\\r \\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000\\ufeff"
_NO_SPACE = (
    "\\0-\\x08\\x0e-\\x1f!-\\x9f\\xa1-\\u167f\\u1681-\\u1fff\\u200b-\\u2027\\u202a-\\u202e\\u2030-\\u205e\\u2060-\\u2fff"
    "\\u3001-\\ufefe\\uff00-\\U0010ffff"
)
_ITEM = re.compile(
    r"""\\u\{(?P<code>[0-9A-Fa-f]+)\} | \\u(?P<high>[dD][89abAB][0-9A-Fa-f]{2})\\u(?P<low>[dD][c-fC-F][0-9A-Fa-f]{2})
    | \\(?P<escaped>.) | (?P<group>\(\?<(?=[A-Za-z_])) | (?P<plain>.)""",
    re.VERBOSE | re.DOTALL,
)


def _from_javascript(pattern: str) -> str:
    """A JavaScript pattern in Python's syntax, for re.ASCII, under which \\d and \\w are what they should be."""
    result, in_class = [], False
    for item in _ITEM.finditer(pattern):
        plain = item["plain"]
        result.append(_python_item(item, in_class))
        in_class = (in_class or plain == "[") and plain != "]"
    return "".join(result)


def _python_item(item: re.Match[str], in_class: bool) -> str:
    if item["code"]:
        return re.escape(chr(int(item["code"], 16)))
    if item["high"]:
        units = int(item["high"], 16).to_bytes(2, "big") + int(item["low"], 16).to_bytes(2, "big")
        return units.decode("utf-16-be")
    if item["escaped"] in ("s", "S"):
        characters = _SPACE if item["escaped"] == "s" else _NO_SPACE
        return characters if in_class else f"[{characters}]"
    if item["group"]:
        return "(?P<"
    if not in_class and item["plain"] in (".", "$"):
        return "[^\\n\\r\\u2028\\u2029]" if item["plain"] == "." else "\\Z"
    return item[0]


# Formats

_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL = "[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?"


def _is_time(text: str) -> bool:
    return bool(re.match(r"\d\d:\d\d:\d\d", text)) and datetime.time.fromisoformat(text).tzinfo is not None


def _is_date_time(text: str) -> bool:
    return text[10] == "T" and datetime.datetime.fromisoformat(text).tzinfo is not None


def _is_email(text: str) -> bool:
    return bool(re.fullmatch(rf"{_ATOM}(\.{_ATOM})*@({_LABEL}\.)+{_LABEL}", text))


def _is_uri(text: str) -> bool:
    allowed = re.fullmatch(r"([!#$&-;=?-Z_a-z~\[\]]|%[0-9A-Fa-f]{2})*", text)
    return bool(allowed and urlsplit(text).scheme)


_READERS: dict[str, Callable[[str], object]] = {
    "date": datetime.date.fromisoformat,
    "date-time": _is_date_time,
    "time": _is_time,
    "email": _is_email,
    "uuid": lambda text: str(uuid.UUID(text)) == text.lower(),
    "ipv4": ipaddress.IPv4Address,
    "uri": _is_uri,
}


def has_format(name: str, text: str) -> bool:
    """Whether a text is of a format, one of ``FORMATS``, to Python's parsers and to the jsonschema package."""
    try:
        return bool(_READERS[name](text)) and _PACKAGE_FORMATS.conforms(text, name)
    except (ValueError, IndexError):
        return False


_PACKAGE_FORMATS = jsonschema.Draft202012Validator.FORMAT_CHECKER
_FORMAT_CHECKER = jsonschema.FormatChecker(formats=())
for _name in FORMATS:
    # What is not checked is not judged: each needs the package that jsonschema checks it with.
    assert _name in _PACKAGE_FORMATS.checkers, f"jsonschema does not check {_name!r}; install jsonschema[format-nongpl]"
    _FORMAT_CHECKER.checks(_name)(lambda value, name=_name: not isinstance(value, str) or has_format(name, value))


# llguidance


@cache
def _bytes_as_tokens() -> llguidance.LLTokenizer:
    return llguidance.LLTokenizer("byte")


@cache
def _json_grammar(schema: str) -> str:
    return llguidance.LLMatcher.grammar_from_json_schema(json.loads(schema))


@cache
def _matcher(grammar: str) -> llguidance.LLMatcher:
    return llguidance.LLMatcher(_bytes_as_tokens(), grammar, log_level=0)


def _walked(grammar: str, text: bytes) -> bool | None:
    matcher = _matcher(grammar).deep_copy()
    if matcher.is_error():
        return None
    tokens = list(text)
    if matcher.validate_tokens(tokens) < len(tokens):
        return False
    return matcher.consume_tokens(tokens) and matcher.is_accepting()
