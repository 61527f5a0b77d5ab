"""The judges themselves, on documents and texts whose verdicts are written down by hand."""

import pytest

from tests.constrain.judges import (
    FORMATS,
    full_match,
    guidance_accepts,
    guidance_matches,
    has_format,
    valid_json,
)


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        (
            True,
            ['{"a": [1, -2.5e3, "x", null, true]}', '"\\ud83d\\ude00"', " 1 "],
            ["", "{", "{} {}", "{'a': 1}", "[1,]"],
        ),
        (True, ['"\\u0000"'], ["NaN", "-Infinity", '"\\ud800"', '"\t"', "01", "+1", ".5", "\ufeff1"]),
        ({"type": "integer"}, ["1", "-0", "1.0", "1" * 60], ["1.5", "true", '"1"', "0.00000000000000000000000001"]),
        ({"type": "number", "maximum": 0.1}, ["0.1", "-3"], ["0.10000000000000000001", "0.2"]),
        ({"type": ["string", "null"], "maxLength": 1}, ["null", '"😀"'], ['"ab"', "1"]),
        ({"enum": [1, "a", {"b": []}]}, ["1", "1.0", '{"b": []}'], ["true", '"b"', '{"b": [1]}']),
        ({"pattern": "^\\w$"}, ['"a"'], ['"é"', '"a\\n"', '"-"']),
        (
            {"pattern": "^\\D\\S.$"},
            ['"abc"', '"€€€"'],
            ['"٣bc"', '"a\\u001cc"', '"a\\ufeffc"', '"ab\\r"', '"ab\\u2028"'],
        ),
        ({"required": ["a"]}, ['{"a": 1}'], ["{}"]),
        ({"oneOf": [{"minimum": 1}, {"maximum": 2}]}, ["0", "3"], ["1", "2"]),
        (
            {"$ref": "#/$defs/n", "$defs": {"n": {"items": {"$ref": "#/$defs/n"}, "type": "array"}}},
            ["[[], [[]]]"],
            ["[1]"],
        ),
        ({"items": False, "prefixItems": [{"const": 1}]}, ["[]", "[1]"], ["[2]", "[1, 1]"]),
        ({"additionalProperties": False, "properties": {"a": True}}, ["{}", '{"a": 0}'], ['{"b": 0}']),
    ],
)
def test_documents_are_told_apart(schema, good: list[str], bad: list[str]):
    assert [text for text in good if not valid_json(schema, text)] == []
    assert [text for text in bad if valid_json(schema, text)] == []


def test_bytes_that_are_no_utf8_are_no_json_and_match_nothing():
    assert valid_json(True, '"é"'.encode())
    assert not valid_json(True, '"é"'.encode("latin-1"))
    assert not full_match(".*", b"\xff")


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("date", "2024-02-29", "2023-02-29 2024-2-9 24-02-29"),
        ("date-time", "2024-02-29T12:00:00Z 2024-02-29T12:00:00.5+01:30", "2024-02-29T12:00:00 2024-02-29 x"),
        ("time", "12:00:00Z", "12:00:00 24:00:00Z 12:00Z"),
        ("email", "a.b@c.de", "a@b a..b@c.de @c.de a@c.de."),
        ("uuid", "123e4567-e89b-12d3-a456-426614174000", "123e4567e89b12d3a456426614174000 x"),
        ("ipv4", "10.0.0.255", "10.0.0.256 10.0.0 010.0.0.1"),
        ("uri", "https://a.b/c?d#e urn:x:y", "/a a b:%zz http://a[b"),
    ],
)
def test_formats_are_told_apart(name: str, good: str, bad: str):
    for text in good.split():
        assert has_format(name, text)
        assert valid_json({"format": name}, f'"{text}"')
    for text in ["", *bad.split(), f"{good.split()[0]}\n"]:
        assert not has_format(name, text), text
        assert not valid_json({"format": name}, f'"{text}"'.replace("\n", "\\n"))


def test_every_format_is_told_apart_from_the_others():
    texts = {"date": "2024-02-29", "time": "12:00:00Z", "email": "a@b.c", "ipv4": "1.2.3.4", "uri": "a:b"}
    texts |= {"date-time": "2024-02-29T12:00:00Z", "uuid": "123e4567-e89b-12d3-a456-426614174000"}
    assert {(name, other) for name in FORMATS for other in FORMATS if has_format(name, texts[other])} == {
        (name, name) for name in FORMATS
    }


@pytest.mark.parametrize(
    ("pattern", "good", "bad"),
    [
        ("a|bc", ["a", "bc"], ["ab", "c", "a\n", ""]),
        ("^a+$", ["aa"], ["aa\n", "baa"]),
        (r"\w\d\s", ["a1 ", "_0\t"], ["é1 ", "a٣ ", "a1\u00a0", "a1\ufeff", "a1"]),
        (r"\W\D\S", ["-a.", "€€€"], ["éa.", "-٣.", "-a\ufeff", "-a\u00a0"]),
        (r"[^\s]|[\S]", ["a", "€"], [" ", "\u00a0", "\ufeff"]),
        (".", ["a", "\t", "😀"], ["\n", "\r", "\u2028", "", "ab"]),
        (r"\u{1F600}\ud83d\ude00\u0041", ["😀😀A"], ["😀A"]),
        (r"(?<year>\d{4})(?:-[.$]){1,2}", ["2024-.", "2024-$-."], ["2024-x", "2024"]),
    ],
)
def test_texts_are_told_apart_by_every_dialect_of_patterns(pattern: str, good: list[str], bad: list[str]):
    assert [text for text in good if not full_match(pattern, text)] == []
    assert [text for text in bad if full_match(pattern, text)] == []


def test_llguidance_accepts_refuses_or_says_that_it_cannot_tell():
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    assert [guidance_accepts(schema, text) for text in (b'{"a":1}', b'{"a":"1"}', b'{"a":1')] == [True, False, False]
    assert guidance_accepts({"type": "array", "uniqueItems": True}, b"[]") is None
    assert [guidance_matches(r"a[bc]+", text) for text in (b"abc", b"ad", b"a")] == [True, False, False]
    assert guidance_matches("a(?=b)", b"a") is None
