"""The real Gemma 3 270M, from a GGUF file in Q4_K_M: it writes what ``transformers`` does, and that reads well.

Both compute in float32 with the weights that the file's blocks stand for; what ``transformers`` says is written down.
"""

from collections.abc import Iterator

import pytest
import torch

import redraft
from redraft.api import Engine
from tests.gguf_files import gemma3_path
from tests.models.gemma.test_model import rows
from tests.published import (
    GEMMA3_COUNT,
    GEMMA3_PROMPTS,
    GEMMA3_ROWS,
    GEMMA3_TEXT,
    assert_published,
    measures,
    published,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    path = gemma3_path(tmp_path_factory.mktemp("gemma3"))
    with redraft.load(path, dtype="float32", pack_folder=None) as engine:
        yield engine


def test_the_file_is_what_it_was_published_as(engine: Engine):
    config = engine.model.config
    assert (config.vocab_size, config.context_length, config.canvas_length) == (262_144, 32_768, 0)
    windows = [kept for *_, kept in engine.model.cache_layout()]
    assert windows == [511, 511, 511, 511, 511, None] * 3
    assert engine.model.defaults.end_token_ids == (1, 106)
    assert engine.runtime.tokenizer.decode_all([106]) == "<end_of_turn>"


def test_it_has_the_logits_of_transformers_past_its_window(engine: Engine):
    """Prose, not noise: of rows that no text leads to, rounding is the larger part of what is small."""
    text = torch.tensor(engine.runtime.tokenize(GEMMA3_TEXT))
    assert len(text) > 512
    with torch.inference_mode():
        found = engine.model.logits(rows(engine.model, text, 256)[-GEMMA3_ROWS:])
    assert_published(measures(found), "gemma3")


def test_greedy_text_is_that_of_transformers_and_says_what_is_so(engine: Engine):
    for prompt, said in zip(GEMMA3_PROMPTS, ("France", "seven"), strict=True):
        found = engine.generate(prompt, max_tokens=GEMMA3_COUNT, temperature=0)
        assert list(found.token_ids) == published("gemma3")[prompt][: len(found.token_ids)]
        assert said in found.text
        assert found.usage.forwards == GEMMA3_COUNT
