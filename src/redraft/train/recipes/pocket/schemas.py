"""JSON schemas that ask for what a snippet says, or does not, as people write them; and the values that answer them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from redraft.tasks.layout import CHARACTERS_A_TOKEN, LONG, LONGEST, WIDTH, laid_out, slots
from redraft.train.recipes.pocket.snippets import Field, Snippet
from redraft.train.recipes.pocket.values import Value
from redraft.train.recipes.pocket.wordings import phrasings, wording

CANVAS = 128
"""Positions of the longest canvas that is trained."""
_TOKENS = re.compile(r"[^\W\d_]+|\d|[^\w\s]|_|\s(?=\d)")
_LONG_WORD = re.compile(r"[a-z]{4,}")
_BORDER = re.compile(r"[_ ]")
# Kinds that a text says nowhere else: where it has none, a question for one has no answer.
FOREIGN = {
    "email": ("email", "contact_email", "mail address", "replyTo"),
    "phone": ("phone", "phone_number", "mobile", "telephone", "callback_number"),
    "iban": ("iban", "bank_account", "account"),
    "plate": ("licence_plate", "registration", "plate"),
    "url": ("website", "link", "url"),
    "flight": ("flight", "flight_number"),
    "version": ("version", "software_version"),
    "temperature": ("temperature", "temp"),
    "weight": ("weight", "total_weight"),
    "volume": ("volume", "litres"),
    "percent": ("percentage", "discount_percent"),
    "file": ("filename", "attached_file"),
    "ip": ("ip", "ip_address"),
    "medicine": ("medication", "drug"),
    "instrument": ("instrument",),
    "language": ("language",),
    "rating": ("rating", "stars"),
}
# Names that say what kind of value is asked for; of the kinds that stand together a text may have one alone.
PLAIN: dict[tuple[str, ...], dict[str, tuple[str, ...]]] = {
    ("person", "first_name", "surname"): {
        kind: ("name", "person", "who", "contact_name", "whose") for kind in ("person", "first_name", "surname")
    },
    ("money",): {"money": ("amount", "price", "sum", "cost", "total", "money")},
    ("date", "datetime"): {"date": ("date", "on_date", "calendar_date"), "datetime": ("date_and_time", "timestamp")},
    ("weekday",): {"weekday": ("weekday", "day_of_week")},
    ("month",): {"month": ("month",)},
    ("year",): {"year": ("year",)},
    ("time",): {"time": ("time", "clock_time", "time_of_day")},
    ("duration",): {"duration": ("duration", "how_long", "length_of_time")},
    ("city", "venue", "room", "country"): {
        "city": ("city", "town", "place"),
        "venue": ("venue", "place", "location"),
        "room": ("room", "place", "location"),
        "country": ("country",),
    },
    ("street", "address"): {
        "street": ("street", "street_name"),
        "address": ("address", "full_address", "postal_address"),
    },
    ("code",): {"code": ("code", "reference", "ref", "id", "reference_number")},
    ("company", "school", "team"): {
        "company": ("company", "business", "firm", "organisation"),
        "school": ("school", "institution"),
        "team": ("team", "side"),
    },
    ("product", "garment", "tool", "instrument"): {
        "product": ("product", "item", "article"),
        "garment": ("garment", "clothing", "item"),
        "tool": ("tool", "item"),
        "instrument": ("instrument",),
    },
    ("dish", "drink"): {"dish": ("dish", "food", "meal"), "drink": ("drink", "beverage")},
    ("email", "handle"): {"email": ("email", "mail_address"), "handle": ("username", "handle", "account_name")},
    ("url", "path", "file"): {"url": ("url", "link", "website"), "path": ("path",), "file": ("file", "filename")},
    **{
        (kind,): {kind: names}
        for kind, names in {
            "colour": ("colour", "color"),
            "percent": ("percent", "percentage"),
            "phone": ("phone", "phone_number", "telephone"),
            "length": ("length", "distance"),
            "job": ("job", "occupation", "profession"),
            "material": ("material",),
            "version": ("version",),
            "plant": ("plant",),
            "animal": ("animal",),
            "weight": ("weight",),
            "rating": ("rating", "stars"),
            "vehicle": ("vehicle", "car"),
            "temperature": ("temperature", "temp"),
            "medicine": ("medicine", "medication", "drug"),
            "volume": ("volume",),
            "ip": ("ip", "ip_address"),
            "subject": ("subject",),
            "title": ("title",),
            "sport": ("sport",),
            "language": ("language",),
            "iban": ("iban", "bank_account"),
            "plate": ("licence_plate", "registration", "plate"),
            "error": ("error", "error_code"),
            "size": ("size",),
            "flight": ("flight", "flight_number"),
            "score": ("score",),
        }.items()
    },
}
_PLAIN_SHARE = 2 / 3
"""Share of schemas that ask for values by their kind, each the only one of its kind in the text."""
_NUMBERS = frozenset({"decimal", "percent", "money", "weight", "length", "volume", "temperature", "rating", "duration"})
_OPAQUE = ("a", "b", "c", "x", "y", "field", "value", "answer", "item", "q1", "q2", "field_1", "field_2", "result")
_HOLDERS = ("details", "data", "info", "facts", "booking", "contact", "content", "extra")


@dataclass(frozen=True)
class Asked:
    """A property of a schema, and its value."""

    name: str
    schema: dict[str, Any]
    """Without null."""
    value: Any
    """None where the text does not say."""


def taken(text: str) -> int:
    """Tokens that a text takes at most, as far as a tokenizer of some ten thousand English pieces goes."""
    return sum(
        max(1, -(-len(part) // 3)) + 2 * sum(not c.isascii() for c in part) if part[0].isalpha() else len(part.encode())
        for part in _TOKENS.findall(text)
    )


def canvas_size(schema: dict[str, Any]) -> int:
    """Return how many positions the slots of a schema take at most, with their keys."""
    return sum(slot.width + taken(slot.key) + 1 for slot in slots(laid_out(schema)))


def schema_for(snippet: Snippet, random: Random, held: bool, most: int = 8) -> tuple[dict[str, Any], Any] | None:
    """A schema of one to ``most`` fields of a snippet, and its value; None where the snippet has none."""
    count = min(most, random.choice((1, 1, 2, 2, 3, 3, 4, 4, 5, 6, 7, 8)))
    plain = plain_names(snippet) if random.random() < _PLAIN_SHARE else {}
    if plain:
        count = min(count, len(plain) + len(snippet.classes))
    chosen = _chosen(_plainly_named(snippet, plain, random), _foreign(snippet, random), random, count)
    asked: list[Asked] = []
    for one in chosen:
        own = _asked(one, snippet, random, held) if isinstance(one, Field) else _class(*one, random, held)
        if own is not None and all(own.name != other.name for other in asked):
            asked.append(own)
    return _together(asked, random) if asked else None


def plain_names(snippet: Snippet) -> dict[str, tuple[str, ...]]:
    """The fields that are the only ones of their kind in a snippet, by key, and what that kind may be called; a list
    has its own name."""
    found: dict[str, tuple[str, ...]] = {}
    for kinds, names in PLAIN.items():
        own = [field for field in snippet.present if field.kind in kinds]
        if len(own) == 1:
            found[own[0].key] = (own[0].key,) if own[0].many else names[own[0].kind]
    return found


def _plainly_named(snippet: Snippet, names: Mapping[str, Sequence[str]], random: Random) -> Snippet:
    """The snippet with nothing but the fields that ``names`` has, called by one of those names; as it is without any.

    What it leaves out is neither asked for nor said to be absent.
    """
    if not names:
        return snippet
    own = (field for field in snippet.fields if field.key in names)
    return replace(snippet, fields=tuple(replace(one, key=random.choice(names[one.key]), questions=()) for one in own))


def _chosen(snippet: Snippet, foreign: Sequence[Field], random: Random, count: int) -> list[Field | tuple[str, str]]:
    """Fields, and classes with their values. About a fifth of them is absent."""
    present: list[Field | tuple[str, str]] = [own for own in snippet.present for _ in range(3 if own.questions else 1)]
    present += [one for one in snippet.classes.items() for _ in range(2)]
    absent: list[Field] = [*snippet.absent * 2, *foreign]
    random.shuffle(present)
    random.shuffle(absent)
    found: list[Field | tuple[str, str]] = []
    while len(found) < count and (present or absent):
        one = absent.pop() if absent and (not present or random.random() < 0.2) else present.pop() if present else None
        if one is not None and one not in found:
            found.append(one)
    if random.random() < 0.5:
        order = {own.key: number for number, own in enumerate(snippet.fields)}
        found.sort(key=lambda one: order.get(one.key, 99) if isinstance(one, Field) else 100)
    return found


def _foreign(snippet: Snippet, random: Random) -> list[Field]:
    """Fields of kinds that the snippet has nothing of."""
    if not snippet.fields:
        return []
    kinds = {own.kind for own in snippet.fields}
    kinds |= {"percent", "rating"} if kinds & {"percent", "rating", "score", "decimal"} else set()
    kinds |= {"url", "email"} if kinds & {"url", "email", "handle"} else set()
    kinds |= {"weight", "volume", "temperature"} if kinds & {"weight", "volume", "temperature", "length"} else set()
    said = f"{snippet.text} {snippet.topic}".lower()
    found: list[Field] = []
    for kind in random.sample(sorted(FOREIGN.keys() - kinds), 4):
        name = random.choice(FOREIGN[kind])
        if not any(word in said for word in _LONG_WORD.findall(name.lower())):
            found.append(Field(name, kind, ()))
    return found[:2]


def _asked(own: Field, snippet: Snippet, random: Random, held: bool) -> Asked | None:
    question = random.choice(own.questions) if own.questions else ""
    name, about = _named(own, question, random)
    if own.kind == "phrase":
        return _phrased(own, name, about, random)
    if own.many:
        items = [value.text for value in own.values]
        longest = max(map(taken, items), default=0)
        if longest >= LONG or len(items) > 5:
            return None
        length = {"maxLength": CHARACTERS_A_TOKEN * LONG} if longest >= WIDTH - 2 else {}
        most = random.randint(max(2, len(items)), 5)
        schema = {"type": "array", "items": {"type": "string", **length}, "maxItems": most}
        return Asked(name, _about(schema, about), items if items else None)
    value = own.value if own.values else None
    schema, answer, clause = _form(own.kind, value, random)
    if isinstance(answer, str):
        if taken(answer) > LONGEST - 3:
            return None
        if taken(answer) >= WIDTH - 2 and "format" not in schema:
            schema["maxLength"] = CHARACTERS_A_TOKEN * LONG if taken(answer) < LONG - 2 else 200
    if clause:
        about = f"{about}; {clause}" if about else clause
    return Asked(name, _about(schema, about), answer)


def _about(schema: dict[str, Any], about: str) -> dict[str, Any]:
    return {**schema, "description": about} if about else schema


def _named(own: Field, question: str, random: Random) -> tuple[str, str]:
    """A key, and a description that is empty where the key says it all."""
    chance = random.random()
    if question and chance < 0.08:
        return random.choice(_OPAQUE), question
    if question and chance < 0.16 and own.kind != "phrase":
        return own.kind, question
    about = question if question and random.random() < 0.5 else ""
    return _spelled(own.key, random), about


def _spelled(key: str, random: Random) -> str:
    """A key in one of the ways in which programs and people spell them."""
    words = _BORDER.split(key)
    chance = random.random()
    if chance < 0.5:
        return key
    if chance < 0.65:
        return words[0] + "".join(word.capitalize() for word in words[1:])
    if chance < 0.78:
        return " ".join(words)
    if chance < 0.9:
        return " ".join(words).capitalize()
    return "-".join(words) if chance < 0.95 else "".join(word.capitalize() for word in words)


def _phrased(own: Field, name: str, about: str, random: Random) -> Asked | None:
    """A value that the text shows by a phrase; few keys say what a yes to them means, so the question is told."""
    if own.questions and not about and random.random() < 0.7:
        about = random.choice(own.questions)
    value = own.value.text if own.values else None
    if not own.questions and set(own.options) <= {"true", "false", "yes", "no"}:
        return None
    for yes, no in (("true", "false"), ("yes", "no")):
        if set(own.options) <= {yes, no}:
            if random.random() < 0.75:
                return Asked(name, _about({"type": "boolean"}, about), None if value is None else value == yes)
            return Asked(name, _about({"enum": ["yes", "no"]}, about), value and ("yes" if value == yes else "no"))
    if len(own.options) < 2:
        return None
    return Asked(name, _about({"enum": random.sample(own.options, len(own.options))}, about), value)


def _class(name: str, value: str, random: Random, held: bool) -> Asked:
    about = wording(f"class / {name}", random, held) if random.random() < 0.6 else ""
    options = list(phrasings()[name])
    if options == ["yes", "no"]:
        key = {"urgency": "urgent"}.get(name, name)
        return Asked(_spelled(key, random), _about({"type": "boolean"}, about), value == "yes")
    return Asked(_spelled(name, random), _about({"enum": random.sample(options, len(options))}, about), value)


def _form(kind: str, value: Value | None, random: Random) -> tuple[dict[str, Any], Any, str]:
    """Draw how a kind is asked for: schema, the value's answer, and what the description has to say of it."""
    chance = random.random()
    meaning = None if value is None else value.meaning
    text = None if value is None else value.text
    if kind in ("integer", "year") and chance < 0.8 and (value is None or meaning is not None):
        return {"type": "integer", **_bounds(meaning, random)}, meaning, ""
    if kind in _NUMBERS and chance < (0.5 if kind != "duration" else 0.3) and value is not None and meaning is not None:
        return {"type": "number"}, meaning, _counted(kind, value.unit, random)
    if kind == "date" and chance < 0.4 and (value is None or meaning is not None):
        if chance < 0.25:
            return {"type": "string", "format": "date"}, meaning, ""
        return {"type": "string"}, meaning, random.choice(("as YYYY-MM-DD", "YYYY-MM-DD", "in the form YYYY-MM-DD"))
    if kind == "time" and chance < 0.3 and (value is None or meaning is not None):
        return {"type": "string"}, meaning, random.choice(("as HH:MM", "24-hour clock, HH:MM"))
    if kind == "email" and chance < 0.5:
        return {"type": "string", "format": "email"}, text, ""
    if kind == "url" and chance < 0.5 and (text or "https").startswith("https"):
        return {"type": "string", "format": "uri"}, text, ""
    if kind == "ip" and chance < 0.4:
        return {"type": "string", "format": "ipv4"}, text, ""
    return {"type": "string", **({"maxLength": 60} if chance > 0.93 else {})}, text, ""


def _bounds(number: Any, random: Random) -> dict[str, int]:
    if random.random() < 0.85 or not isinstance(number, int):
        return {}
    return {"minimum": random.choice((0, min(1, number))), "maximum": 10 ** len(str(number)) * random.choice((1, 10))}


def _counted(kind: str, unit: str, random: Random) -> str:
    if kind == "money":
        return random.choice(("the number alone", "amount without the currency", f"in {unit}", "as a number"))
    return (
        random.choice((f"in {unit}", f"number of {unit}"))
        if kind in ("weight", "length", "volume")
        else (f"in {unit}" if kind in ("duration", "temperature", "percent") else "as a number")
    )


def _together(asked: Sequence[Asked], random: Random) -> tuple[dict[str, Any], Any]:
    """One object of properties. Those that may be absent are null or left out, as the schema has it."""
    absent_is_null = random.random() < 0.6
    strict = random.random() < 0.3 and all(one.value is not None for one in asked)
    holder = random.choice(_HOLDERS) if len(asked) > 2 and random.random() < 0.1 else None
    inside = asked[-2:] if holder and all(one.name != holder for one in asked) else ()
    outside = asked[: len(asked) - len(inside)]
    schema, value = _object(outside, absent_is_null, strict)
    if inside and holder:
        schema["properties"][holder], own = _object(inside, absent_is_null, strict)
        if own:
            value[holder] = own
        if strict or absent_is_null:
            schema.setdefault("required", []).append(holder)
    if random.random() < 0.3:
        schema["additionalProperties"] = False
    return schema, value


def _object(asked: Sequence[Asked], absent_is_null: bool, strict: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    properties: dict[str, Any] = {}
    value: dict[str, Any] = {}
    for one in asked:
        if one.schema.get("type") == "array":
            properties[one.name], value[one.name] = one.schema, one.value or []
        elif strict or not absent_is_null:
            properties[one.name] = one.schema
            if one.value is not None:
                value[one.name] = one.value
        else:
            properties[one.name], value[one.name] = _or_null(one.schema), one.value
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    if strict or absent_is_null:
        schema["required"] = list(properties)
    return schema, value


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    if "enum" in schema:
        return {**schema, "enum": [*schema["enum"], None]}
    return {**schema, "type": [schema["type"], "null"]}
