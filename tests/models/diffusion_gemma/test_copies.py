"""Quantised copies compute what ``transformers`` computes of the numbers that they stand for."""

from collections.abc import Callable

import pytest
import torch
from transformers import DynamicCache

from redraft.models import checkpoint
from redraft.models.packed_cache import load_packed
from tests.models.driving import denoise, encoded
from tests.quantised_copies import KINDS, Copy
from tests.random_checkpoint import reference_model

TOLERANCE = 1e-4


@pytest.mark.parametrize("name", KINDS)
@torch.inference_mode()
def test_logits_are_those_of_the_dequantised_reference(name: str, copy_of: Callable[[str], Copy]):
    """A prompt longer than the window, and a canvas; in float32, which dequantises weights and activations."""
    copy = copy_of(name)
    model = load_packed(checkpoint.read(copy.folder), "float32", pack_folder=None)
    generator = torch.Generator().manual_seed(1)
    prompt, canvas = torch.randint(16, 64, (20,), generator=generator), torch.randint(16, 64, (8,), generator=generator)
    found = model.logits(denoise(model, canvas, encoded(model, prompt)))
    reference = reference_model(copy.dense)
    cache = DynamicCache(config=reference.config.get_text_config(decoder=True))
    reference.model.encoder(input_ids=prompt[None], past_key_values=cache)
    expected = reference(decoder_input_ids=canvas[None], past_key_values=cache).logits[0]
    assert expected.std() > 0.1, "logits that say nothing"
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=0)
