"""What is encoded is what the autoregressive Llama computes; a canvas sees all of itself, and its context but for the
token that is run again in front of it."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from redraft.kernels import bindings
from redraft.kernels.packed import FORMATS, Format
from redraft.loading import load
from redraft.models import checkpoint
from redraft.models.base import BlockDiffusionModel, Span
from redraft.models.llama_diffusion.config import LlamaDiffusionConfig
from redraft.models.llama_diffusion.model import LlamaDiffusion
from redraft.models.packed_cache import load_packed
from tests.models.driving import causal_rows, encode, encoded, fresh, kept
from tests.models.llama_diffusion.conftest import CONFIG, CONFIGS, write

TOLERANCE: dict[str, Any] = {"atol": 1e-4, "rtol": 0}
needs_kernels = pytest.mark.skipif(bindings.kernels() is None, reason="torch's products are not bit for bit by row")


def tokens(count: int, seed: int = 0) -> Tensor:
    return torch.randint(16, CONFIG.vocab_size - 1, (count,), generator=torch.Generator().manual_seed(seed))


def masked(count: int, seed: int = 0) -> Tensor:
    """A canvas half of which is unknown."""
    hidden = torch.rand(count, generator=torch.Generator().manual_seed(seed + 100)) < 0.5
    return torch.where(hidden, CONFIG.mask_token_id, tokens(count, seed))


def canvas_span(canvas: Tensor, cache: Any, before: Tensor) -> Span:
    return Span(torch.cat((before[-1:], canvas)), cache, "denoise", reread=1)


@torch.inference_mode()
def denoised(model: BlockDiffusionModel, canvas: Tensor, before: Tensor, chunk: int = 256) -> Tensor:
    """The hidden rows that say what stands at each position of a canvas behind a context."""
    (hidden,) = model.forward([canvas_span(canvas, encoded(model, before, chunk), before)])
    assert hidden is not None
    assert len(hidden) == len(canvas) + 1
    return hidden[:-1]


def oracle(folder: Path, config: LlamaDiffusionConfig) -> LlamaForCausalLM:
    """The same weights in ``transformers``; its eager attention would add a bool mask to the scores."""
    model = LlamaForCausalLM(LlamaConfig(**config.to_json(), attn_implementation="sdpa"))
    missing = model.load_state_dict(load_file(folder / "model.safetensors"), strict=False).missing_keys
    assert missing == (["lm_head.weight"] if config.tie_word_embeddings else [])
    return model.eval()


@torch.no_grad()
def expected_logits(model: LlamaForCausalLM, context: Tensor, canvas: Tensor) -> Tensor:
    """One pass: a causal context, then its last token again and a canvas, at their own positions under one mask."""
    n, c = len(context), len(canvas)
    mask = torch.ones(n + 1 + c, n + 1 + c).tril().bool()
    mask[n:, n:] = True
    mask[n:, n - 1] = False
    ids = torch.cat((context, context[-1:], canvas))
    positions = torch.cat((torch.arange(n), torch.arange(n - 1, n + c)))
    found = model(input_ids=ids[None], position_ids=positions[None], attention_mask=mask[None, None])
    return found.logits[0, n : n + c]


@torch.no_grad()
def test_the_autoregressive_mode_is_greedy_as_the_llama(tmp_path: Path) -> None:
    engine, theirs = load(write(tmp_path)), oracle(tmp_path, CONFIG)
    text = tokens(12).tolist()
    found = engine.generate(text, mode="autoregressive", temperature=0, max_tokens=10, ignore_eos=True)
    for token in found.token_ids:
        logits = theirs(input_ids=torch.tensor([text])).logits[0, -1]
        # Neither is text, nor an end that was asked for.
        logits[[CONFIG.mask_token_id, *CONFIG.end_token_ids]] = -torch.inf
        assert token == int(logits.argmax())
        text.append(token)


@torch.no_grad()
def test_what_is_encoded_reads_on_as_the_autoregressive_llama(both) -> None:
    """At once, and token by token behind a cached beginning."""
    ours, theirs = both
    text = tokens(20)
    expected = theirs(input_ids=text[None]).logits[0]
    torch.testing.assert_close(ours.logits(causal_rows(ours, text, fresh(ours))), expected, **TOLERANCE)
    cache = encoded(ours, text[:7])
    rows = [causal_rows(ours, token[None], cache) for token in text[7:]]
    torch.testing.assert_close(ours.logits(torch.cat(rows)), expected[7:], **TOLERANCE)


@pytest.fixture(scope="module", params=CONFIGS)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """Ours and theirs."""
    config = CONFIGS[request.param]
    folder = write(tmp_path_factory.mktemp("llama"), config)
    ours = checkpoint.read(folder).load("float32")
    assert isinstance(ours, LlamaDiffusion)
    return ours, oracle(folder, config)


@pytest.mark.parametrize("chunk", [1, 7, 256])
@pytest.mark.parametrize("length", [1, 2, 40])
def test_a_canvas_has_the_logits_of_the_same_weights_elsewhere(both, length: int, chunk: int):
    ours, theirs = both
    context, canvas = tokens(length), masked(24, seed=1)
    found = ours.logits(denoised(ours, canvas, context, chunk))
    torch.testing.assert_close(found, expected_logits(theirs, context, canvas), **TOLERANCE)


@torch.no_grad()
def test_as_an_encoder_it_is_the_autoregressive_model(both):
    ours, theirs = both
    row = tokens(30)
    causal = torch.ones(1, 30, 30).tril().bool()
    found = ours.logits(ours.rows(row[None], torch.arange(30)[None], causal))
    torch.testing.assert_close(found, theirs(input_ids=row[None]).logits, **TOLERANCE)
    expected = theirs(input_ids=row[None], use_cache=True).past_key_values
    for index, (keys, values) in enumerate(kept_layers(encoded(ours, row, 7), len(ours.layers))):
        # Theirs are not yet repeated for the heads of a group either.
        torch.testing.assert_close(keys, expected.layers[index].keys, **TOLERANCE)
        torch.testing.assert_close(values, expected.layers[index].values, **TOLERANCE)


def kept_layers(cache: Any, layers: int) -> list[tuple[Tensor, Tensor]]:
    found = []
    for index in range(layers):
        parts = cache.read(index)
        found.append((torch.cat([k for k, _ in parts], 2), torch.cat([v for _, v in parts], 2)))
    return found


def test_position_0_sees_the_whole_canvas_and_nothing_sees_the_cached_last_token(both):
    ours, _ = both
    context, canvas = tokens(9), masked(24, seed=1)
    changed = canvas.clone()
    changed[-1] = 20 if canvas[-1] != 20 else 21
    first, other = (ours.logits(denoised(ours, own, context))[0] for own in (canvas, changed))
    assert (first - other).abs().max() > 1e-3
    # A cache that ends in another token than the one that is run again gives the same.
    cache = encoded(ours, torch.cat((context[:-1], tokens(1, seed=8))))
    with torch.inference_mode():
        (hidden,) = ours.forward([canvas_span(canvas, cache, context)])
    assert hidden is not None
    torch.testing.assert_close(hidden[:-1], denoised(ours, canvas, context))


def test_rows_of_training_are_spans_of_serving(both):
    ours, _ = both
    context, canvas, n = tokens(13), masked(24, seed=1), 13
    ids = torch.cat((context, context[-1:], canvas))
    positions = torch.cat((torch.arange(n), torch.arange(n - 1, n + 24)))
    mask = torch.ones(n + 25, n + 25).tril().bool()
    mask[n:, n:], mask[n:, n - 1] = True, False
    with torch.no_grad():
        hidden = ours.rows(ids[None], positions[None], mask[None])[0, n:-1]
    torch.testing.assert_close(ours.logits(hidden), ours.logits(denoised(ours, canvas, context)), **TOLERANCE)


def test_a_commit_shares_a_forward_with_the_canvas_after_it_and_with_others(both):
    ours, theirs = both
    prompt, first, second, other = tokens(9), tokens(24, seed=1), masked(24, seed=2), tokens(30, seed=5)
    cache, beside_cache = encoded(ours, prompt), encoded(ours, other)
    with torch.inference_mode():
        committed, after, beside = ours.forward(
            [
                Span(first, cache, "encode"),
                canvas_span(second, cache, first),
                canvas_span(masked(11, seed=3), beside_cache, other),
            ]
        )
    assert committed is None
    for hidden, context, canvas in (
        (after, torch.cat((prompt, first)), second),
        (beside, other, masked(11, seed=3)),
    ):
        assert hidden is not None
        found = ours.logits(hidden[:-1])
        torch.testing.assert_close(found, expected_logits(theirs, context, canvas), **TOLERANCE)


def test_without_a_context_there_is_no_token_to_run_again(tiny: Path):
    model = checkpoint.read(tiny).load("float32")
    with pytest.raises(ValueError, match="1 tokens to read again of a context of 0"):
        model.forward([Span(tokens(5), encoded(model, tokens(0)), "denoise", reread=1)])


# Of the logits, by root mean squares, as in the tests of the toy family.
RELATIVE_ERROR = {"float32": 2e-6, "bfloat16": 0.01, "int8": 0.035, "int4": 0.27}


@pytest.mark.parametrize("without", [False, True], ids=["kernels", "torch"])
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("format", FORMATS)
def test_packed_weights_give_the_plain_models_logits(
    tmp_path: Path, format: Format, name: str, without: bool, monkeypatch: pytest.MonkeyPatch
):
    if without:
        monkeypatch.setattr(bindings, "kernels", lambda: None)
    found, canvas = checkpoint.read(write(tmp_path, CONFIGS[name])), masked(24, seed=1)
    model, plain = load_packed(found, format), found.load("float32")
    # On both sides of the border of a block, whose last position the canvas must not see.
    for length in (1, 128, 129, 140):
        ours, theirs = (denoised(one, canvas, tokens(length)) for one in (model, plain))
        exact = plain.logits(theirs)
        error = (model.logits(ours) - exact).square().mean() / exact.square().mean()
        assert error.sqrt() < RELATIVE_ERROR[format]


@needs_kernels
@pytest.mark.parametrize("format", FORMATS)
def test_on_the_kernels_nobody_notices_who_shares_a_forward(tiny: Path, format: Format):
    model = load_packed(checkpoint.read(tiny), format)
    before = {length: tokens(length, seed=length) for length in (1, 9, 140)}
    contexts = [encoded(model, own) for own in before.values()]
    alone = [encoded(model, own) for own in before.values()]
    committed, second = tokens(24, seed=1), masked(24, seed=2)
    with torch.inference_mode():
        _, after, beside, _ = model.forward(
            [
                Span(committed, contexts[0], "encode"),
                canvas_span(second, contexts[0], committed),
                canvas_span(masked(11, seed=3), contexts[1], before[9]),
                Span(tokens(30, seed=4), contexts[2], "encode"),
            ]
        )
        (own,) = model.forward([canvas_span(masked(11, seed=3), alone[1], before[9])])
        encode(model, committed, alone[0], chunk=7)
        (following,) = model.forward([canvas_span(second, alone[0], committed)])
    assert after is not None
    assert beside is not None
    assert own is not None
    assert following is not None
    assert torch.equal(after, following)
    assert torch.equal(beside, own)
    encode(model, tokens(30, seed=4), alone[2], chunk=7)
    for one, other in zip(contexts, alone, strict=True):
        for ours, theirs in zip(
            kept(one, CONFIG.num_hidden_layers), kept(other, CONFIG.num_hidden_layers), strict=True
        ):
            assert torch.equal(ours, theirs)


def test_a_file_may_have_the_tied_head_once_more(tiny: Path, tmp_path: Path):
    folder = Path(shutil.copytree(tiny, tmp_path / "copy"))
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, folder / "model.safetensors")
    assert checkpoint.read(folder).unused.keys() == {"lm_head.weight"}


def test_what_is_saved_is_what_was_loaded(tiny: Path, tmp_path: Path):
    found = checkpoint.read(tiny)
    checkpoint.save(found.load("float32"), tmp_path, torch.float32)
    again = checkpoint.read(tmp_path)
    assert (again.config, again.defaults, again.tensors.keys()) == (found.config, found.defaults, found.tensors.keys())
    stored, written = (load_file(folder / "model.safetensors") for folder in (tiny, tmp_path))
    assert all(torch.equal(stored[name], written[name]) for name in stored)
