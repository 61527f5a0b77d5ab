"""Copies that compressed-tensors itself wrote of a whole Gemma have the logits that ``transformers`` reads off them."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from redraft.models import checkpoint
from redraft.models.packed_cache import load_packed
from tests.models.driving import causal_rows, fresh
from tests.models.gemma.test_model import expected, tokens
from tests.quantised_copies import compressed_by_library

IGNORED = ("lm_head", "re:.*vision.*")
COPIES: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma3": ("W8A16", {"strategy": "channel", "group_size": None}),
    "gemma3 with vision": ("W4A16", {"strategy": "channel", "group_size": None}),
    "gemma4 dense": ("FP8_BLOCK", {"block_structure": [32, 32]}),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", COPIES)
@torch.inference_mode()
def test_a_copy_of_a_gemma_is_read_as_transformers_reads_it(folders: dict[str, Path], tmp_path: Path, kind: str):
    """Under whatever names the reference saves a model and its vision tower by."""
    preset, weights = COPIES[kind]
    folder = compressed_by_library(folders[kind], tmp_path / "copy", preset, IGNORED, **weights)
    reference = getattr(transformers, checkpoint.read(folder).architecture).from_pretrained(folder, dtype=torch.float32)
    for module in reference.modules():
        # The reference rounds activations too, where a scheme says so; what is compared are the weights.
        if (scheme := getattr(module, "quantization_scheme", None)) is not None:
            scheme.input_activations = None
    text = tokens(40)
    model = load_packed(checkpoint.read(folder), "float32", pack_folder=None)
    found, theirs = model.logits(causal_rows(model, text, fresh(model))), expected(reference.eval(), text)
    assert theirs.std() > 0.3, "logits that differ"
    torch.testing.assert_close(found, theirs, atol=1e-4, rtol=0)
