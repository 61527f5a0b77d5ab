"""JSON schemas compared with the jsonschema package, Python's own parsers and brute force."""

import contextlib
import datetime
import itertools
import json
import random
import re
from decimal import Decimal
from functools import cache
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redraft.constrain.automaton.bytes import ByteAutomaton, build
from redraft.constrain.language.json import document
from redraft.constrain.language.json.keywords import SUPPORTED
from redraft.constrain.language.json.schema import expression
from redraft.errors import ConstraintError
from tests.constrain.judges import FORMATS, guidance_accepts, has_format, valid_json
from tests.constrain.random_schemas import RandomSchemas
from tests.constrain.random_texts import RandomTexts

CONTRADICTIONS = ["false allows nothing", "no value of", "exclude each other", "not possible", "no string", "above"]
CONTRADICTIONS += ["rule out", "no number", "is circular", "has no instance", "may both hold"]
CONTRADICTIONS += ["the contrary of an array that is given whole"]


def compiled(schema, **options) -> ByteAutomaton:
    return build(expression(schema, **options))


def compact(value) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def in_schema_order(schema: Any, value: Any) -> Any:
    """Members of a value ordered as the automaton wants them where a plain object schema describes it."""
    if isinstance(value, dict) and isinstance(schema, dict):
        declared = schema.get("properties", {})
        names = [*(name for name in declared if name in value), *(name for name in value if name not in declared)]
        return {name: in_schema_order(declared.get(name), value[name]) for name in names}
    return value


SCHEMAS, LOOSE = 90, 120


@cache
def schemas(count: int, *, loose: bool = False) -> list[tuple[RandomSchemas, Any, ByteAutomaton, RandomTexts]]:
    """Random schemas that are not refused because they contradict themselves, with their automata and walks through
    them; compiled once."""
    found = []
    for seed in range(count):
        drawn = RandomSchemas(seed, loose=loose)
        schema = drawn.draw()
        try:
            automaton = compiled(schema, depth=2)
        except ConstraintError as error:
            if not any(reason in str(error) for reason in CONTRADICTIONS):
                raise
            continue
        found.append((drawn, schema, automaton, RandomTexts(automaton)))
    return found


@pytest.mark.parametrize("loose", [False, True])
def test_whatever_the_automaton_writes_is_valid(loose: bool):
    """Random walks through the automata of random schemas: each text is JSON, and valid to the jsonschema package.

    To the llguidance package as well, but that it takes no delete character and no escapes that JSON does not require,
    and of numbers within bounds not all: -6.2 is none to it where the lower bound is -6.218.
    """
    chance, tried = random.Random(0), 0
    for _, schema, _, texts in schemas(LOOSE if loose else SCHEMAS, loose=loose):
        for _ in range(4):
            text = texts.draw(chance)
            assert valid_json(schema, text), (schema, text)
            if not re.search(rb"\\[u/]|[0-9][.]|\x7f", text):
                assert guidance_accepts(schema, text) is not False, (schema, text)
        tried += 1
    assert tried > 80


def keywords_of(schema) -> set[str]:
    """Of a schema and all inside it; names of properties are none."""
    if not isinstance(schema, dict):
        return set()
    inner = [part for key in ("properties", "$defs", "definitions") for part in schema.get(key, {}).values()]
    inner += [part for key in ("prefixItems", "anyOf", "oneOf", "allOf") for part in schema.get(key, ())]
    inner += [schema.get("items"), schema.get("additionalProperties")]
    return set(schema).union(*map(keywords_of, inner))


def test_random_schemas_have_most_keywords_and_formats():
    """The others have cases of their own, in ``test_keywords``."""
    drawn = [found[1] for found in [*schemas(SCHEMAS), *schemas(LOOSE, loose=True)]]
    assert len(SUPPORTED & set().union(*map(keywords_of, drawn))) >= 22
    assert all(f'"format": "{name}"' in json.dumps(drawn) for name in FORMATS)


def test_values_are_accepted_exactly_if_they_are_valid():
    """Values near valid ones, laid out as the automaton wants them: accepted if and only if jsonschema accepts them."""
    chance = random.Random(1)
    outcomes = {True: 0, False: 0}
    for drawn, schema, automaton, texts in schemas(SCHEMAS):
        # Where options are merged, the order of members is no longer that of one list of properties.
        plain = not re.search('Of"|\\$ref|date|time', json.dumps(schema))
        for _ in range(8):
            value = in_schema_order(schema, drawn.near(json.loads(texts.draw(chance))))
            text = compact(value)
            # Spellings of numbers that only unbounded ones have, or integers do not.
            if re.search(rb"\d[eE]|[.]0\b|[.]\d{9}", text):
                continue
            valid = valid_json(schema, text)
            accepted = automaton.matches(text)
            assert accepted == valid if plain else accepted <= valid, (schema, text)
            outcomes[valid] += 1
    assert min(outcomes.values()) > 60, outcomes


# What schemas may not say


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (
            {"properties": {"age": {"multipleOf": 0.5}}},
            "schema at /properties/age: 'multipleOf' is supported only for integers",
        ),
        (
            {"type": "array", "uniqueItems": True},
            "schema: 'uniqueItems' is supported for items of a few values, such as an 'enum'",
        ),
        ({"anyOf": [{}, {"unevaluatedItems": {}}]}, "schema at /anyOf/1: 'unevaluatedItems' is not supported"),
        (
            {"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"unevaluatedItems": False}}},
            "schema at /$defs/a~1b: 'unevaluatedItems'",
        ),
        ({"type": "text"}, "'type' must be one or several of array, boolean"),
        ({"type": []}, "'type' must be"),
        ({"minLength": -1}, "'minLength' must be an integer from 0"),
        ({"maxItems": True}, "'maxItems' must be an integer"),
        ({"maxLength": 2.5}, "'maxLength' must be an integer from 0 to 9007199254740992, not 2.5"),
        ({"minItems": float("inf")}, "'minItems' must be an integer"),
        ({"items": {"uniqueItems": 0}}, "schema at /items: 'uniqueItems' must be true or false, not 0"),
        ({"minimum": "1"}, "'minimum' must be a number"),
        ({"exclusiveMinimum": True}, "'exclusiveMinimum' must be a number"),
        ({"maximum": float("nan")}, "'maximum' must be a number"),
        ({"maximum": 1e308}, "'maximum' must have at most 60 digits"),
        ({"pattern": 3}, "'pattern' must be a string"),
        ({"items": {"pattern": "(a(?=b))b"}}, "schema at /items: 'pattern': regular expression, position 2"),
        ({"format": 3}, "'format' must be a string, not 3"),
        ({"items": [{}]}, "'items' must be a schema; for a schema of each item write 'prefixItems'"),
        ({"properties": {"a": 3}}, "schema at /properties/a: a schema must be an object"),
        ({"properties": {3: {}}}, "'properties' must be an object whose keys are strings"),
        ({"anyOf": []}, "'anyOf' must be an array of schemas, at least one"),
        ({"required": "a"}, "'required' must be an array of strings"),
        ({"enum": []}, "'enum' must be an array with at least one value"),
        ({"const": {1, 2}}, "'const' must be made of JSON values"),
        ({"const": "\ud800"}, "'const' must be made of JSON values"),
        ({"$ref": "other.json"}, "'$ref' 'other.json' leads to another document, other.json; give it in a registry"),
        (
            {"properties": {"a": {"$ref": "#/$defs/a"}}},
            "schema at /properties/a: '$ref' '#/$defs/a' leads to no schema",
        ),
        ([1], "a schema must be an object"),
        ('{"type": "null"', "schema: not JSON at line 1, column 16"),
        ('{"type": "null", "type": "null"}', "has the key 'type' twice"),
        ('{"items":' * 10_000, "nested too deeply"),
    ],
)
def test_what_is_not_supported_or_malformed_is_refused_by_name_and_place(schema, message):
    with pytest.raises(ConstraintError) as error:
        expression(schema)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"minLength": 3, "maxLength": 2}, "schema: 'minLength' 3 is above 'maxLength' 2"),
        ({"anyOf": [{"minItems": 3, "maxItems": 2}, {}]}, "schema at /anyOf/0: 'minItems' 3 is above"),
        ({"minimum": 3, "maximum": 2}, "'minimum' 3 leaves nothing below 'maximum' 2"),
        ({"minimum": 2, "exclusiveMaximum": 2}, "'minimum' 2 leaves nothing below 'exclusiveMaximum' 2"),
        ({"type": "integer", "minimum": 0.2, "maximum": 0.8}, "no number lies within"),
        ({"allOf": [{"minLength": 3}, {"maxLength": 2}]}, "'minLength' 3 is above 'maxLength' 2"),
        ({"allOf": [{"type": "string"}, {"type": "integer"}]}, "types that must hold together exclude each other"),
        ({"properties": {"a": False}, "required": ["a"]}, "'required' names 'a', which"),
        (
            {"allOf": [{"additionalProperties": False}, {"required": ["a"]}]},
            "the required property 'a' is not possible",
        ),
        ({"type": "array", "items": False, "minItems": 1}, "item 0 is not possible, 'minItems' is 1"),
        ({"type": "string", "enum": [1]}, "no value of 'enum' or 'const'"),
        ({"type": "string", "maxLength": 3, "pattern": "^abcd"}, "no string satisfies 'pattern'"),
        (False, "schema: false allows nothing"),
        ({"properties": {"a": {"allOf": [{"const": 1}, {"const": 2}]}}}, "schema at /properties/a: no value of"),
    ],
)
def test_contradictions_are_refused_with_their_place(schema, message):
    with pytest.raises(ConstraintError) as error:
        expression(schema)
    assert message in str(error.value)


def test_a_schema_that_takes_too_many_steps_is_refused_on_every_machine(monkeypatch: pytest.MonkeyPatch):
    """Each pattern is cheap; together they pass a limit that counts work."""
    schema = {"properties": {f"p{n}": {"type": "string", "pattern": f"^a{{{n}}}$"} for n in range(20)}}
    expression(schema)
    monkeypatch.setattr(document, "_MAX_STEPS", 20_000)
    with pytest.raises(ConstraintError, match="takes more than 20000 steps to write out; write simpler patterns"):
        expression(schema)


@pytest.mark.parametrize("depth", [0, 17, True, 2.0])
def test_a_depth_out_of_range_is_refused(depth):
    with pytest.raises(ConstraintError, match="depth"):
        expression(True, depth=depth)


def test_an_unknown_whitespace_is_refused():
    wide: Any = "wide"
    with pytest.raises(ConstraintError, match="'wide' is unknown; use 'compact'"):
        expression(True, whitespace=wide)


# Layout

DOCUMENT = {"a": [1, {"b": "x, y: z"}, []], "c": {}, "d": [[2]]}
DOCUMENT_SCHEMA = {
    "properties": {
        "a": {"type": "array", "items": {"anyOf": [{"type": "integer"}, {"type": "object"}, {"type": "array"}]}},
        "c": {"properties": {}},
        "d": {"const": [[2]]},
    },
}


def test_each_whitespace_is_that_of_its_json_writer():
    """compact and one-space are what json.dumps writes and nothing else; free takes any white space between tokens."""
    written = {
        "compact": json.dumps(DOCUMENT, separators=(",", ":")),
        "one-space": json.dumps(DOCUMENT),
        "free": json.dumps(DOCUMENT, indent="\t"),
    }
    automata = {whitespace: compiled(DOCUMENT_SCHEMA, whitespace=whitespace) for whitespace in written}
    for whitespace, automaton in automata.items():
        for other, text in written.items():
            assert automaton.matches(text.encode()) == (whitespace in (other, "free"))
    chance = random.Random(0)
    tokens = re.findall(r'"[^"]*"|\d|[^"\d]', written["compact"])
    for _ in range(50):
        text = tokens[0] + "".join(chance.choice(["", " ", "\n", "\r\t "]) + token for token in tokens[1:])
        assert automata["free"].matches(text.encode())


# Objects


@pytest.mark.parametrize("further", [False, True])
@pytest.mark.parametrize("required", [set(), {"a"}, {"c"}, {"d"}, {"b", "c"}, {"a", "b", "c", "d"}])
def test_members_stand_in_order_and_commas_between_them(required: set[str], further: bool):
    """Of all orders of all subsets, those in declared order with all that is required, further members last."""
    declared = "abcd"
    automaton = compiled(
        {
            "properties": {name: {"type": "null"} for name in declared},
            "required": sorted(required),
            "additionalProperties": {"type": "null"} if further else False,
        }
    )
    for count in range(6):
        for names in itertools.permutations("abcdx", count):
            known = [name for name in names if name != "x"]
            in_order = known == sorted(known) and ("x" not in names or (further and names[-1] == "x"))
            expected = in_order and required <= set(names)
            assert automaton.matches(compact(dict.fromkeys(names))) == expected, names
    assert not automaton.matches(b'{,"a":null}')
    assert not automaton.matches(b'{"a":null,}')


def test_many_optional_members_need_states_in_proportion():
    sizes = [compiled({"properties": {f"p{i:02}": {"type": "integer"} for i in range(n)}}).states for n in (10, 20, 40)]
    assert sizes[2] - sizes[1] == pytest.approx(2 * (sizes[1] - sizes[0]), rel=0.2)


def test_a_further_key_is_never_a_declared_one_in_any_spelling():
    declared = ["a", "ab", 'q"', "é", "\n", "long" * 20]
    schema = {"properties": {key: {"type": "null"} for key in declared}, "additionalProperties": {"type": "integer"}}
    automaton = compiled(schema)
    for name in declared:
        spelled = "".join(f"\\u{ord(character):04x}" for character in name)
        for key in (json.dumps(name, ensure_ascii=False), json.dumps(name), f'"{spelled}"'):
            assert not automaton.matches(f"{{{key}:1}}".encode())
        assert automaton.matches(compact({name: None}))
    for name in ["", "b", "aa", "abc", "A", "q", 'q"x', "e\u0301", "lon", "longe", "\r", "\u2028"]:
        assert automaton.matches(compact({name: 1})), name


# Strings


def test_any_string_is_any_json_string():
    """All short texts of the characters that matter: accepted exactly if Python reads them, lone surrogates aside."""
    automaton = compiled({"type": "string"})
    units = [
        '"',
        "\\",
        "u",
        "n",
        "0",
        "d",
        "8",
        "c",
        "é",
        "\x7f",
        "\n",
        "\x1f",
        "\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16"),
    ]
    chance = random.Random(3)
    texts = ["".join(parts) for n in range(4) for parts in itertools.product(units, repeat=n)]
    hexes = ["0041", "d7ff", "D800", "dbFF", "dc00", "dFff", "e000", "FFff", "d83d", "de00"]
    escapes = ["\\u" + code for code in hexes] + ["a", "\\n", "\\", "\\u12", '"', "\\x41"]
    texts += ["".join(chance.choices(escapes, k=chance.randrange(5))) for _ in range(2000)]
    for text in texts:
        quoted = f'"{text}"'
        try:
            value = json.loads(quoted)
            value.encode()
        except (json.JSONDecodeError, UnicodeEncodeError):
            value = None
        # Two escapes that happen to make a pair are one; a raw half cannot occur.
        assert automaton.matches(quoted.encode()) == isinstance(value, str), quoted


@given(
    st.text(st.sampled_from('aé😀\n"\\\x01/') | st.characters(exclude_categories=["Cs"]), max_size=9), st.integers(0, 4)
)
@settings(deadline=None)
def test_lengths_count_characters_of_the_value(text: str, least: int):
    automaton = compiled({"type": "string", "minLength": least, "maxLength": least + 2})
    assert automaton.matches(compact(text)) == (least <= len(text) <= least + 2)


PATTERNS = [
    "a",
    "^a",
    "a$",
    "^a$",
    "^a|b$",
    "a|^b$|c",
    "^(a|b)+$",
    "[|$]a",
    "\\|a|\\$",
    "a\\\\$",
    "^",
    "$",
    "",
    '"|\\n',
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_is_searched_in_the_value(pattern: str):
    """All short values over the characters of the patterns, and Python's re.search."""
    automaton = compiled({"type": "string", "pattern": pattern})
    searched = re.compile(re.sub(r"(?<!\\)((?:\\\\)*)\$(?!\])", r"\1\\Z", pattern))
    for count in range(5):
        for parts in itertools.product('abc|$\\\n"'[: 8 if count < 4 else 4], repeat=count):
            value = "".join(parts)
            assert automaton.matches(compact(value)) == bool(searched.search(value)), value


def test_a_date_is_one_of_the_calendar():
    automaton = compiled({"format": "date"})
    for year, month, day in itertools.product([1, 4, 100, 400, 1900, 2000, 2023, 2024, 9999], range(14), range(33)):
        text = f"{year:04}-{month:02}-{day:02}"
        try:
            expected = datetime.date.fromisoformat(text) is not None
        except ValueError:
            expected = False
        assert automaton.matches(compact(text)) == expected, text


@pytest.mark.parametrize("name", FORMATS)
def test_texts_of_a_format_satisfy_an_independent_reader(name: str):
    texts, chance = RandomTexts(compiled({"type": "string", "format": name})), random.Random(4)
    for _ in range(300):
        value = json.loads(texts.draw(chance, 40))
        assert has_format(name, value), value


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("time", "23:59:59.25+14:00 00:00:00Z", "24:00:00Z 12:00Z 12:00:00 12:00:60Z"),
        ("date-time", "2024-02-29T12:00:00Z", "2023-02-29T12:00:00Z 2024-02-29 2024-02-29T12:00:00"),
        ("email", "a.b+c@ex-ample.org", "a@b @b.c a..b@c.d a@-b.c a@b.c-"),
        ("uuid", "123e4567-e89b-12d3-A456-426614174000", "123e4567e89b12d3a456426614174000"),
        ("ipv4", "0.0.0.0 255.249.199.9", "256.0.0.1 1.2.3 01.2.3.4"),
        (
            "uri",
            "https://u@ex.org:80/a/b?q=1#f mailto:a@b.c urn:x:y file:///a a:",
            "//x.y /a a%b:c https://a%zz http://a[b",
        ),
    ],
)
def test_formats_tell_good_from_bad(name: str, good: str, bad: str):
    automaton = compiled({"type": "string", "format": name})
    assert all(automaton.matches(compact(text)) for text in good.split())
    assert not any(automaton.matches(compact(text)) for text in bad.split())


# Numbers


def test_integer_bounds_hold_for_every_integer_around_them():
    chance = random.Random(5)
    for _ in range(60):
        low, high = sorted(chance.randrange(-1200, 1200) / chance.choice([1, 1, 7]) for _ in range(2))
        schema = {"type": "integer", chance.choice(["minimum", "exclusiveMinimum"]): low}
        if chance.random() < 0.7 and high - low > 2:
            schema[chance.choice(["maximum", "exclusiveMaximum"])] = high
        automaton, check = compiled(schema), jsonschema.Draft202012Validator(schema)
        for number in {*range(-130, 130), *range(int(low) - 15, int(low) + 15), *range(int(high) - 15, int(high) + 15)}:
            assert automaton.matches(compact(number)) == check.is_valid(number), (schema, number)
        for text in (b"-0", b"00", b"01", b"+1", b"1.0", b"1e2", b"", b"-"):
            assert not automaton.matches(text)


@given(st.data())
@settings(deadline=None, max_examples=40)
def test_number_bounds_hold_exactly_for_decimals_around_them(data):
    """Decimals with up to four places that differ from the bounds in their last ones."""
    numbers = st.decimals(-150, 150, places=2, allow_nan=False)
    low, high = sorted(data.draw(st.tuples(numbers, numbers)))
    keywords = data.draw(st.sampled_from([("minimum", "maximum"), ("exclusiveMinimum", "exclusiveMaximum")]))
    schema = dict(zip(keywords, (float(low), float(high)), strict=True))
    if low == high:
        del schema[keywords[1]]
    automaton = compiled({"type": "number", **schema})
    for bound, step in itertools.product((low, high, Decimal(0)), (0, 1, -1, 10, -10, 100, -100, 9999)):
        number = bound + Decimal(step) / 10_000
        above = number > low or (number == low and keywords[0] == "minimum")
        below = number < high or (number == high and keywords[1] == "maximum") or low == high
        for text in {str(number), f"{number:.4f}", f"{number.normalize():f}"} - {"-0", "-0.0000", "-0.00"}:
            assert automaton.matches(text.encode()) == (above and below), (schema, text)


def test_unbounded_numbers_are_those_of_json():
    automaton = compiled({"type": "number"})
    for text in ["0", "-0", "0.5", "-1.25e3", "1E+2", "10", "1e-07"]:
        assert automaton.matches(text.encode())
    for text in ["01", ".5", "1.", "+1", "1e", "0x1", "NaN", "Infinity", "-"]:
        assert not automaton.matches(text.encode())


# Choices and references


def test_of_options_that_overlap_what_both_allow_is_left_out():
    """Of 'oneOf': what is written is valid, and both options have values of their own."""
    overlapping = [
        [{"type": "integer"}, {"type": "number", "minimum": 0}],
        [{"properties": {"a": {"type": "integer"}}, "required": ["a"]}, {"properties": {"b": {"type": "integer"}}}],
        [{"pattern": "^a"}, {"pattern": "b$"}],
        [{"minimum": 3, "type": ["number", "string"]}, {"maximum": 2, "type": ["number", "string"]}],
        [{"const": 1}, {"enum": [2, 1.0]}],
        [{"enum": [1, 2]}, {"type": "integer", "minimum": 2}],
        [
            {"type": "array", "items": {"type": "string"}, "maxItems": 3},
            {"type": "array", "items": {"type": "integer"}},
        ],
    ]
    disjoint = [
        [{"type": "integer"}, {"type": "string"}],
        [{"type": "number", "exclusiveMaximum": 0}, {"type": "number", "minimum": 0}],
        [
            {"properties": {"k": {"const": "a"}}, "required": ["k"]},
            {"properties": {"k": {"enum": ["b", 1]}}, "required": ["k"]},
        ],
        [{"type": "string", "pattern": "^a"}, {"type": "string", "pattern": "^b"}],
        [{"type": "string", "maxLength": 2}, {"type": "string", "minLength": 3}],
        [
            {"type": "array", "items": {"type": "string"}, "minItems": 1},
            {"type": "array", "items": {"type": "integer"}},
        ],
        [{"type": "object", "additionalProperties": False}, {"type": "object", "required": ["a"]}],
        [{"minimum": 3}, {"maximum": 2}],
    ]
    chance = random.Random(6)
    for options in overlapping + disjoint:
        texts = RandomTexts(compiled({"oneOf": options}, depth=2))
        for _ in range(30):
            assert valid_json({"oneOf": options}, texts.draw(chance))


def test_options_of_one_of_exclude_each_other_to_every_reader():
    """Formats are an annotation to some, and dialects of patterns differ: what both may allow is not written."""
    with pytest.raises(ConstraintError, match="no string"):
        compiled({"type": "string", "oneOf": [{"format": "date"}, {"format": "email"}]})
    for options, both in [
        ([{"format": "date"}, {"const": "x"}], "x"),
        ([{"pattern": "^\\s$"}, {"pattern": "^\\ufeff$"}], "\ufeff"),
        ([{"pattern": "^\\w$"}, {"pattern": "^é$"}], "é"),
        ([{"pattern": "^.$"}, {"const": "\r"}], "\r"),
        ([{"pattern": "^a$"}, {"const": "a\n"}], "a\n"),
    ]:
        automaton = compiled({"type": "string", "oneOf": options})
        assert not automaton.matches(compact(both)), options
    values = ["2020-01-01", "x", "a@b.c", "abc"]
    automaton = compiled({"enum": values, "oneOf": [{"format": "date"}, {"maxLength": 1}, {"pattern": "@"}]})
    # To a reader that ignores formats, only the first value is valid under no more than one option.
    assert [automaton.matches(compact(value)) for value in values] == [True, False, False, False]


def test_counts_may_be_written_with_a_point_and_unique_items_false_says_nothing():
    schema = {"type": "array", "items": {"type": "string", "minLength": 1.0, "maxLength": 2e0}, "uniqueItems": False}
    automaton = compiled({**schema, "minItems": 1.0, "maxItems": 2.0})
    for count, length in itertools.product(range(4), range(4)):
        expected = count in (1, 2) and length in (1, 2)
        assert automaton.matches(compact(["x" * length] * count)) == expected


def test_annotations_say_nothing_about_values():
    plain: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    told = {"title": "t", "description": "d", "$comment": "c", "default": "x", "examples": [1], "deprecated": True}
    told |= {"readOnly": True, "writeOnly": True}
    inner = {"a": {**told, **plain["properties"]["a"]}}
    annotated = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "urn:x", **told, **plain}
    one, other = compiled(plain), compiled({**annotated, "properties": inner})
    assert one.transitions.tolist() == other.transitions.tolist()


def test_what_stands_beside_a_choice_holds_in_each_option():
    automaton = compiled(
        {
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "additionalProperties": False,
            "anyOf": [{"required": ["a"]}, {"required": ["b"]}, {"required": ["c"]}],
        }
    )
    for value, expected in [({}, 0), ({"a": 1}, 1), ({"b": 1}, 1), ({"a": 1, "b": 2}, 1), ({"c": 1}, 0)]:
        assert automaton.matches(compact(value)) == bool(expected)


def tree(levels: int):
    return {"value": "x", "children": [tree(levels - 1), tree(levels - 1)] if levels > 1 else []}


@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("defined", [False, True])
def test_recursion_reaches_exactly_the_stated_depth(depth: int, defined: bool):
    reference = {"$ref": "#/$defs/node" if defined else "#"}
    node = {
        "type": "object",
        "properties": {"value": {"type": "string"}, "children": {"type": "array", "items": reference}},
        "required": ["value", "children"],
    }
    automaton = compiled({"$ref": "#/$defs/node", "$defs": {"node": node}} if defined else node, depth=depth)
    for levels in range(1, 7):
        assert automaton.matches(compact(tree(levels))) == (levels <= depth)


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"$ref": "#"}, "circular"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}, "circular"),
        ({"anyOf": [{"type": "null"}, {"$ref": "#"}]}, "schema at /anyOf/1: '$ref' to '#' is circular"),
        ({"properties": {"a": {"allOf": [{"$ref": "#/properties/a"}]}}}, "circular"),
        ({"properties": {"a": {"$ref": "#"}}, "required": ["a"]}, "no instance within a depth of 4"),
        ({"type": "array", "minItems": 1, "items": {"$ref": "#"}}, "no instance within a depth of 4"),
    ],
)
def test_recursion_that_never_ends_is_refused(schema, message):
    with pytest.raises(ConstraintError) as error:
        expression(schema)
    assert message in str(error.value)


def nested(levels: int, wrap):
    schema: object = {"type": "string", "pattern": "(?:a" * 99 + ")*" * 99}
    for _ in range(levels):
        schema = wrap(schema)
    return schema


def chained(wrap, length: int = 1500):
    """Definitions that each refer to the next."""
    definitions = {f"d{i}": wrap({"$ref": f"#/$defs/d{i + 1}"}) for i in range(length)}
    return {"$ref": "#/$defs/d0", "$defs": {**definitions, f"d{length}": {"type": "null"}}}


CYCLE: dict[str, Any] = {"properties": {}}
CYCLE["properties"].update(a=CYCLE, b=CYCLE)


def test_an_object_that_stands_inside_itself_is_refused_with_its_place():
    with pytest.raises(ConstraintError, match="schema at /properties/b: this object stands inside itself"):
        expression(CYCLE)
    shared = {"type": "null"}
    assert compiled({"properties": {"a": shared, "b": shared}}).matches(b'{"a":null,"b":null}'), "twice is no circle"


@pytest.mark.parametrize(
    "schema",
    [
        *(nested(levels, lambda part: {"properties": {"a": part}}) for levels in (62, 70, 3000)),
        *(nested(levels, lambda part: {"anyOf": [part, {"type": "null"}]}) for levels in (62, 70)),
        *(nested(levels, lambda part: {"allOf": [part]}) for levels in (62, 3000)),
        chained(lambda part: part),
        chained(lambda part: {"anyOf": [part]}),
        chained(lambda part: {"oneOf": [part, part]}, 40),
        chained(lambda part: {"allOf": [part, part]}, 300),
        pytest.param(chained(lambda part: {"properties": {"a": part, "b": part}}, 30), marks=pytest.mark.slow),
        pytest.param(CYCLE, marks=pytest.mark.slow),
        pytest.param(
            {"allOf": [{"anyOf": [{"maxLength": n}, {"maxLength": n + 1}]} for n in range(30)]}, marks=pytest.mark.slow
        ),
        {"enum": [f"word {n}" for n in range(5000)]},
        {"type": "array", "items": {"type": "string"}, "maxItems": 1_000_000},
    ],
)
def test_no_schema_overflows_the_stack_or_hangs(schema):
    """Each ends, in an expression or in an error, whatever it was made for."""
    with contextlib.suppress(ConstraintError):
        compiled(schema)
