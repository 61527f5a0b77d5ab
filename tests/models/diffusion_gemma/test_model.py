"""The model and the canvas process against ``transformers``, step by step on the same canvases."""

from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import DiffusionGemmaForBlockDiffusion, DynamicCache
from transformers.models.diffusion_gemma.generation_diffusion_gemma import (
    EntropyBoundSampler,
    EntropyBoundSamplerConfig,
    LinearTemperatureScheduleLogitsProcessor,
    StableAndConfidentStoppingCriteria,
)

from redraft.canvas.random import PositionRandom
from redraft.layers.attention import Segment, attention
from redraft.models import checkpoint
from redraft.models.checkpoint import Checkpoint
from redraft.models.diffusion_gemma.model import DiffusionGemma
from redraft.models.packed_cache import load_packed
from redraft.models.spans import visible
from tests.models.driving import Step, causal_rows, denoise, encoded, fresh, run
from tests.random_checkpoint import random_checkpoint, reference_model

SLIDING, FULL = "sliding_attention", "full_attention"
TOLERANCE = 1e-4

# Name: (checkpoint, prompt tokens, prefill chunk). Contexts shorter and longer than the window, several canvases each.
CASES: dict[str, tuple[dict[str, Any], int, int]] = {
    "shorter than the window": ({"sliding_window": 64}, 5, 256),
    "longer than the window": ({"sliding_window": 8}, 30, 256),
    "chunks of one token": ({"sliding_window": 8}, 19, 1),
    "chunks across the window": ({"sliding_window": 8}, 30, 7),
    "window shorter than the canvas": ({"sliding_window": 4, "canvas_length": 12}, 9, 5),
    "other dialect": ({"dialect": "global_head_dim", "sliding_window": 8}, 21, 4),
    "full layers only": ({"layer_types": (FULL, FULL)}, 11, 3),
    "six layers, one KV head": (
        {"layer_types": (SLIDING,) * 5 + (FULL,), "num_key_value_heads": 1, "num_global_key_value_heads": 2, "seed": 2},
        17,
        6,
    ),
    "every expert active": ({"num_experts": 3, "top_k": 3, "seed": 1}, 13, 8),
    "one of many experts": ({"num_experts": 16, "top_k": 1, "vocab_size": 200, "seed": 0}, 13, 8),
    "vocabulary of several tiles": ({"vocab_size": 5001, "seed": 5}, 10, 256),
}
# Random models are unsure; a low temperature lets their argmax settle, and the threshold leaves stopping to that.
GENERATION: dict[str, Any] = {
    "max_denoising_steps": 12,
    "sampler_config": {"_cls_name": "EntropyBoundSamplerConfig", "entropy_bound": 3.0},
    "confidence_threshold": 100.0,
    "stability_threshold": 1,
    "t_max": 0.4,
    "t_min": 0.2,
}


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Checkpoint, Any]]:
    """The checkpoint of a case, and the reference that has loaded it."""

    @cache
    def made(name: str) -> tuple[Checkpoint, Any]:
        folder = tmp_path_factory.mktemp("case")
        random_checkpoint(folder, generation=GENERATION, query_scale=0.03, **CASES[name][0])
        return checkpoint.read(folder), reference_model(folder)

    return made


@pytest.mark.parametrize("path", ["plain", "kernels"])
@pytest.mark.parametrize("name", CASES)
def test_every_step_equals_the_reference(name: str, path: str, case: Callable[[str], tuple[Checkpoint, Any]]) -> None:
    """Logits and entropies within 1e-4; argmax, accepted positions and the step at which a canvas stops are equal."""
    _, prompt_length, chunk = CASES[name]
    found, reference = case(name)
    model = found.load("float32") if path == "plain" else load_packed(found, "float32")
    vocab = model.config.vocab_size
    prompt = torch.randint(16, vocab, (prompt_length,), generator=torch.Generator().manual_seed(1)).tolist()

    cache = DynamicCache(config=reference.config.get_text_config(decoder=True))
    context, stops = torch.tensor([prompt]), []
    for steps in run(model, prompt, canvases=3, chunk=chunk):
        with torch.no_grad():
            reference.model.encoder(input_ids=context, past_key_values=cache)
        stops.append(compare_canvas(reference, cache, steps))
        context = steps[-1].outcome.committed[None]
    assert len(stops) == 3
    assert any(stops), "no canvas stopped early: the stopping rule was not put to the test"


@pytest.mark.parametrize("path", ["plain", "kernels"])
@pytest.mark.parametrize("name", ["chunks across the window", "other dialect", "six layers, one KV head"])
def test_the_causal_mode_is_the_references_encoder_and_head(
    name: str, path: str, case: Callable[[str], tuple[Checkpoint, Any]]
) -> None:
    """In one forward, and token by token behind a cached beginning; some rows wanted, or all."""
    _, length, chunk = CASES[name]
    found, reference = case(name)
    model = found.load("float32") if path == "plain" else load_packed(found, "float32")
    tokens = torch.randint(16, model.config.vocab_size, (length,), generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        states = reference.model.encoder(input_ids=tokens[None]).last_hidden_state
        cap = reference.config.get_text_config(decoder=True).final_logit_softcapping
        expected = cap * torch.tanh(reference.lm_head(states)[0].float() / cap)
    whole, last = (causal_rows(model, tokens, fresh(model), wanted) for wanted in (length, 3))
    cache = encoded(model, tokens[:chunk])
    by_token = [causal_rows(model, token[None], cache) for token in tokens[chunk:]]
    torch.testing.assert_close(model.logits(whole), expected, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(model.logits(torch.cat(by_token)), expected[chunk:], atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(model.logits(last), expected[-3:], atol=TOLERANCE, rtol=0)


def compare_canvas(reference: DiffusionGemmaForBlockDiffusion, cache: DynamicCache, steps: list[Step]) -> bool:
    """Drive the reference along the canvases that our run saw; returns whether it stopped before the step limit."""
    limit = GENERATION["max_denoising_steps"]
    length, vocab = steps[0].logits.shape
    temper = LinearTemperatureScheduleLogitsProcessor(GENERATION["t_min"], GENERATION["t_max"], limit)
    bound = GENERATION["sampler_config"]["entropy_bound"]
    sampler = EntropyBoundSampler(EntropyBoundSamplerConfig(bound), length, vocab, limit)
    stopping = StableAndConfidentStoppingCriteria(GENERATION["stability_threshold"], GENERATION["confidence_threshold"])
    believed = None
    for own in steps:
        with torch.no_grad():
            raw = reference(
                decoder_input_ids=own.tokens[None], past_key_values=cache, self_conditioning_logits=believed
            ).logits
        left = limit - own.number + 1  # the reference counts down
        processed = temper(None, raw, left)
        # 1e-4 at the temperatures that checkpoints have; dividing by a lower one enlarges rounding in proportion.
        tolerance = TOLERANCE * max(1.0, 0.4 / own.temperature)
        torch.testing.assert_close(own.logits, processed[0], atol=tolerance, rtol=0)
        assert torch.equal(own.readout.argmax, processed[0].argmax(-1))
        entropy = torch.distributions.Categorical(logits=processed[0]).entropy()
        torch.testing.assert_close(own.readout.entropy, entropy, atol=TOLERANCE, rtol=0)
        sampler.accept_canvas(own.tokens[None], own.readout.sample[None], processed, left)
        assert torch.equal(own.outcome.accepted, sampler.accepted_token_mask[0])
        assert own.finished == bool(stopping(own.readout.argmax[None], processed))
        believed = processed
    assert torch.equal(steps[-1].outcome.committed, steps[-1].readout.argmax)
    return steps[-1].finished and steps[-1].number < limit


def test_the_canvas_of_the_next_step_is_samples_where_accepted_and_noise_elsewhere(tmp_path: Path) -> None:
    model = checkpoint.read(random_checkpoint(tmp_path, generation=GENERATION)).load()
    for steps in run(model, [20, 21, 22], canvases=2):
        for before, after in pairwise(steps):
            accepted = before.outcome.accepted
            assert torch.equal(after.tokens[accepted], before.readout.sample[accepted])
            noise = PositionRandom(3, before.canvas, GENERATION["max_denoising_steps"] - before.number + 1, 8).noise
            assert torch.equal(after.tokens[~accepted], (noise * model.config.vocab_size).long()[~accepted])


@pytest.mark.parametrize("chunk", [1, 2, 7, 8, 9, 15, 16, 64])
def test_prefill_does_not_depend_on_the_chunk_size(tmp_path: Path, chunk: int) -> None:
    """Around the window of 8, where a chunk-wise mask goes wrong first."""
    model = checkpoint.read(random_checkpoint(tmp_path, sliding_window=8)).load("float32")
    tokens = torch.randint(16, 64, (37,), generator=torch.Generator().manual_seed(2))
    canvas = torch.arange(20, 28)
    whole = denoise(model, canvas, encoded(model, tokens))
    torch.testing.assert_close(denoise(model, canvas, encoded(model, tokens, chunk)), whole, atol=1e-5, rtol=0)


def plain(found: checkpoint.Checkpoint, **options: object) -> DiffusionGemma:
    model = found.load("float32", options)
    assert isinstance(model, DiffusionGemma)
    return model


@torch.inference_mode()
def test_the_per_query_window_slides_along_the_canvas(tmp_path: Path) -> None:
    """Independent computation: with the window on one sliding layer, each position alone, on a cache cut to its window.

    A first layer's keys do not depend on what came before them, so that a shorter context at the right positions
    must give the same as a mask.
    """
    folder = random_checkpoint(tmp_path, layer_types=(SLIDING, FULL), sliding_window=8)
    found = checkpoint.read(folder)
    per_query, shared = (plain(found, window_policy=policy) for policy in ("per_query", "shared"))
    tokens = torch.randint(16, 64, (30,), generator=torch.Generator().manual_seed(4))
    canvas = torch.arange(20, 28)
    layer, spec = per_query.layers[0], per_query.config.layers[0]
    cache = encoded(per_query, tokens)
    x = per_query.self_conditioning(per_query.embed(canvas), None)
    cosines, sines = per_query.rope(30, 8)[spec]
    projected = layer.project(x, (cosines[:, None], sines[:, None]))
    queries, own_keys, own_values = (part.transpose(0, 1)[None] for part in projected)
    keys, values = (torch.cat(parts, dim=2) for parts in zip(*cache.read(0), strict=True))
    own = Segment(own_keys, own_values)
    together = attention(queries, [*visible(cache.read(0), 30, 30, 8, window=8), own])
    for position in range(8):
        # Position p sees the cache from 30 + p - 7 on; of the seven kept tokens the last 7 - p.
        seen = 7 - position
        cut = [] if seen == 0 else [Segment(keys[:, :, -seen:], values[:, :, -seen:])]
        alone = attention(queries, [*cut, own])
        torch.testing.assert_close(together[:, position], alone[:, position], atol=1e-5, rtol=0)
    slid, fixed = (denoise(model, canvas, encoded(model, tokens)) for model in (per_query, shared))
    assert not torch.allclose(slid, fixed, atol=1e-3)
    # The whole forward is what those parts say: the first layer, then the full one, which has no window.
    gathered = layer.finish(x, together[0], layer.layer_scalar)
    last, full = per_query.layers[1], per_query.config.layers[1]
    cosines, sines = per_query.rope(30, 8)[full]
    projected = last.project(gathered, (cosines[:, None], sines[:, None]))
    queries, own_keys, own_values = (part.transpose(0, 1)[None] for part in projected)
    context = attention(queries, [*(Segment(k, v) for k, v in cache.read(1)), Segment(own_keys, own_values)])
    expected = per_query.norm(last.finish(gathered, context[0], last.layer_scalar))
    torch.testing.assert_close(slid, expected, atol=1e-5, rtol=0)


def test_a_canvas_starts_without_the_soft_embedding_of_the_one_before(tmp_path: Path) -> None:
    """Self-conditioning is reset: the first step of every canvas equals a step that was never given any."""
    model = checkpoint.read(random_checkpoint(tmp_path, generation=GENERATION)).load("float32")
    committed = torch.tensor([20, 21, 22])
    for steps in run(model, committed.tolist(), canvases=2):
        first = steps[0]
        hidden = denoise(model, first.tokens, encoded(model, committed))
        torch.testing.assert_close(model.logits(hidden) / first.temperature, first.logits, atol=TOLERANCE, rtol=0)
        committed = torch.cat((committed, steps[-1].outcome.committed))


def test_the_router_reads_the_raw_residual_and_full_layers_have_no_values_of_their_own(tmp_path: Path) -> None:
    """Router on the normed state and an invented V projection are how others served this model wrong."""
    model = plain(checkpoint.read(random_checkpoint(tmp_path)))
    seen: dict[str, torch.Tensor] = {}
    model.layers[0].router.register_forward_pre_hook(lambda _, inputs: seen.update(router=inputs[0]))
    model.layers[0].pre_feedforward_layernorm.register_forward_pre_hook(lambda _, inputs: seen.update(x=inputs[0]))
    denoise(model, torch.arange(20, 28), fresh(model))
    assert torch.equal(seen["router"], seen["x"])
    assert [layer.self_attn.v_proj is None for layer in model.layers] == [False, False, True]


def test_bfloat16_weights_keep_the_residual_stream_in_float32(tmp_path: Path) -> None:
    """Closer to the float32 model than the reference's own bfloat16 is."""
    folder = random_checkpoint(tmp_path, layer_types=(SLIDING,) * 5 + (FULL,))
    model = checkpoint.read(folder).load("bfloat16")
    exact, reference = reference_model(folder), reference_model(folder, torch.bfloat16)
    prompt, canvas = torch.arange(20, 33)[None], torch.arange(40, 48)[None]
    hidden = denoise(model, canvas[0], encoded(model, prompt[0]))
    with torch.no_grad():
        truth = exact(input_ids=prompt, decoder_input_ids=canvas).logits
        theirs = reference(input_ids=prompt, decoder_input_ids=canvas).logits
    assert hidden.dtype == torch.float32
    assert (model.logits(hidden)[None] - truth).square().mean() < (theirs - truth).square().mean()
