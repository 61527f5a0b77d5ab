"""A family of another kind, in a folder of its own: loaded, computed, described and counted by what knows no family."""

import json
import re
import shutil
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM

import redraft
from redraft.canvas.acceptance import ConfidenceThreshold
from redraft.cli.info import describe
from redraft.errors import CheckpointError
from redraft.kernels import bindings
from redraft.kernels.packed import FORMATS, Format
from redraft.models import checkpoint, registry
from redraft.models.base import Span
from redraft.models.digest import weights_digest
from redraft.models.packed_cache import load_packed
from redraft.models.registry import family_of
from redraft.models.sizing import kv_bytes_per_token, parameters, part_bytes
from tests.models.driving import commit_and_denoise, denoise, encode, encoded, fresh, kept, read, run
from tests.models.toy.config import ARCHITECTURE
from tests.models.toy.conftest import CONFIG, write
from tests.models.toy.model import Inkwell

TOLERANCE = 1e-4
CLOSE: dict[str, Any] = {"rtol": 2e-3, "atol": 1e-5}
needs_kernels = pytest.mark.skipif(bindings.kernels() is None, reason="torch's products are not bit for bit by row")


def tokens(count: int, seed: int = 0) -> Tensor:
    return torch.randint(16, CONFIG.vocab_size, (count,), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def oracle(inkwell: Path) -> Qwen2ForCausalLM:
    """The same weights in an architecture of ``transformers`` that computes the same, by names of its own."""
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=CONFIG.vocab_size,
            hidden_size=CONFIG.width,
            intermediate_size=CONFIG.inner_width,
            num_hidden_layers=CONFIG.depth,
            num_attention_heads=CONFIG.heads,
            num_key_value_heads=CONFIG.kv_heads,
            max_position_embeddings=CONFIG.context_length,
            rope_theta=CONFIG.rope_theta,
            rms_norm_eps=CONFIG.norm_eps,
            tie_word_embeddings=False,
            # Its eager attention would add a bool mask to the scores.
            attn_implementation="sdpa",
        )
    )
    stored, state = load_file(inkwell / "model.safetensors"), {}
    inner = {
        "ln_a": "input_layernorm",
        "ln_m": "post_attention_layernorm",
        **{f"att.{a}": f"self_attn.{b}_proj" for a, b in (("q", "q"), ("k", "k"), ("v", "v"), ("mix", "o"))},
        **{f"ffn.{a}": f"mlp.{b}_proj" for a, b in (("g", "gate"), ("u", "up"), ("d", "down"))},
    }
    for name, value in stored.items():
        if found := re.fullmatch(r"blocks\.(\d+)\.(.*)\.(weight|bias)", name):
            state[f"model.layers.{found[1]}.{inner[found[2]]}.{found[3]}"] = value
    outer = {"tok": "model.embed_tokens.weight", "ln_f": "model.norm.weight", "unembed": "lm_head.weight"}
    state |= {theirs: stored[name] for name, theirs in outer.items()}
    model.load_state_dict(state)
    return model.eval()


@torch.no_grad()
def expected_logits(oracle: Qwen2ForCausalLM, prompt: Tensor, canvas: Tensor) -> Tensor:
    """A causal prompt, and a canvas that sees it and itself: one pass under one mask."""
    whole = len(prompt) + len(canvas)
    mask = torch.ones(whole, whole).tril().bool()
    mask[len(prompt) :, len(prompt) :] = True
    return oracle(input_ids=torch.cat((prompt, canvas))[None], attention_mask=mask[None, None]).logits[0, len(prompt) :]


@pytest.mark.parametrize("chunk", [1, 7, 256])
@pytest.mark.parametrize("length", [0, 1, 40])
def test_logits_are_those_of_the_same_weights_elsewhere(inkwell: Path, oracle, length: int, chunk: int):
    model, canvas = checkpoint.read(inkwell).load("float32"), tokens(24, seed=1)
    ours = model.logits(denoise(model, canvas, encoded(model, tokens(length), chunk)))
    expected = expected_logits(oracle, tokens(length), canvas)
    torch.testing.assert_close(ours, expected, atol=TOLERANCE, rtol=0)


def test_a_commit_shares_a_forward_with_the_canvas_after_it_and_with_others(inkwell: Path, oracle):
    model = checkpoint.read(inkwell).load("float32")
    cache, other = encoded(model, tokens(9)), encoded(model, tokens(30, seed=5))
    with torch.inference_mode():
        committed, after, beside = model.forward(
            [
                Span(tokens(24, seed=1), cache, "encode"),
                Span(tokens(24, seed=2), cache, "denoise"),
                Span(tokens(11, seed=3), other, "denoise"),
            ]
        )
    assert committed is None
    context = torch.cat((tokens(9), tokens(24, seed=1)))
    for hidden, prompt, canvas in (
        (after, context, tokens(24, seed=2)),
        (beside, tokens(30, seed=5), tokens(11, seed=3)),
    ):
        assert hidden is not None
        torch.testing.assert_close(
            model.logits(hidden), expected_logits(oracle, prompt, canvas), atol=TOLERANCE, rtol=0
        )


def test_a_readout_is_that_of_the_logits_and_has_no_self_conditioning(inkwell: Path):
    model = checkpoint.read(inkwell).load("float32")
    hidden = denoise(model, tokens(24), fresh(model))
    logp = (model.logits(hidden) / 0.7).log_softmax(-1)
    readout = read(model, hidden, 0.7, top=3)
    torch.testing.assert_close(readout.top_logprobs, logp.topk(3).values, atol=1e-4, rtol=0)
    torch.testing.assert_close(readout.entropy, -(logp.exp() * logp).sum(-1), atol=1e-4, rtol=0)
    assert readout.self_conditioning is None


def test_canvases_fill_in_masks_and_a_revealed_token_stays(inkwell: Path):
    model = checkpoint.read(inkwell).load("float32")
    for steps in run(model, tokens(9).tolist(), canvases=2):
        assert (steps[0].tokens == CONFIG.mask_id).all()
        for before, after in pairwise(steps):
            revealed = before.tokens != CONFIG.mask_id
            assert torch.equal(after.tokens[revealed], before.tokens[revealed])
            surest = before.readout.confidence.masked_fill(revealed, -1).argmax()
            sure = (before.readout.confidence >= 0.5) & ~revealed
            sure[surest] = True
            shown = before.readout.sample[sure]
            assert torch.equal(after.tokens[sure], shown)
            assert (after.tokens != CONFIG.mask_id).sum() == revealed.sum() + (shown != CONFIG.mask_id).sum()
        assert steps[-1].finished or steps[-1].number == 12


# Of the logits, by root mean squares. Over four seeds it was 4.5e-7, 0.005, 0.022 and 0.18 at most.
RELATIVE_ERROR = {"float32": 2e-6, "bfloat16": 0.008, "int8": 0.035, "int4": 0.27}


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("without", [False, True], ids=["kernels", "torch"])
@pytest.mark.parametrize("format", FORMATS)
def test_packed_weights_give_the_plain_models_logits(
    tmp_path: Path, format: Format, without: bool, seed: int, monkeypatch: pytest.MonkeyPatch
):
    if without:
        monkeypatch.setattr(bindings, "kernels", lambda: None)
    found, canvas = checkpoint.read(write(tmp_path, seed)), tokens(24, seed=1)
    model, plain = load_packed(found, format), found.load("float32")
    ours, theirs = (denoise(one, canvas, encoded(one, tokens(140))) for one in (model, plain))
    exact = plain.logits(theirs)
    error = (model.logits(ours) - exact).square().mean() / exact.square().mean()
    assert error.sqrt() < RELATIVE_ERROR[format]
    logp = (model.logits(ours) / 0.7).log_softmax(-1)
    readout = read(model, ours, 0.7, top=3)
    torch.testing.assert_close(readout.top_logprobs, logp.topk(3).values, atol=1e-3, rtol=0)
    assert readout.self_conditioning is None
    chosen = readout.sample
    torch.testing.assert_close(readout.probability(chosen), logp.exp().gather(1, chosen[:, None])[:, 0], **CLOSE)


@needs_kernels
@pytest.mark.parametrize("format", FORMATS)
def test_on_the_kernels_nobody_notices_who_shares_a_forward(inkwell: Path, format: Format):
    model = load_packed(checkpoint.read(inkwell), format)
    contexts = [encoded(model, tokens(length, seed=length)) for length in (1, 9, 140)]
    alone = [encoded(model, tokens(length, seed=length)) for length in (1, 9, 140)]
    with torch.inference_mode():
        _, after, beside, _ = model.forward(
            [
                Span(tokens(24, seed=1), contexts[0], "encode"),
                Span(tokens(24, seed=2), contexts[0], "denoise"),
                Span(tokens(11, seed=3), contexts[1], "denoise"),
                Span(tokens(30, seed=4), contexts[2], "encode"),
            ]
        )
    assert after is not None
    assert beside is not None
    assert torch.equal(after, commit_and_denoise(model, tokens(24, seed=1), tokens(24, seed=2), alone[0]))
    assert torch.equal(beside, denoise(model, tokens(11, seed=3), alone[1]))
    encode(model, tokens(30, seed=4), alone[2], chunk=7)
    for one, other in zip(contexts, alone, strict=True):
        for ours, theirs in zip(kept(one, CONFIG.depth), kept(other, CONFIG.depth), strict=True):
            assert torch.equal(ours, theirs)


class TestCheckpoint:
    def test_defaults_are_read_by_the_family(self, inkwell: Path):
        defaults = checkpoint.read(inkwell).defaults
        assert defaults.acceptance_rule == ConfidenceThreshold(0.5)
        assert (defaults.max_denoising_steps, defaults.end_token_ids, defaults.t_max) == (12, (CONFIG.end_id,), 1.0)

    def test_what_is_saved_is_what_was_loaded(self, inkwell: Path, tmp_path: Path):
        found = checkpoint.read(inkwell)
        model = found.load("float32")
        checkpoint.save(model, tmp_path, torch.float32)
        again = checkpoint.read(tmp_path)
        assert (again.config, again.defaults, again.tensors.keys()) == (
            found.config,
            found.defaults,
            found.tensors.keys(),
        )
        stored, written = (load_file(folder / "model.safetensors") for folder in (inkwell, tmp_path))
        assert all(torch.equal(stored[name], written[name]) for name in stored)

    def test_damage_is_named_in_the_words_of_its_files(self, inkwell: Path, tmp_path: Path):
        folder = Path(shutil.copytree(inkwell, tmp_path / "copy"))
        tensors = load_file(folder / "model.safetensors")
        del tensors["blocks.1.att.q.bias"]
        save_file(tensors, folder / "model.safetensors")
        with pytest.raises(CheckpointError, match=r"tensor blocks\.1\.att\.q\.bias is missing"):
            checkpoint.read(folder)
        raw = json.loads((folder / "config.json").read_text())
        for change, words in (({"depth": "three"}, "depth = 'three'"), ({"width": None}, "width = None")):
            (folder / "config.json").write_text(json.dumps({**raw, **change}))
            with pytest.raises(CheckpointError, match=words):
                checkpoint.read(folder)
        del raw["mask_id"]
        (folder / "config.json").write_text(json.dumps(raw))
        with pytest.raises(CheckpointError, match="'mask_id'"):
            checkpoint.read(folder)

    def test_a_default_that_makes_no_sense_names_its_file(self, inkwell: Path, tmp_path: Path):
        folder = Path(shutil.copytree(inkwell, tmp_path / "copy"))
        (folder / "generation_config.json").write_text('{"threshold": 2}')
        with pytest.raises(CheckpointError, match=r"generation_config\.json: confidence threshold 2"):
            checkpoint.read(folder)

    def test_what_the_family_has_no_use_for_is_listed(self, inkwell: Path, tmp_path: Path):
        folder = Path(shutil.copytree(inkwell, tmp_path / "copy"))
        tensors = load_file(folder / "model.safetensors") | {"draft.weight": torch.zeros(3)}
        save_file(tensors, folder / "model.safetensors")
        found = checkpoint.read(folder)
        assert found.unused.keys() == {"draft.weight"}
        assert describe(found)["not supported"] == {"draft head tensors, not loaded": 1}

    def test_an_option_of_another_family_is_refused(self, inkwell: Path):
        words = "Inkwell has no option 'window_policy' .*'per_query'.*it has none"
        with pytest.raises(CheckpointError, match=words):
            redraft.load(inkwell, window_policy="per_query")

    def test_without_its_line_the_architecture_is_not_known(self, inkwell: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.delitem(registry.FAMILIES, ARCHITECTURE)
        with pytest.raises(CheckpointError, match=f"config.json: architecture '{ARCHITECTURE}' is not supported"):
            checkpoint.read(inkwell)

    def test_other_weights_have_another_digest(self, inkwell: Path, tmp_path: Path):
        same, other = write(tmp_path / "same"), write(tmp_path / "other", seed=1)
        digests = [weights_digest(checkpoint.read(folder)) for folder in (inkwell, same, other)]
        assert digests[0] == digests[1] != digests[2]


class TestDescription:
    def test_parameters_and_bytes_are_those_of_the_files(self, inkwell: Path):
        found = checkpoint.read(inkwell)
        count = sum(value.numel() for value in load_file(inkwell / "model.safetensors").values())
        assert parameters(found) == (count, count)
        sizes = part_bytes(found, "float32")
        assert sum(sizes.values()) == 4 * count
        assert sizes["embedding and head"] == 4 * 2 * CONFIG.vocab_size * CONFIG.width
        assert set(sizes) == {"embedding and head", "attention", "feed-forward", "norms"}
        matrices = sum(prod(t.shape) for t in found.tensors.values() if len(t.shape) == 2)
        assert sum(part_bytes(found, "int8").values()) == matrices + 4 * (count - matrices)

    def test_the_cache_has_no_layer_with_a_window(self, inkwell: Path):
        found = checkpoint.read(inkwell)
        assert kv_bytes_per_token(found) == (0, CONFIG.depth * 2 * CONFIG.kv_heads * CONFIG.head_dim * 4)

    def test_info(self, inkwell: Path):
        facts = describe(checkpoint.read(inkwell))
        assert facts["checkpoint"]["architecture"] == ARCHITECTURE
        assert facts["model"]["layers"] == CONFIG.depth
        assert facts["model"]["heads"] == "6; keys and values 2 x 16"
        assert "experts" not in facts["model"]
        said = "positions whose likeliest token has probability 0.5 or more, and always the surest"
        assert facts["sampling defaults"]["accepts"] == said
        assert facts["sampling defaults"]["stops when"] == "every position has its token"
        assert set(facts["keys and values in memory"]) == {"full layers, per token"}
        assert "not supported" not in facts


def test_it_is_known_by_one_line_alone():
    """No file of the package names the family, and the registry finds it by the line that the tests add."""
    assert isinstance(family_of(ARCHITECTURE).build(CONFIG, {}), Inkwell)
    sources = [
        path for path in Path(redraft.__file__).parent.rglob("*") if path.suffix in (".py", ".cpp", ".h", ".inc")
    ]
    assert len(sources) > 100
    assert not [path for path in sources if "inkwell" in path.read_text(encoding="utf-8").lower()]
