"""A GGUF file says what the folder says that it was made of: configuration, tensors, and with them every logit."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.initialization import no_init_weights

import redraft
from redraft.errors import CheckpointError
from redraft.formats import source
from redraft.formats.gguf.file import open_gguf
from redraft.models import checkpoint
from redraft.models.cache_folder import FOLDER
from redraft.models.diffusion_gemma.config import DiffusionGemmaConfig
from redraft.models.digest import tokenizer_digest, weights_digest
from redraft.models.packed_cache import load_packed
from redraft.models.tokenizer import ChatTokenizer
from tests.gguf_files import diffusion_gemma_gguf, llama_gguf, write_gguf
from tests.models.driving import denoise, encoded
from tests.random_checkpoint import LETTERS_SIZE, random_checkpoint
from tests.random_llama import random_llama

TOLERANCE: dict[str, Any] = {"atol": 1e-4, "rtol": 0}


def tensors_of(path: Path) -> dict[str, torch.Tensor]:
    stored = source.stored_tensors(path)
    with source.reading(stored) as tensor:
        return {name: tensor(name) for name in stored}


def llama_of(path: Path) -> LlamaForCausalLM:
    """``transformers``' model with the configuration and tensors that the file is read as."""
    # All weights are those of the file: drawing others takes longer than reading these.
    with no_init_weights():
        model = LlamaForCausalLM(LlamaConfig(**source.read_config(path)))
    missing, unexpected = model.load_state_dict(tensors_of(path), strict=False)
    assert set(missing) <= {"lm_head.weight"}
    assert not unexpected
    model.tie_weights()
    return model.eval()


@torch.no_grad()
def logits(model: Any, size: int, length: int = 24) -> torch.Tensor:
    tokens = torch.randint(0, size, (2, length), generator=torch.Generator().manual_seed(0))
    return model(tokens).logits


@pytest.mark.parametrize("tied", [True, False])
def test_a_llama_is_the_one_it_was_made_of(tmp_path: Path, tied: bool):
    folder = random_llama(tmp_path / "llama", tied=tied)
    path = llama_gguf(tmp_path / "llama.gguf", folder)
    theirs = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    torch.testing.assert_close(logits(llama_of(path), 64), logits(theirs, 64), **TOLERANCE)


def test_llama_31s_scaling_is_found_in_its_factors(tmp_path: Path):
    """The metadata does not have it: llama.cpp keeps what each frequency is divided by."""
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    rope = {**scaling, "original_max_position_embeddings": 8192, "rope_theta": 500_000.0}
    folder = random_llama(tmp_path / "llama", rope_parameters=rope, head_dim=64)
    theirs = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    plain = 500_000.0 ** (-torch.arange(0, 64, 2).double() / 64)
    factors = (plain / theirs.model.rotary_emb.inv_freq.double()).float()
    assert factors.max() > 7.9
    path = llama_gguf(tmp_path / "llama.gguf", folder, rope_factors=factors)
    assert source.read_config(path)["rope_parameters"] == rope
    torch.testing.assert_close(logits(llama_of(path), 64), logits(theirs, 64), **TOLERANCE)
    other = llama_gguf(tmp_path / "other.gguf", folder, rope_factors=factors.sqrt())
    with pytest.raises(CheckpointError, match=r"rope_freqs\.weight is not the scaling of Llama 3\.1"):
        open_gguf(other)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("llama.rope.dimension_count", 4, "a rotation of 4 of 8 dimensions"),
        ("llama.expert_count", 8, "mixture of experts"),
        ("llama.rope.scaling.type", "yarn", "'yarn' is not supported"),
    ],
)
def test_a_llama_that_is_none_of_ours_is_refused(tmp_path: Path, field: str, value: Any, words: str):
    fields = {
        "llama.block_count": 1, "llama.embedding_length": 16, "llama.attention.head_count": 2, field: value,
    }  # fmt: skip
    with pytest.raises(CheckpointError, match=words):
        open_gguf(write_gguf(tmp_path / "x.gguf", "llama", fields, {"token_embd.weight": torch.ones(4, 16)}))


@pytest.fixture(scope="module", params=[Kind.F32, Kind.Q8_0])
def diffusion(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder and the file made of it; what Q8_0 rounds, the folder has rounded already."""
    folder = random_checkpoint(
        tmp_path_factory.mktemp("gemma"), letters=True, vocab_size=LETTERS_SIZE + 3, moe_intermediate_size=32
    )
    path = diffusion_gemma_gguf(tmp_path_factory.mktemp("gguf") / "model.gguf", folder, request.param)
    if request.param == Kind.Q8_0:
        found = checkpoint.read(folder)
        with source.reading(source.stored_tensors(path)) as rounded:
            model = found.load("float32")
            names = {name: found.family.stored_name(name) for name in model.state_dict()}
            model.load_state_dict({name: rounded(stored) for name, stored in names.items()}, assign=True)
        checkpoint.save(model, folder, torch.float32)
    return folder, path


def test_a_diffusion_gemma_is_the_one_it_was_made_of(diffusion: tuple[Path, Path]):
    folder, path = (checkpoint.read(one) for one in diffusion)
    # Which tokens end a turn and stand for images, the file says by their published ids and names alone.
    known = ("end_token_ids", "boi_token_id", "eoi_token_id", "image_token_id")
    assert isinstance(path.config, DiffusionGemmaConfig)
    assert isinstance(folder.config, DiffusionGemmaConfig)
    assert path.config == replace(folder.config, **{name: getattr(path.config, name) for name in known})
    assert path.config.end_token_ids == (1, 106)
    assert path.defaults.end_token_ids == (1, 106, 50)
    assert set(path.tensors) == set(folder.tensors)
    assert not path.unused
    prompt, canvas = torch.arange(3, 40), torch.arange(20, 28)
    for dtype in ("float32", "int8"):
        a, b = (load_packed(one, dtype) for one in (folder, path))
        found = [model.logits(denoise(model, canvas, encoded(model, prompt))) for model in (a, b)]
        # What files store quantised is looked up in bfloat16 where the model does not compute in float32.
        exact = dtype == "float32" or path.quantised is None
        error = float((found[1] - found[0]).norm() / found[0].norm())
        assert error < (1e-5 if exact else 0.05), dtype


def test_a_file_is_loaded_asked_recorded_and_cached_as_a_folder_is(
    diffusion: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("redraft.models.packed_cache.CACHED_FROM", 0)
    _, path = diffusion
    found = checkpoint.read(path)
    with redraft.load(path, dtype="float32") as engine:
        runs = redraft.RecordingFolder(tmp_path / "runs")
        result = engine.generate([{"role": "user", "content": "the value"}], seed=3, max_tokens=8, record=runs)
        assert result.text
        (kept,) = runs.path.iterdir()
        recording = redraft.Recording.load(kept)
        assert redraft.replay(recording, engine).identical
    assert recording.model["weights"] == weights_digest(found)
    assert recording.model["tokenizer"] == tokenizer_digest(path)
    load_packed(found, "int8", cached_from=0)
    beside = path.parent / FOLDER / path.name
    assert [one.name.partition("-")[0] for one in beside.iterdir()] == ["int8"]
    other = path.with_name("other.gguf")
    other.write_bytes(path.read_bytes())
    load_packed(checkpoint.read(other), "int8", cached_from=0)
    assert {one.name for one in (path.parent / FOLDER).iterdir()} == {path.name, other.name}
    assert weights_digest(checkpoint.read(other)) != weights_digest(found), "a name is part of the digest"


def test_a_file_says_its_chat_template_and_its_own_tokens(diffusion: tuple[Path, Path]):
    folder, path = diffusion
    ours, theirs = ChatTokenizer.from_checkpoint(path), ChatTokenizer.from_checkpoint(folder)
    messages = [{"role": "user", "content": "yes"}]
    assert ours.template == theirs.template
    assert ours.decode_all(ours.encode_chat(messages)) == theirs.decode_all(theirs.encode_chat(messages))
    assert ours.vocab_size == theirs.vocab_size


def test_an_autoregressive_file_says_what_to_make_of_it(tmp_path: Path):
    path = llama_gguf(tmp_path / "llama.gguf", random_llama(tmp_path / "llama"))
    with pytest.raises(CheckpointError, match=r"llama\.gguf: .*autoregressive.*redraft adapt"):
        redraft.load(path)


def test_a_file_that_lacks_a_tensor_is_refused_by_its_published_name(tmp_path: Path, diffusion: tuple[Path, Path]):
    fields = {name: value for name, value in open_gguf(diffusion[1]).header.metadata.items() if "." in name}
    fields.pop("general.architecture")
    embedding = tensors_of(diffusion[1])["model.decoder.embed_tokens.weight"]
    path = write_gguf(tmp_path / "x.gguf", "diffusion-gemma", fields, {"token_embd.weight": embedding})
    with pytest.raises(CheckpointError, match=r"x\.gguf: tensor model\.decoder\..* is missing"):
        checkpoint.read(path)
