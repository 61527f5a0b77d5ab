"""An adapted checkpoint is its base in encode mode, and a diffusion model in all else."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM

import redraft
from redraft.canvas.corruption import AbsorbingCorruption, MaskNoise
from redraft.errors import CheckpointError
from redraft.models import checkpoint
from redraft.models.llama_diffusion.model import LlamaDiffusion
from redraft.models.tokenizer import ChatTokenizer
from redraft.train.adapt import Mask, adapt, read_base
from tests.gguf_files import llama_gguf, smollm2_path
from tests.published import SMOLLM2_MASK, assert_published, measures, smollm2_tokens
from tests.quantised_copies import compressed_by_library
from tests.random_checkpoint import LETTERS_SIZE
from tests.random_llama import random_llama

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 32, "rope_theta": 500_000.0}
BASES: dict[str, dict[str, Any]] = {
    "tied": {},
    "untied, llama3": {"tied": False, "rope_parameters": LLAMA3, "head_dim": 12},
    "bfloat16": {"dtype": torch.bfloat16},
}


@pytest.fixture(scope="module", params=BASES)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_llama(tmp_path_factory.mktemp("base") / "base", **BASES[request.param])


@torch.no_grad()
def next_token_logits(folder: Path, tokens: torch.Tensor) -> torch.Tensor:
    """What the adapted model says of the next token where it encodes: every row sees those before it."""
    model = checkpoint.read(folder).load("float32")
    assert isinstance(model, LlamaDiffusion)
    count, length = tokens.shape
    mask = torch.ones(length, length).tril().bool().expand(count, -1, -1)
    return model.logits(model.rows(tokens, torch.arange(length).expand(count, -1), mask))


def random_tokens(size: int, mask: int) -> torch.Tensor:
    tokens = torch.randint(0, size, (2, 30), generator=torch.Generator().manual_seed(0))
    return torch.where(tokens == mask, 3, tokens)


@torch.no_grad()
def assert_is_base(folder: Path, mask: Mask, theirs: LlamaForCausalLM) -> None:
    size = theirs.config.vocab_size
    tokens = random_tokens(size, mask.id)
    expected, found = theirs(tokens).logits, next_token_logits(folder, tokens)
    others = torch.arange(size) != mask.id
    torch.testing.assert_close(found[..., :size][..., others], expected[..., others], atol=1e-4, rtol=0)


@pytest.mark.parametrize("mask_token", ["<unused9>", None])
def test_next_tokens_are_those_of_the_base(base: Path, tmp_path: Path, mask_token: str | None):
    """With a spare token of the vocabulary as the mask, and with a new one."""
    mask = adapt(read_base(base, "base"), tmp_path / "out", mask_token=mask_token)
    assert mask.new == (mask_token is None)
    assert_is_base(tmp_path / "out", mask, LlamaForCausalLM.from_pretrained(base, dtype=torch.float32).eval())


def test_the_masks_embedding_is_the_mean_of_all_others(base: Path, tmp_path: Path):
    config = json.loads((base / "config.json").read_text())
    table = checkpoint_tensor(base, "model.embed_tokens.weight").float()
    for mask_token in ("<unused9>", "<new>"):
        folder = tmp_path / mask_token.strip("<>")
        mask = adapt(read_base(base, "base"), folder, mask_token=mask_token)
        adapted = checkpoint.read(folder)
        own = checkpoint_tensor(folder, "model.embed_tokens.weight")
        assert own.dtype == (torch.bfloat16 if config["dtype"] == "bfloat16" else torch.float32)
        others = [token for token in range(len(table)) if token != mask.id]
        tolerance = 4e-3 if own.dtype == torch.bfloat16 else 1e-6
        torch.testing.assert_close(own[mask.id].float(), table[others].mean(0), atol=tolerance, rtol=0)
        assert torch.equal(own[others].float(), table[others])
        assert adapted.config.vocab_size == len(table) + mask.new


def checkpoint_tensor(folder: Path, name: str) -> torch.Tensor:
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", "pt") as file:
        return file.get_tensor(name)


def test_it_loads_says_its_mask_and_answers(base: Path, tmp_path: Path):
    folder = tmp_path / "out"
    mask = adapt(read_base(base, "owner/base"), folder, canvas_length=16)
    with redraft.load(folder) as engine:
        assert engine.model.config.canvas_length == 16
        assert engine.tokenizer.token_id(mask.text) == mask.id == LETTERS_SIZE + 8
        assert engine.model.defaults.end_token_ids == (1,)
        result = engine.generate([{"role": "user", "content": "the value"}], seed=1, max_tokens=16)
        assert mask.text not in result.text
    card = (folder / "README.md").read_text()
    assert "base_model: owner/base" in card
    assert f"`{mask.text}` (id {mask.id})" in card


def test_the_order_of_masks_is_kept_in_the_configuration(base: Path, tmp_path: Path):
    adapt(read_base(base, "base"), tmp_path / "any")
    mask = adapt(read_base(base, "base"), tmp_path / "ordered", mask_order="left-to-right")
    plain, ordered = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("any", "ordered"))
    assert ordered == plain | {"mask_order": "left-to-right"}
    found = checkpoint.read(tmp_path / "ordered")
    assert found.family.corruption(found.config) == AbsorbingCorruption(MaskNoise(mask.id), "left-to-right")


def test_files_of_the_base_are_kept_and_others_can_be_given(tmp_path: Path):
    base = random_llama(tmp_path / "base")
    (base / "LICENSE.txt").write_text("do as you like")
    (base / "README.md").write_text("---\nlicense: mit\n---\nwords")
    (base / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 5], "temperature": 0.2}))
    adapt(read_base(base, str(base)), tmp_path / "out", mask_token="<unused9>", chat_template="{{ messages }}")
    out = tmp_path / "out"
    assert (out / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()
    assert (out / "LICENSE.txt").read_text() == "do as you like"
    assert "license: mit" in (out / "README.md").read_text()
    assert str(tmp_path) not in (out / "README.md").read_text()
    assert ChatTokenizer.from_folder(out).template == "{{ messages }}"
    assert checkpoint.read(out).defaults.end_token_ids == (1, 5)
    assert "temperature" not in json.loads((out / "generation_config.json").read_text())
    assert AutoTokenizer.from_pretrained(out).mask_token == "<unused9>"


def test_a_gguf_file_becomes_the_same_as_its_folder(tmp_path: Path):
    folder = random_llama(tmp_path / "llama")
    path = llama_gguf(tmp_path / "llama.gguf", folder)
    masks = [adapt(read_base(one, one.name), tmp_path / f"of-{one.name}") for one in (folder, path)]
    assert masks[0] == masks[1]
    tokens = random_tokens(LETTERS_SIZE, masks[0].id)
    found = [next_token_logits(tmp_path / f"of-{one.name}", tokens) for one in (folder, path)]
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=0)
    assert "license: apache-2.0" in (tmp_path / "of-llama.gguf" / "README.md").read_text()
    tokenizers = [ChatTokenizer.from_folder(tmp_path / f"of-{one.name}") for one in (folder, path)]
    assert tokenizers[0].template == tokenizers[1].template
    assert tokenizers[0].special.items() <= tokenizers[1].special.items()
    assert tokenizers[1].special["mask_token"] == masks[0].text


@pytest.mark.slow
def test_a_quantised_copy_of_a_base_becomes_the_same_as_its_numbers(tmp_path: Path):
    """As compressed-tensors writes W4A16 of a Llama; what is made of it is no quantised copy."""
    base = random_llama(tmp_path / "base")
    copy = tmp_path / "copy"
    compressed_by_library(base, copy, "W4A16", ["lm_head"], group_size=32)
    mask = adapt(read_base(copy, "copy"), tmp_path / "adapted")
    theirs = LlamaForCausalLM.from_pretrained(copy, dtype=torch.float32).eval()
    assert_is_base(tmp_path / "adapted", mask, theirs)
    found = checkpoint.read(tmp_path / "adapted")
    assert found.quantised is None
    assert "quantization_config" not in json.loads((tmp_path / "adapted" / "config.json").read_text())


@pytest.mark.slow
def test_smollm2_becomes_a_diffusion_model_with_its_own_next_tokens(tmp_path: Path):
    """They are those of ``transformers``, which reads the GGUF file by itself; what it says is written down."""
    path = smollm2_path()
    mask = adapt(read_base(path, path.name), tmp_path)
    assert mask == Mask("<empty_output>", SMOLLM2_MASK, new=False)
    assert_published(measures(next_token_logits(tmp_path, smollm2_tokens()), mask.id), "smollm2")
    found = checkpoint.read(tmp_path)
    assert (found.config.canvas_length, found.defaults.end_token_ids) == (128, (2,))


@pytest.mark.parametrize(
    ("name", "words"),
    [("<eos>", "has a meaning"), ("the", "has a meaning"), ("", "the mask's name is empty")],
)
def test_a_token_with_a_meaning_is_no_mask(tmp_path: Path, name: str, words: str):
    base = read_base(random_llama(tmp_path / "base"), "base")
    with pytest.raises(CheckpointError, match=words):
        adapt(base, tmp_path / "out", mask_token=name)
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_adapted_is_named(tmp_path: Path, bundled: Any):
    with pytest.raises(CheckpointError, match=r"'DiffusionGemma.*cannot be adapted; those that can are 'LlamaFor"):
        read_base(checkpoint.find("sudoku"), "sudoku")
    base = random_llama(tmp_path / "base")
    with pytest.raises(CheckpointError, match="where the base lies"):
        adapt(read_base(base, "base"), base)
    broken = shutil.copytree(base, tmp_path / "broken")
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(CheckpointError, match=r"model\.layers\.2\..* is missing"):
        read_base(broken, "broken")
    (broken / "config.json").write_text(json.dumps({**config, "attention_bias": True}))
    with pytest.raises(CheckpointError, match="attention_bias"):
        read_base(broken, "broken")
