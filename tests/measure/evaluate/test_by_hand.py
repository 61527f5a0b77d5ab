"""The items that were written by hand for the last evaluation say what their snippets say."""

import json
from collections import Counter

from redraft.measure.evaluate.items import Choose, Extract, read_items
from redraft.tasks.places import places_of
from tests.prepared import ROOT


def test_every_snippet_has_its_fields_and_a_question_with_four_options() -> None:
    items = read_items(ROOT / "bench" / "data" / "by_hand" / "items.jsonl")
    assert Counter((item.groups["group"], item.verb) for item in items) == {
        (kind, verb): 30 for kind in ("mail", "ticket", "receipt", "note", "review") for verb in ("extract", "choose")
    }
    snippets: set[str] = set()
    for item in items:
        if isinstance(asked := item.asked, Choose):
            assert len(asked.options) == 4
            assert isinstance(asked.prompt, list)
            assert str(asked.prompt[0]["content"]).split("\n\n")[0] in "".join(snippets)
            continue
        assert isinstance(asked, Extract)
        snippets.add(asked.text)
        assert isinstance(asked.schema, dict)
        said = {name: value for name, value in asked.value.items() if value is not None}
        assert 3 <= len(said) < len(asked.schema["properties"]) + 1
        places = places_of(asked.text, json.dumps(said))
        for name, value in said.items():
            formed = asked.schema["properties"][name]
            if isinstance(value, str) and "enum" not in formed and "format" not in formed:
                assert f"/{name}" in places or value in asked.text, (item.id, name)
    assert len(snippets) == 150
