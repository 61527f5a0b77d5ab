"""The real Gemma 3 270M, from a GGUF file in Q4_K_M: it writes what ``transformers`` does, and that reads well.

Both compute in float32 with the weights that the file's blocks stand for.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import redraft
from redraft.api import Engine
from tests.gguf_files import gemma3_path, without_tokenizer
from tests.models.gemma.test_engine import greedy
from tests.models.gemma.test_model import rows

pytestmark = pytest.mark.slow
PROMPTS = {
    "The capital of France is": "France",
    "One, two, three, four, five, six,": "seven",
}
COUNT = 12


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gemma3_path(tmp_path_factory.mktemp("gemma3"))


@pytest.fixture(scope="module")
def engine(file: Path) -> Iterator[Engine]:
    with redraft.load(file, dtype="float32", pack_folder=None) as engine:
        yield engine


@pytest.fixture(scope="module")
def theirs(file: Path) -> Any:
    """The file without its tokens, with which ``transformers`` would take minutes."""
    from transformers import AutoModelForCausalLM

    bare = without_tokenizer(file, file.with_name("bare.gguf"), 262_144)
    return AutoModelForCausalLM.from_pretrained(bare.parent, gguf_file=bare.name, dtype=torch.float32).eval()


def test_the_file_is_what_it_was_published_as(engine: Engine):
    config = engine.model.config
    assert (config.vocab_size, config.context_length, config.canvas_length) == (262_144, 32_768, 0)
    windows = [kept for *_, kept in engine.model.cache_layout()]
    assert windows == [511, 511, 511, 511, 511, None] * 3
    assert engine.model.defaults.end_token_ids == (1, 106)
    assert engine.runtime.tokenizer.decode_all([106]) == "<end_of_turn>"


def test_it_has_the_logits_of_transformers_past_its_window(engine: Engine, theirs: Any):
    """Prose, not noise: of rows that no text leads to, rounding is the larger part of what is small."""
    text = torch.tensor(engine.runtime.tokenize("It was a dark and stormy night, and the rain fell in torrents. " * 40))
    assert len(text) > 512
    with torch.inference_mode():
        expected = theirs(input_ids=text[None], logits_to_keep=8).logits[0]
        found = engine.model.logits(rows(engine.model, text, 256)[-8:])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_greedy_text_is_that_of_transformers_and_says_what_is_so(engine: Engine, theirs: Any):
    for prompt, said in PROMPTS.items():
        found = engine.generate(prompt, max_tokens=COUNT, temperature=0)
        tokens = torch.tensor(engine.runtime.tokenize(prompt))
        expected = greedy(theirs, tokens, COUNT)
        assert list(found.token_ids) == expected[: len(found.token_ids)]
        assert said in found.text
        assert found.usage.forwards == COUNT
