"""Sampling defaults are those of the file, and what of it is not honoured is named."""

from typing import Any

import pytest
from transformers import GenerationConfig

from redraft.models.sampling import SamplingDefaults


@pytest.mark.parametrize(
    ("generation", "expected"),
    [
        ({}, SamplingDefaults()),
        ({"temperature": 0.6, "top_k": 64, "top_p": 0.95}, SamplingDefaults(0.6, 64, 0.95)),
        ({"top_k": 0, "min_p": 0.1, "top_p": None}, SamplingDefaults(min_p=0.1)),
        ({"do_sample": False, "temperature": 0.6, "top_k": 5}, SamplingDefaults(0.0)),
        ({"do_sample": False, "repetition_penalty": 1.1}, SamplingDefaults(0.0, repetition_penalty=1.1)),
        ({"do_sample": True}, SamplingDefaults()),
    ],
)
def test_a_file_is_read_and_written_again(generation: dict[str, Any], expected: SamplingDefaults) -> None:
    found = SamplingDefaults.read(generation)
    assert found == expected
    assert SamplingDefaults.read(found.as_object()) == expected


def test_what_is_not_honoured_is_named() -> None:
    asked = {"typical_p": 0.9, "no_repeat_ngram_size": 3, "max_new_tokens": 256, "temperature": 0.5}
    assert SamplingDefaults.read(asked).unread == ("typical_p 0.9", "no_repeat_ngram_size 3", "max_new_tokens 256")


def test_the_references_own_defaults_ask_for_nothing() -> None:
    """A file in which every field is written out, as some have."""
    assert SamplingDefaults.read(GenerationConfig().to_dict()).unread == ()


@pytest.mark.parametrize(
    "wrong",
    [{"temperature": -1}, {"top_p": 2}, {"top_k": 1.5}, {"top_k": -3}, {"min_p": "a"}, {"repetition_penalty": 0}],
)
def test_what_no_field_may_be_is_an_error(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(ValueError, match=name):
        SamplingDefaults.read(wrong)
