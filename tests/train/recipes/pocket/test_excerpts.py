"""Excerpts of packages: their licences stand beside them, splits share none, and a gap in one has its answer."""

import ast
import json
from collections import Counter
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from random import Random

import pytest
from typer.testing import CliRunner

from redraft.train.recipes.pocket.excerpts import (
    CODE,
    HELD_OUT_PACKAGE,
    PACKAGES,
    PROSE,
    excerpt,
    excerpts_of,
    lines,
)
from redraft.train.recipes.pocket.gather import app
from redraft.train.recipes.pocket.records import item, record
from redraft.train.recipes.pocket.snippets import Split
from redraft.train.recipes.pocket.values import held_out_words
from redraft.train.recipes.pocket.writing import code_span

FOLDER = files("redraft.train.recipes.pocket") / "excerpts"


def test_every_package_is_named_with_its_version_and_its_licence() -> None:
    notice = (FOLDER / "NOTICE.txt").read_text("utf-8")
    assert {(own["package"], own["kind"]) for own in lines()} == {(p, k) for p in PACKAGES for k in (PROSE, CODE)}
    for package, its_version in {(own["package"], own["version"]) for own in lines()}:
        _, _, text = notice.partition(f"{package} {its_version}\n")
        assert "permission" in text[:3000].lower()
        assert "copyright" in text[:1000].lower()


def test_excerpts_are_short_and_few_and_have_no_word_that_training_must_not_see() -> None:
    assert all(100 < len(own["text"]) < 450 for own in lines())
    assert max(Counter((own["package"], own["kind"]) for own in lines()).values()) <= 30
    for own in lines():
        assert not held_out_words().search(own["text"])
        if own["kind"] == CODE:
            ast.parse(own["text"])


def test_a_package_is_held_out_and_splits_share_no_excerpt() -> None:
    train, templates, domain = (
        {own["text"] for own in excerpts_of(split)} for split in (Split.train, Split.templates, Split.domain)
    )
    assert not train & templates
    assert not (train | templates) & domain
    assert train | templates | domain == {own["text"] for own in lines()}
    assert {own["package"] for own in excerpts_of(Split.domain)} == {HELD_OUT_PACKAGE}
    assert HELD_OUT_PACKAGE not in {
        own["package"] for own in (*excerpts_of(Split.train), *excerpts_of(Split.templates))
    }
    assert excerpts_of(Split.values) == ()
    assert excerpt(Random(1), Split.values) is None


def test_a_span_of_code_is_of_one_line_between_others() -> None:
    spans = set()
    for seed in range(200):
        own = excerpt(Random(seed), Split.train)
        assert own is not None
        place = code_span(own.text, Random(seed)) if own.style == CODE else None
        if place is not None:
            start, end = place
            words = own.text[start:end]
            assert words == words.strip()
            assert "\n" not in words
            assert "\n" in own.text[:start]
            assert "\n" in own.text[end:]
            spans.add(words)
    assert len(spans) > 40


def asked(made: dict[str, object]) -> str | None:
    """The excerpt that a record or an item asks to fill a gap in."""
    for own in lines():
        text = own["text"]
        match made:
            case {"prompt": str(prompt), "response": str(response)} if text.startswith(prompt + response):
                return str(text)
            case {"prefix": prefix, "answer": answer, "suffix": suffix} if text == f"{prefix}{answer}{suffix}":
                return str(text)
            case {"context": str(context), "questions": [{"task": "fill", "canvas": [{"slot": slot}]}]}:
                start = next((at for at in range(len(text)) if context[at : at + 1] != text[at]), 0)
                if context[:start] + slot + text[start + len(slot) :] == text and context.endswith(
                    text[start + len(slot) :]
                ):
                    return str(text)
    return None


@pytest.mark.slow
def test_the_share_of_records_about_excerpts_is_what_the_docs_say() -> None:
    found = [asked(record(5, index)) for index in range(600)]
    texts = {own["text"] for own in excerpts_of(Split.train)}
    assert {one for one in found if one} <= texts
    assert 0.02 < sum(one is not None for one in found) / len(found) < 0.06


@pytest.mark.slow
@pytest.mark.parametrize("split", [Split.templates, Split.domain])
def test_items_to_fill_are_of_the_split(split: Split) -> None:
    made = [one for index in range(300) if (one := item(5, index, split))["groups"]["kind"] in (PROSE, CODE)]
    assert made
    assert {asked(one) for one in made} <= {own["text"] for own in excerpts_of(split)}
    assert {one["domain"] for one in made} <= set(PACKAGES)


def test_the_command_makes_the_file_that_the_package_has(tmp_path: Path) -> None:
    """Where the packages are installed in the versions that it names."""
    for package, its_version in {(own["package"], own["version"]) for own in lines()}:
        try:
            if version(package) != its_version:
                pytest.skip(f"{package} is there in another version than {its_version}")
        except PackageNotFoundError:
            pytest.skip(f"{package} is not installed")
    done = CliRunner().invoke(app, ["--write", str(tmp_path)])
    assert done.exit_code == 0, done.output
    made = [json.loads(one) for one in (tmp_path / "excerpts.jsonl").read_text("utf-8").splitlines()]
    assert made == list(lines())
    assert (tmp_path / "NOTICE.txt").read_text("utf-8") == (FOLDER / "NOTICE.txt").read_text("utf-8")
