"""The causal log probabilities of a text's tokens, under a model that encodes as an autoregressive one does."""

from collections.abc import Sequence
from contextlib import closing

import torch

from redraft.engine.runtime import Runtime
from redraft.models.base import PREFILL_CHUNK, BlockDiffusionModel, Span

# Logits that stand at a time: 32 MB.
_TOGETHER = 1 << 23


@torch.inference_mode()
def causal_logprobs(runtime: Runtime, prompt: Sequence[int], answer: Sequence[int]) -> list[float]:
    """Natural logs of the probabilities of the tokens of ``answer`` behind ``prompt``, each given those before it.

    The logits are as the model has them, at temperature 1; of a model with a mask token, given that no mask stands
    there.
    """
    model, found = runtime.model, []
    tokens = torch.tensor([*prompt, *answer][:-1], device=model.device)
    first = len(prompt) - 1
    with closing(runtime.pool.open(())[0]) as cache:
        cache.reserve(len(tokens))
        for start in range(0, len(tokens), PREFILL_CHUNK):
            part = tokens[start : start + PREFILL_CHUNK]
            wanted = max(0, min(len(part), start + len(part) - first))
            (hidden,) = model.forward([Span(part, cache, "encode", wanted=wanted)])
            if hidden is not None:
                begin = start + len(part) - wanted - first
                found += _logprobs(model, hidden, answer[begin : begin + wanted])
    return found


def _logprobs(model: BlockDiffusionModel, hidden: torch.Tensor, said: Sequence[int]) -> list[float]:
    """Hidden rows [N, H] -> the log probability of the token that ``said`` has for each."""
    found: list[float] = []
    each = max(1, _TOGETHER // model.config.vocab_size)
    mask = None if model.corruption is None else model.corruption.mask
    for start in range(0, len(said), each):
        logits = model.logits(hidden[start : start + each])
        if mask is not None:
            logits[:, mask] = -torch.inf
        own = torch.tensor(said[start : start + each], device=logits.device)
        found += logits.log_softmax(-1).gather(1, own[:, None])[:, 0].tolist()
    return found
