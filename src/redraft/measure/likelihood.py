"""The causal log probabilities of a text's tokens, under a model that encodes as an autoregressive one does."""

from collections.abc import Sequence
from contextlib import closing

import torch

from redraft.canvas.readout import ReadoutSpec, without_mask
from redraft.engine.runtime import Runtime
from redraft.models.base import PREFILL_CHUNK, Span

# What float32 can still tell from 0.
_LEAST = 1e-38


@torch.inference_mode()
def causal_logprobs(runtime: Runtime, prompt: Sequence[int], answer: Sequence[int]) -> list[float]:
    """Natural logs of the probabilities of the tokens of ``answer`` behind ``prompt``, each given those before it.

    The logits are as the model has them, at temperature 1; of a model with a mask token, given that no mask stands
    there. A token less likely than 1e-38 counts as if it were that likely.
    """
    model, found = runtime.model, []
    tokens = torch.tensor([*prompt, *answer][:-1], device=model.device)
    first = len(prompt) - 1
    classes = runtime.mask_classes
    mask = None if model.corruption is None else model.corruption.mask
    with closing(runtime.pool.open(())[0]) as cache:
        cache.reserve(len(tokens))
        for start in range(0, len(tokens), PREFILL_CHUNK):
            part = tokens[start : start + PREFILL_CHUNK]
            wanted = min(len(part), start + len(part) - first)
            (hidden,) = model.forward([Span(part, cache, "encode", wanted=max(0, wanted))])
            if hidden is None:
                continue
            (readout,) = model.readout([hidden], [ReadoutSpec(1.0, classes=classes)])
            own = readout if mask is None else without_mask(readout, mask, None)
            begin = start + len(part) - wanted - first
            said = torch.tensor(answer[begin : begin + wanted], device=model.device)
            found += own.probability(said).clamp(min=_LEAST).log().tolist()
    return found
