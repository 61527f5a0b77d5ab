"""The model and the canvas process against ``transformers``, step by step on the same canvases."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
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

from redraft.api import Engine
from redraft.engine.memory import KVPool, PooledCache
from redraft.engine.result import StepEvent
from redraft.layers.attention import Segment
from redraft.loading import load
from redraft.models import checkpoint
from redraft.models.diffusion_gemma.model import DiffusionGemma, visible
from redraft.models.packed_cache import load_packed
from redraft.models.tokenizer import ChatTokenizer
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
GENERATION = {
    "max_denoising_steps": 12,
    "sampler_config": {"_cls_name": "EntropyBoundSamplerConfig", "entropy_bound": 3.0},
    "confidence_threshold": 100.0,
    "stability_threshold": 1,
    "t_max": 0.4,
    "t_min": 0.2,
}


@dataclass
class Recorded:
    """What our engine did: an event a step, and the processed logits behind it."""

    events: list[StepEvent]
    logits: list[torch.Tensor]

    def canvases(self) -> Iterator[list[tuple[StepEvent, torch.Tensor]]]:
        steps = list(zip(self.events, self.logits, strict=True))
        for index in range(self.events[-1].canvas_index + 1):
            yield [step for step in steps if step[0].canvas_index == index]


@contextmanager
def recorded_logits(model: DiffusionGemma, into: list[torch.Tensor]) -> Iterator[None]:
    """Keeps the processed logits of every step, which generation itself never holds at once."""
    read = model.readout

    def readout(hidden: torch.Tensor, temperature: float, *rest: Any, **wanted: Any) -> Any:
        into.append(model.logits(hidden) / temperature)
        return read(hidden, temperature, *rest, **wanted)

    model.readout = readout  # type: ignore[method-assign]
    try:
        yield
    finally:
        del model.readout


def run(engine: Engine, prompt: list[int], canvases: int) -> Recorded:
    recorded = Recorded([], [])
    engine.model.defaults = replace(engine.model.defaults, end_token_ids=())
    with recorded_logits(engine.model, recorded.logits):
        engine.generate(
            prompt, max_tokens=canvases * engine.model.config.canvas_length, seed=3, on_step=recorded.events.append
        )
    return recorded


@pytest.mark.parametrize("path", ["plain", "kernels"])
@pytest.mark.parametrize("name", CASES)
def test_every_step_equals_the_reference(name: str, path: str, tmp_path: Path) -> None:
    """Logits and entropies within 1e-4; argmax, accepted positions and the step at which a canvas stops are equal."""
    shape, prompt_length, chunk = CASES[name]
    found = checkpoint.read(random_checkpoint(tmp_path, generation=GENERATION, query_scale=0.03, **shape))
    model = found.load("float32") if path == "plain" else load_packed(found, "float32")
    engine = Engine(model, ChatTokenizer.from_folder(found.folder), prefill_chunk=chunk)
    reference = reference_model(found.folder)
    vocab = engine.model.config.vocab_size
    prompt = torch.randint(16, vocab, (prompt_length,), generator=torch.Generator().manual_seed(1)).tolist()
    recorded = run(engine, prompt, canvases=3)

    cache = DynamicCache(config=reference.config.get_text_config(decoder=True))
    context, stops = torch.tensor([prompt]), []
    for steps in recorded.canvases():
        with torch.no_grad():
            reference.model.encoder(input_ids=context, past_key_values=cache)
        stops.append(compare_canvas(reference, cache, steps))
        context = steps[-1][0].argmax[None]
    assert len(stops) == 3
    assert any(stops), "no canvas stopped early: the stopping rule was not put to the test"


def compare_canvas(
    reference: DiffusionGemmaForBlockDiffusion, cache: DynamicCache, steps: list[tuple[StepEvent, torch.Tensor]]
) -> bool:
    """Drive the reference along the canvases that our run saw; returns whether it stopped before the step limit."""
    limit = steps[0][0].step
    length, vocab = steps[0][1].shape
    temper = LinearTemperatureScheduleLogitsProcessor(GENERATION["t_min"], GENERATION["t_max"], limit)
    bound = GENERATION["sampler_config"]["entropy_bound"]
    sampler = EntropyBoundSampler(EntropyBoundSamplerConfig(bound), length, vocab, limit)
    stopping = StableAndConfidentStoppingCriteria(GENERATION["stability_threshold"], GENERATION["confidence_threshold"])
    signal = None
    for event, ours in steps:
        with torch.no_grad():
            raw = reference(
                decoder_input_ids=event.tokens_in[None], past_key_values=cache, self_conditioning_logits=signal
            ).logits
        processed = temper(None, raw, event.step)
        # 1e-4 at the temperatures that checkpoints have; dividing by a lower one enlarges rounding in proportion.
        tolerance = TOLERANCE * max(1.0, 0.4 / event.temperature)
        torch.testing.assert_close(ours, processed[0], atol=tolerance, rtol=0)
        assert torch.equal(event.argmax, processed[0].argmax(-1))
        entropy = torch.distributions.Categorical(logits=processed[0]).entropy()
        torch.testing.assert_close(event.entropy, entropy, atol=TOLERANCE, rtol=0)
        sampler.accept_canvas(event.tokens_in[None], event.sample[None], processed, event.step)
        assert torch.equal(event.accepted, sampler.accepted_token_mask[0])
        assert event.finished == bool(stopping(event.argmax[None], processed))
        signal = processed
    assert steps[-1][0].finished or steps[-1][0].step == 1
    return steps[-1][0].finished and steps[-1][0].step > 1


def test_the_canvas_of_the_next_step_is_samples_where_accepted_and_noise_elsewhere(tmp_path: Path) -> None:
    engine = load(random_checkpoint(tmp_path, generation=GENERATION))
    recorded = run(engine, [20, 21, 22], canvases=2)
    for steps in recorded.canvases():
        for (event, _), (following, _) in pairwise(steps):
            assert torch.equal(event.tokens_out[event.accepted], event.sample[event.accepted])
            assert torch.equal(following.tokens_in, event.tokens_out)


def encoded(model: DiffusionGemma, tokens: torch.Tensor, chunk: int) -> PooledCache:
    cache = KVPool.of(model).open()[0]
    for start in range(0, len(tokens), chunk):
        model.encode(tokens[None, start : start + chunk], cache)
    return cache


@pytest.mark.parametrize("chunk", [1, 2, 7, 8, 9, 15, 16, 64])
def test_prefill_does_not_depend_on_the_chunk_size(tmp_path: Path, chunk: int) -> None:
    """Around the window of 8, where a chunk-wise mask goes wrong first."""
    model = checkpoint.read(random_checkpoint(tmp_path, sliding_window=8)).load("float32")
    tokens = torch.randint(16, 64, (37,), generator=torch.Generator().manual_seed(2))
    canvas = torch.arange(20, 28)[None]
    whole = model.denoise(canvas, encoded(model, tokens, len(tokens)), None)
    torch.testing.assert_close(model.denoise(canvas, encoded(model, tokens, chunk), None), whole, atol=1e-5, rtol=0)


def test_the_per_query_window_slides_along_the_canvas(tmp_path: Path) -> None:
    """Independent computation: with the window on one sliding layer, each position alone, on a cache cut to its window.

    A first layer's keys do not depend on what came before them, so that a shorter context at the right positions
    must give the same as a mask.
    """
    folder = random_checkpoint(tmp_path, layer_types=(SLIDING, FULL), sliding_window=8)
    found = checkpoint.read(folder)
    per_query, shared = found.load("float32", "per_query"), found.load("float32", "shared")
    tokens = torch.randint(16, 64, (30,), generator=torch.Generator().manual_seed(4))
    canvas = torch.arange(20, 28)[None]
    layer, spec = per_query.layers[0], per_query.config.layers[0]
    cache = encoded(per_query, tokens, 30)
    x = per_query.self_conditioning(per_query.embed(canvas), None)
    rope = per_query.rope(30, 8)[spec]
    keys, values = (torch.cat(parts, dim=2) for parts in zip(*cache.read(0), strict=True))
    past = visible(cache.read(0), 30, 30, 8, window=8)
    together, _, _ = layer(x, rope, past, None, layer.layer_scalar)
    for position in range(8):
        # Position p sees the cache from 30 + p - 7 on; of the seven kept tokens the last 7 - p.
        seen = 7 - position
        cut = [] if seen == 0 else [Segment(keys[:, :, -seen:], values[:, :, -seen:])]
        alone, _, _ = layer(x, rope, cut, None, layer.layer_scalar)
        torch.testing.assert_close(together[:, position], alone[:, position], atol=1e-5, rtol=0)
    assert not torch.allclose(
        per_query.denoise(canvas, cache, None), shared.denoise(canvas, encoded(shared, tokens, 30), None), atol=1e-3
    )


def test_a_canvas_starts_without_the_signal_of_the_one_before(tmp_path: Path) -> None:
    """Self-conditioning is reset: the first step of every canvas equals a step that was never given a signal."""
    engine = load(random_checkpoint(tmp_path, generation=GENERATION))
    recorded = run(engine, [20, 21, 22], canvases=2)
    model, committed = engine.model, torch.tensor([20, 21, 22])
    for steps in recorded.canvases():
        event, logits = steps[0]
        hidden = model.denoise(event.tokens_in[None], encoded(model, committed, 256), None)
        torch.testing.assert_close(model.logits(hidden[0]) / event.temperature, logits, atol=TOLERANCE, rtol=0)
        committed = torch.cat((committed, steps[-1][0].argmax))


def test_the_router_reads_the_raw_residual_and_full_layers_have_no_values_of_their_own(tmp_path: Path) -> None:
    """Router on the normed state and an invented V projection are how others served this model wrong."""
    model = checkpoint.read(random_checkpoint(tmp_path)).load("float32")
    seen = {}
    model.layers[0].router.register_forward_pre_hook(lambda _, inputs: seen.update(router=inputs[0]))
    model.layers[0].pre_feedforward_layernorm.register_forward_pre_hook(lambda _, inputs: seen.update(x=inputs[0]))
    model.denoise(torch.arange(20, 28)[None], KVPool.of(model).open()[0], None)
    assert torch.equal(seen["router"], seen["x"].flatten(0, 1))
    assert [layer.self_attn.v_proj is None for layer in model.layers] == [False, False, True]


def test_bfloat16_weights_keep_the_residual_stream_in_float32(tmp_path: Path) -> None:
    """Closer to the float32 model than the reference's own bfloat16 is."""
    folder = random_checkpoint(tmp_path, layer_types=(SLIDING,) * 5 + (FULL,))
    model = checkpoint.read(folder).load("bfloat16")
    exact, reference = reference_model(folder), reference_model(folder, torch.bfloat16)
    prompt, canvas = torch.arange(20, 33)[None], torch.arange(40, 48)[None]
    hidden = model.denoise(canvas, encoded(model, prompt[0], 256), None)
    with torch.no_grad():
        truth = exact(input_ids=prompt, decoder_input_ids=canvas).logits
        theirs = reference(input_ids=prompt, decoder_input_ids=canvas).logits
    assert hidden.dtype == torch.float32
    assert (model.logits(hidden) - truth).square().mean() < (theirs - truth).square().mean()
