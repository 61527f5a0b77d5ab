"""Which real JSON schemas compile, how long that takes, and whether what they then allow is what is valid.

    python -m bench.schemas FOLDER [FOLDER ...] --json out.json
    python -m bench.schemas FOLDER --every 10 --reasons     # every tenth file; the reasons of refusals, by number
    python -m bench.schemas FOLDER --compare --walks 0      # with compiled code and without, in alternation
    python -m bench.schemas FOLDER --tokens --walks 0       # also over the 262,144 tokens of Gemma's vocabulary

A file is a schema, or an object with "schema" and "tests": {"data", "valid"} each (MaskBench's form). Collections are
not part of this repository; docs/benchmarks.md names those that were measured. The judge of a text is the jsonschema
package with its formats, in the draft that the schema names. Of valid documents, members are put into the order in
which the schema declares them, of the options of an 'anyOf' or 'oneOf' only those that hold; what is refused for
members that are not declared, or for the type that keywords imply, is told apart.

Times are warm: the tokenizer has been read, and its tokens' tree made, which is measured apart.
"""

import argparse
import contextlib
import json
import random
import re
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonschema
from jsonschema.validators import validator_for
from tests.constrain.gemma_tokenizer import gemma_vocabulary
from tests.constrain.random_texts import RandomTexts

from redraft.constrain.automaton import bytes as byte_automaton
from redraft.constrain.automaton import fitting, monoid
from redraft.constrain.automaton import tokens as token_automaton
from redraft.constrain.automaton.bytes import ByteAutomaton
from redraft.constrain.automaton.vocabulary import Vocabulary
from redraft.constrain.constraint import JSONSchema
from redraft.errors import ConstraintError
from redraft.kernels import automata, library

_INSIDE = ("allOf", "anyOf", "oneOf", "if", "then", "else", "dependentSchemas", "dependencies", "$ref")
_IMPLYING = {
    "object": {"properties", "patternProperties", "additionalProperties", "required", "propertyNames"},
    "array": {"items", "prefixItems", "minItems", "maxItems", "contains"},
    "string": {"minLength", "maxLength", "pattern", "format"},
    "number": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"},
}
"""Keywords of one type."""
_NUMBERS = re.compile(r"[0-9]+")
_DEEPER = (8, 6)
_ANNOTATIONS = {"regex"}
"""Formats that jsonschema checks and constraints list as ignored."""
_ONLY_REFERENCES = (
    jsonschema.Draft3Validator,
    jsonschema.Draft4Validator,
    jsonschema.Draft6Validator,
    jsonschema.Draft7Validator,
)


@dataclass
class Figures:
    """What was found out about a folder's schemas."""

    schemas: int = 0
    remote: int = 0
    malformed: int = 0
    compiled: int = 0
    seconds: list[float] = field(default_factory=list)
    """Of the processor, for each schema that has no remote reference, compiled or refused."""
    without_code: list[float] = field(default_factory=list)
    """The same without compiled code, each right after the other."""
    with_tokens: list[float] = field(default_factory=list)
    """The same with the automaton of tokens, up to the refusal of either."""
    states: list[int] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    crashed: list[str] = field(default_factory=list)
    walks: int = 0
    invalid_walks: list[str] = field(default_factory=list)
    documents: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    """Documents that are valid and refused for no known reason, or invalid and accepted."""

    def told(self) -> dict[str, Any]:
        """The figures as JSON."""
        return {
            "schemas": self.schemas,
            "with remote references": self.remote,
            "malformed": self.malformed,
            "compiled": self.compiled,
            "share of those without remote references": round(self.compiled / max(1, self.schemas - self.remote), 3),
            "crashed": self.crashed,
            **_times("", self.seconds),
            **(_times(" without compiled code", self.without_code) if self.without_code else {}),
            **(_times(" with tokens", self.with_tokens) if self.with_tokens else {}),
            "median states": statistics.median(self.states) if self.states else None,
            "walks": self.walks,
            "invalid walks": self.invalid_walks,
            "documents": dict(self.documents.most_common()),
            "wrong": self.wrong,
            "refused": dict(self.refused.most_common()),
        }


def _times(name: str, seconds: list[float]) -> dict[str, float | None]:
    times = sorted(seconds)
    return {
        f"median seconds{name}": round(statistics.median(times), 4) if times else None,
        f"seconds of 99 %{name}": round(times[int(0.99 * (len(times) - 1))], 3) if times else None,
        f"seconds at most{name}": round(times[-1], 3) if times else None,
    }


class Judge:
    """The jsonschema package's opinion of values, in the schema's own draft, with formats."""

    def __init__(self, schema: Any) -> None:
        kind = validator_for(schema, default=jsonschema.Draft202012Validator)
        kind.check_schema(schema)
        self._validator = kind(schema, format_checker=kind.FORMAT_CHECKER)
        checked = set(kind.FORMAT_CHECKER.checkers) - _ANNOTATIONS
        self._without_annotations = kind(schema, format_checker=jsonschema.FormatChecker(formats=checked))
        self.only_references = kind in _ONLY_REFERENCES
        """True of the drafts in which nothing beside a ``$ref`` says anything."""
        self.has_if = kind not in (jsonschema.Draft3Validator, jsonschema.Draft4Validator, jsonschema.Draft6Validator)

    def allows(self, part: Any, value: Any) -> bool:
        """True if a part of the schema holds for a value, or if that cannot be told."""
        try:
            return bool(self._validator.evolve(schema=part).is_valid(value))
        except Exception:
            return True

    def accepts(self, value: Any, annotations: bool = True) -> bool | None:
        """None where it cannot tell: a pattern that is not Python's, a reference that it cannot follow.
        ``annotations``: by the formats too that constraints take as annotations."""
        try:
            return bool((self._validator if annotations else self._without_annotations).is_valid(value))
        except Exception:
            return None


def measure(
    path: Path,
    figures: Figures,
    walks: int,
    chance: random.Random,
    compare: bool = False,
    vocabulary: Vocabulary | None = None,
) -> None:
    """Compile the schema of a file, over a vocabulary too where there is one, and judge texts and documents."""
    content = json.loads(path.read_text())
    whole = isinstance(content, Mapping) and "schema" in content and "tests" in content
    schema, documents = (content["schema"], content["tests"]) if whole else (content, [])
    figures.schemas += 1
    try:
        judge = Judge(schema)
    except Exception:
        figures.malformed += 1
        judge = None
    automaton = _compiled(path, schema, figures, vocabulary)
    if compare:
        byte_automaton.use(byte_automaton.build_reference)
        monoid.use(monoid.walk_reference)
        alone = Figures()
        _compiled(path, schema, alone, vocabulary)
        figures.without_code += alone.with_tokens or alone.seconds
        automata.use()
    if automaton is None or judge is None:
        return
    texts = RandomTexts(automaton)
    for _ in range(walks):
        text = texts.draw(chance)
        figures.walks += 1
        if _read(text) is None or judge.accepts(json.loads(text)) is False:
            figures.invalid_walks.append(f"{path.name}: {text.decode(errors='replace')[:300]}")
    for document in documents:
        outcome = _document(schema, automaton, document["data"], document["valid"], judge)
        figures.documents[outcome] += 1
        if outcome.startswith("wrong"):
            figures.wrong.append(f"{path.name}: {outcome}: {json.dumps(document['data'])[:300]}")


def _compiled(path: Path, schema: Any, figures: Figures, vocabulary: Vocabulary | None) -> ByteAutomaton | None:
    began = time.process_time()
    reason: str | None = None
    automaton = None
    try:
        automaton = fitting.build(JSONSchema(schema).expression).automaton
    except ConstraintError as error:
        reason = str(error)
    except Exception as error:
        figures.crashed.append(f"{path.name}: {type(error).__name__}: {error}"[:300])
        return None
    seconds = time.process_time() - began
    if reason is not None and "another document" in reason:
        figures.remote += 1
        return None
    figures.seconds.append(seconds)
    if vocabulary is not None:
        figures.with_tokens.append(seconds + (0 if automaton is None else _over_tokens(automaton, vocabulary)))
    if seconds > 3:
        print(f"  {path.name} took {seconds:.1f} s: {reason or 'compiled'}", flush=True)
    if reason is not None:
        figures.refused[_kind(reason)] += 1
        return None
    assert automaton is not None
    figures.compiled += 1
    figures.states.append(automaton.states)
    return automaton


def _over_tokens(automaton: ByteAutomaton, vocabulary: Vocabulary) -> float:
    """Seconds of the processor for the automaton of tokens, or for its refusal."""
    began = time.process_time()
    with contextlib.suppress(ConstraintError):
        token_automaton.build(automaton, vocabulary, [1])
    return time.process_time() - began


def _kind(reason: str) -> str:
    """A refusal without its place and numbers."""
    said = re.sub(r"^schema( at \S+)?: ", "", reason)
    return _NUMBERS.sub("N", said)[:110]


def _read(text: bytes) -> tuple[Any] | None:
    try:
        return (json.loads(text),)
    except ValueError:
        return None


def _document(schema: Any, automaton: ByteAutomaton, value: Any, valid: bool, judge: Judge) -> str:
    """What became of a document."""
    known = judge.accepts(value)
    if known is None or known is not valid:
        return "not judged: jsonschema says otherwise than the collection"
    order = _Order(schema, judge)
    ordered, undeclared = order.ordered(value, [schema])
    accepted = automaton.matches(_text(ordered)) or automaton.matches(_text(value))
    if not valid:
        if accepted and judge.accepts(value, annotations=False):
            return "invalid, accepted: by a format that is an annotation"
        return "wrong: invalid and accepted" if accepted else "invalid, refused"
    if accepted:
        return "valid, accepted"
    if undeclared:
        return "valid, refused: undeclared members"
    for depth in _DEEPER:
        with contextlib.suppress(ConstraintError):
            if fitting.build(JSONSchema(schema, depth=depth).expression).automaton.matches(_text(ordered)):
                return "valid, refused: deeper than the depth"
    if Judge(_with_types(schema)).accepts(value) is False:
        return "valid, refused: not of the type that keywords imply"
    return "wrong: valid and refused"


def _with_types(part: Any) -> Any:
    """A schema that says what keywords of one type imply, as constraints read it."""
    if isinstance(part, list):
        return [_with_types(one) for one in part]
    if not isinstance(part, Mapping):
        return part
    named = {keyword: _within(keyword, value) for keyword, value in part.items()}
    types = {name for name, keywords in _IMPLYING.items() if keywords & set(part)}
    if not types or {"type", "enum", "const"} & set(part):
        return named
    if "$ref" in named:
        # Up to draft 7 nothing beside it says anything.
        return {"allOf": [named, {"type": sorted(types)}]}
    return {**named, "type": sorted(types)}


def _within(keyword: str, value: Any) -> Any:
    if keyword in ("enum", "const", "default", "examples"):
        return value
    if keyword in ("properties", "patternProperties", "$defs", "definitions") and isinstance(value, Mapping):
        return {name: _with_types(part) for name, part in value.items()}
    return _with_types(value)


def _text(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(errors="surrogatepass")


class _Order:
    """Puts members into the order in which a schema declares them, by what stands in the schema alone."""

    def __init__(self, document: Any, judge: Judge) -> None:
        self._document, self._judge = document, judge

    def ordered(self, value: Any, schemas: list[Any]) -> tuple[Any, bool]:
        """The value in declared order, and whether it has members that are not declared."""
        schemas = list(self._all(schemas, value))
        if isinstance(value, Mapping):
            return self._members(value, schemas)
        if isinstance(value, list):
            items = [self.ordered(item, self._of_item(schemas, n)) for n, item in enumerate(value)]
            return [item for item, _ in items], any(undeclared for _, undeclared in items)
        if isinstance(value, float) and value == int(value) and abs(value) < 1e15:
            return int(value), False
        return value, False

    def _members(self, value: Mapping[str, Any], schemas: list[Any]) -> tuple[Any, bool]:
        names = list(dict.fromkeys(name for one in schemas for name in one.get("properties", {})))
        names += [name for one in schemas for name in _listed(one.get("required")) if name not in names]
        place = {name: n for n, name in enumerate(names)}
        found, undeclared = {}, False
        for name in sorted(value, key=lambda name: place.get(name, len(place))):
            own = [one["properties"][name] for one in schemas if name in one.get("properties", {})]
            own += [p for one in schemas for k, p in one.get("patternProperties", {}).items() if _found(k, name)]
            if not own:
                own = [one["additionalProperties"] for one in schemas if "additionalProperties" in one]
                closed = any("properties" in one or "patternProperties" in one for one in schemas)
                undeclared |= closed and not any(isinstance(one, Mapping) or one is True for one in own)
            found[name], inner = self.ordered(value[name], own)
            undeclared |= inner
        return found, undeclared

    def _of_item(self, schemas: list[Any], index: int) -> list[Any]:
        found = []
        for one in schemas:
            listed = one.get("prefixItems", one["items"] if isinstance(one.get("items"), list) else [])
            after = one.get("items") if not isinstance(one.get("items"), list) else one.get("additionalItems")
            found.append(listed[index] if index < len(listed) else after)
        return found

    def _all(self, schemas: list[Any], value: Any) -> Iterator[Mapping[str, Any]]:
        """The schemas, and all inside them that speak of the same value; of options those that hold for it."""
        seen: set[int] = set()
        waiting = list(reversed(schemas))
        while waiting:
            one = waiting.pop()
            if not isinstance(one, Mapping) or id(one) in seen:
                continue
            seen.add(id(one))
            if self._judge.only_references and isinstance(one.get("$ref"), str):
                one = {"$ref": one["$ref"]}
            yield one
            for keyword in reversed(_INSIDE):
                part = one.get(keyword) if self._judge.has_if or keyword not in ("if", "then", "else") else None
                if keyword == "$ref" and isinstance(part, str):
                    waiting.append(self._at(part))
                elif keyword in ("anyOf", "oneOf") and isinstance(part, list):
                    holding = [option for option in part if self._judge.allows(option, value)]
                    waiting += reversed(holding or part)
                elif isinstance(part, list):
                    waiting += reversed(part)
                elif keyword.startswith("depend") and isinstance(part, Mapping):
                    waiting += reversed(list(part.values()))
                else:
                    waiting.append(part)

    def _at(self, reference: str) -> Any:
        part = self._document
        for name in reference.partition("#")[2].split("/")[1:]:
            name = name.replace("~1", "/").replace("~0", "~")
            try:
                part = part[int(name)] if isinstance(part, list) else part[name]
            except (LookupError, ValueError):
                return None
        return part


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _found(pattern: str, text: str) -> bool:
    try:
        return re.search(pattern, text) is not None
    except re.error:
        return False


def _vocabulary() -> Vocabulary:
    """Gemma's vocabulary; print what reading it once takes."""
    began = time.process_time()
    vocabulary = gemma_vocabulary()
    print(f"the vocabulary: {time.process_time() - began:.2f} s of the processor, its file read")
    return vocabulary


def main() -> None:
    """Measure the folders that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--walks", type=int, default=10, help="random texts a schema (10)")
    parser.add_argument("--every", type=int, default=1, help="one file of so many (all)")
    parser.add_argument("--reasons", action="store_true", help="print why schemas are refused")
    parser.add_argument("--json", type=Path, help="write all figures there")
    parser.add_argument("--compare", action="store_true", help="compile each schema without compiled code as well")
    parser.add_argument("--tokens", action="store_true", help="build the automata of Gemma's tokens as well")
    chosen = parser.parse_args()
    automata.use()
    print(f"kernels: {library.status().tier}")
    vocabulary = _vocabulary() if chosen.tokens else None
    results = {}
    for folder in chosen.folders:
        figures = Figures()
        for path in sorted(folder.rglob("*.json"))[:: chosen.every]:
            measure(path, figures, chosen.walks, random.Random(path.name), chosen.compare, vocabulary)
        results[folder.name] = told = figures.told()
        reasons = told.pop("refused")
        print(f"{folder.name}: {json.dumps(told, indent=1, ensure_ascii=False)}")
        if chosen.reasons:
            print("\n".join(f"  {count:4} {reason}" for reason, count in reasons.items()))
        told["refused"] = reasons
        if chosen.json is not None:
            chosen.json.write_text(json.dumps(results, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
