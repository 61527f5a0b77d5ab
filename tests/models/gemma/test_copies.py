"""Copies that compressed-tensors itself wrote of a whole Gemma have the logits of what it decompresses them to."""

from pathlib import Path
from typing import Any

import pytest
import torch

from redraft.models import checkpoint
from redraft.models.packed_cache import load_packed
from tests.models.driving import causal_rows, fresh
from tests.models.gemma.test_model import expected, tokens
from tests.quantised_copies import compressed_by_library

IGNORED = ("lm_head", "re:.*vision.*")
COPIES: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma3": ("W8A16", {"strategy": "channel", "group_size": None}),
    "gemma3 with vision": ("W4A16_ASYM", {"strategy": "channel", "group_size": None}),
    "gemma4 dense": ("FP8_BLOCK", {"block_structure": [32, 32]}),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", COPIES)
@torch.inference_mode()
def test_a_copy_of_a_gemma_is_read_as_its_writer_reads_it(folders: dict[str, Path], tmp_path: Path, kind: str):
    """Under whatever names the reference saves a model and its vision tower by."""
    preset, weights = COPIES[kind]
    reference = compressed_by_library(folders[kind], tmp_path / "copy", preset, IGNORED, **weights)
    text, copy = tokens(40), checkpoint.read(tmp_path / "copy")
    assert copy.quantised is not None
    model = load_packed(copy, "float32", pack_folder=None)
    found, theirs = model.logits(causal_rows(model, text, fresh(model))), expected(reference, text)
    assert theirs.std() > 0.3, "logits that differ"
    torch.testing.assert_close(found, theirs, atol=1e-4, rtol=0)
