import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from redraft.models import registry
from tests.models.toy.config import ARCHITECTURE, InkwellConfig
from tests.models.toy.family import FAMILY
from tests.models.toy.model import Inkwell
from tests.random_checkpoint import LETTERS_SIZE, MARKERS, write_letters_tokenizer

# With sizes that are no multiples of blocks.
CONFIG = InkwellConfig(
    vocab_size=LETTERS_SIZE + 8,
    width=96,
    inner_width=136,
    depth=3,
    heads=6,
    kv_heads=2,
    context_length=512,
    canvas_length=24,
    # One of the unused tokens of the tokenizer.
    mask_id=LETTERS_SIZE + 7,
    begin_id=2,
    end_id=1,
)
assert (MARKERS[CONFIG.begin_id], MARKERS[CONFIG.end_id]) == ("<bos>", "<eos>")


@pytest.fixture(scope="package", autouse=True)
def registered() -> Iterator[None]:
    """The one line that a family takes outside its folder, for as long as these tests run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry.FAMILIES, ARCHITECTURE, "tests.models.toy.family")
        yield


def write(folder: Path, seed: int = 0, dtype: torch.dtype = torch.float32) -> Path:
    """A checkpoint with random weights, as its authors would publish it."""
    folder.mkdir(parents=True, exist_ok=True)
    generator, tensors = torch.Generator().manual_seed(seed), {}
    for name, value in Inkwell(CONFIG).state_dict().items():
        drawn = torch.randn(value.shape, generator=generator)
        if name.endswith("norm.weight"):
            drawn = 1 + 0.2 * drawn
        elif value.ndim == 2 and "embedding" not in name:
            drawn = drawn * value.shape[1] ** -0.5
        elif name.endswith(".bias"):
            drawn = 0.3 * drawn
        tensors[FAMILY.stored_name(name)] = drawn.to(dtype)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG.to_json()))
    (folder / "generation_config.json").write_text(json.dumps({"max_denoising_steps": 12, "threshold": 0.5}))
    write_letters_tokenizer(folder, CONFIG.vocab_size)
    return folder


@pytest.fixture(scope="package")
def inkwell(tmp_path_factory: pytest.TempPathFactory, registered: None) -> Path:
    """A checkpoint of the family. Tests that change it work on a copy."""
    return write(tmp_path_factory.mktemp("inkwell"))
