"""Sampling parameters against the logits processors of ``transformers``, in the loop of its DiffusionGemma generation.

Its generation applies what a caller gives it to raw logits, before the temperature; top-p and min-p are defined on the
distribution that is drawn from here, so they are applied after it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.generation.logits_process import (
    LogitsProcessor,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.models.diffusion_gemma.generation_diffusion_gemma import (
    EntropyBoundSampler,
    EntropyBoundSamplerConfig,
    LinearTemperatureScheduleLogitsProcessor,
)

from redraft import StepEvent
from redraft.loading import load
from tests.random_checkpoint import random_checkpoint, reference_model

STEPS, BOUND, LENGTH = 5, 3.0, 16
GENERATION: dict[str, Any] = {
    "max_denoising_steps": STEPS,
    "sampler_config": {"_cls_name": "EntropyBoundSamplerConfig", "entropy_bound": BOUND},
    "confidence_threshold": 1e-9,
    "t_max": 0.5,
    "t_min": 0.3,
}
BIAS = {40: 9.0, 100: -9.0, 260: 7.5}


@dataclass(frozen=True)
class Case:
    """Parameters of ours, and the processors that are theirs."""

    ours: dict[str, Any]
    raw: LogitsProcessor | None = None
    processed: LogitsProcessor | None = None
    repetition: float | None = None


CASES = {
    "top_k": Case({"top_k": 6}, raw=TopKLogitsWarper(6)),
    "top_p": Case({"top_p": 0.7}, processed=TopPLogitsWarper(0.7)),
    "min_p": Case({"min_p": 0.05}, processed=MinPLogitsWarper(0.05)),
    "logit_bias": Case({"logit_bias": BIAS}, raw=SequenceBiasLogitsProcessor([[[t], b] for t, b in BIAS.items()])),
    "repetition_penalty": Case({"repetition_penalty": 1.6}, repetition=1.6),
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kernels"), [*((name, True) for name in CASES), ("top_p", False)])
def test_every_step_is_that_of_the_reference_with_the_processor(
    name: str, kernels: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = CASES[name]
    folder = random_checkpoint(tmp_path, generation=GENERATION, query_scale=0.03, vocab_size=320, canvas_length=LENGTH)
    if not kernels:
        monkeypatch.setattr("redraft.kernels.bindings.kernels", lambda: None)
    engine, reference = load(folder, dtype="float32"), reference_model(folder)
    prompt = list(range(20, 31))
    events: list[StepEvent] = []
    answer = engine.generate(prompt, max_tokens=2 * LENGTH, seed=3, on_step=events.append, **case.ours)
    plain: list[StepEvent] = []
    engine.generate(prompt, max_tokens=2 * LENGTH, seed=3, on_step=plain.append)
    assert any(not torch.equal(ours.sample, other.sample) for ours, other in zip(events, plain, strict=False))
    cache = DynamicCache(config=reference.config.get_text_config(decoder=True))
    temper = LinearTemperatureScheduleLogitsProcessor(GENERATION["t_min"], GENERATION["t_max"], STEPS)
    sampler = EntropyBoundSampler(EntropyBoundSamplerConfig(BOUND), LENGTH, 320, STEPS)
    context, believed, accepted = torch.tensor([prompt]), None, None
    so_far: list[int] = []
    penalised = 0
    for event in events:
        if event.step == 1:
            with torch.no_grad():
                reference.model.encoder(input_ids=context, past_key_values=cache)
            believed = accepted = None
        with torch.no_grad():
            raw = reference(
                decoder_input_ids=event.tokens_in[None], past_key_values=cache, self_conditioning_logits=believed
            ).logits
        if case.repetition is not None:
            penalised += repeat(raw[0], case.repetition, so_far, event.tokens_in, accepted)
        raw = raw if case.raw is None else case.raw(event.tokens_in[None], raw)
        processed = temper(None, raw, STEPS - event.step + 1)
        if case.processed is not None:
            processed = case.processed(event.tokens_in[None], processed[0])[None]
        assert torch.equal(event.argmax, processed[0].argmax(-1))
        p = processed[0].softmax(-1)
        torch.testing.assert_close(event.entropy, -torch.xlogy(p, p).sum(-1), atol=2e-4, rtol=0)
        sampler.accept_canvas(event.tokens_in[None], event.sample[None], processed, STEPS - event.step + 1)
        assert torch.equal(event.accepted, sampler.accepted_token_mask[0])
        believed, accepted = processed, event.accepted
        if event.step == STEPS:
            context, so_far = event.argmax[None], [*so_far, *event.argmax.tolist()]
    assert len(answer.token_ids) == 2 * LENGTH
    assert case.repetition is None or penalised > 40


def repeat(raw: Tensor, penalty: float, so_far: list[int], tokens: Tensor, accepted: Tensor | None) -> int:
    """Penalise each position of ``raw`` [C, V] for the answer so far and what was accepted before it; in place."""
    process, count = RepetitionPenaltyLogitsProcessor(penalty), 0
    for position in range(len(raw)):
        before = [] if accepted is None else tokens[:position][accepted[:position]].tolist()
        if seen := [*so_far, *before]:
            raw[position] = process(torch.tensor([seen]), raw[position : position + 1].clone())[0]
            count += 1
    return count
