"""A draft of what is extracted: a value, or its JSON, that a schema is to allow."""

import json
from collections.abc import Mapping
from typing import Any

from redraft.canvas.draft import Draft
from redraft.constrain.compiler import CompiledConstraint
from redraft.constrain.language.json.document import Document
from redraft.constrain.language.json.keywords import read
from redraft.constrain.language.json.merge import Places
from redraft.constrain.python_types import plain_of
from redraft.engine.runtime import Runtime
from redraft.errors import ConstraintError, RequestError
from redraft.tasks.infill import draft_of

_SHOWN = 40


def draft_value(draft: object, wanted: Any = None) -> Any:
    """Return the JSON value that a draft is: of a text the one that it says, of an instance of the type ``wanted`` what
    JSON has for it, of anything else itself. RequestError for what is no JSON."""
    if isinstance(draft, str):
        try:
            return json.loads(draft, parse_constant=_no_number)
        except (ValueError, RecursionError) as error:
            raise RequestError(f"draft is not JSON: {error}") from None
    try:
        return json.loads(json.dumps(draft, allow_nan=False))
    except TypeError as error:
        if wanted is None:
            raise RequestError(f"draft is not JSON: {error}") from None
    except (ValueError, RecursionError) as error:
        raise RequestError(f"draft is not JSON: {error}") from None
    try:
        return plain_of(wanted, draft)
    except ValueError as error:
        raise RequestError(f"draft is neither JSON nor of the type that is asked for: {error}") from None


def json_draft(runtime: Runtime, compiled: CompiledConstraint, schema: str, value: Any) -> Draft:
    """Return what canvases of JSON text start from; RequestError where the schema does not allow ``value``."""
    document = Document(read(schema))
    text = json.dumps(_ordered(document, document.root, value), ensure_ascii=False, separators=(",", ":"))
    tokens = runtime.tokenizer.encode_text(text, literal=True)
    automaton = compiled.automaton
    states, count = automaton.read(automaton.start, automaton.token_class[tokens].tolist())
    if not any(map(compiled.accepts, states)):
        before, rest = (runtime.tokenizer.decode_all(part) for part in (tokens[:count], tokens[count:]))
        shown = f"{rest[:_SHOWN]!r}" if rest else "nothing more"
        raise RequestError(f"draft: the schema does not allow {shown} after {before[-_SHOWN:]!r}")
    return draft_of(runtime, [(text, 1.0)])


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")


def _ordered(document: Document, places: Places, value: Any) -> Any:
    """Return a value with the members of its objects in the order in which the schema names them, which is the one in
    which they are written; those that it does not name, and what alternatives say, stay as they are."""
    if not isinstance(value, Mapping | list):
        return value
    try:
        merged = document.merge(places)
    except ConstraintError:
        # What nothing is allowed for is told by what reads the whole.
        return value
    if isinstance(value, Mapping):
        names = [name for name in dict.fromkeys([*merged.properties, *merged.required]) if name in value]
        names += [name for name in value if name not in names]
        return {name: _ordered(document, merged.member(name), value[name]) for name in names}
    return [_ordered(document, merged.item(index), own) for index, own in enumerate(value)]
