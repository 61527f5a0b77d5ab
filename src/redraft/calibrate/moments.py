"""The weight of an error in each input of a matrix: the mean square of that input, over answers that a model gives.

The squared error of a product x @ W.T is, on average, that of W's columns weighed by the mean squares of x's numbers;
the correlations between inputs, which GPTQ counts as well (https://arxiv.org/abs/2210.17323), are left out: they would
take a square of the inputs for every matrix. The same weights are known as llama.cpp's importance matrix.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from redraft.api import Engine
from redraft.errors import RequestError
from redraft.layers.experts import Experts
from redraft.models.checkpoint import Checkpoint, DType
from redraft.models.fitting import check_fits
from redraft.models.tokenizer import ChatTokenizer
from redraft.room import MemoryLimit, allowed

ANSWERS, MAX_TOKENS = 4, 256
"""Answers that a model gives to prompts of its own, and tokens of an answer."""


def input_moments(
    found: Checkpoint,
    prompts: Sequence[str] | None = None,
    *,
    max_tokens: int = MAX_TOKENS,
    seed: int = 0,
    memory: MemoryLimit = "auto",
) -> dict[str, Tensor]:
    """Have a checkpoint answer prompts in torch, unquantised, and return the mean squares of the inputs of its matrices
    by their names in the plain model: [inputs], of experts [experts, inputs], by each one's own share of the rows.

    prompts: user messages; None for what the model writes from nothing, and its answers to that. The same seed gives
    the same answers. Raises RoomError where the unquantised model does not fit the memory, and RequestError for a
    prompt that it cannot take.
    """
    check_fits(found, found.format("auto") if found.packed is None else "bfloat16", allowed(memory))
    format: DType = "bfloat16" if found.packed is not None or found.format("auto") == "bfloat16" else "float32"
    model = found.load(format)
    tokenizer = ChatTokenizer.from_checkpoint(found.path)
    with Engine(model, tokenizer) as engine, _counting(cast(nn.Module, model)) as counted:
        for number, prompt in enumerate(prompts if prompts is not None else _own(engine, max_tokens, seed)):
            message = [{"role": "user", "content": prompt}] if tokenizer.template is not None else prompt
            try:
                engine.generate(message, max_tokens=max_tokens, seed=seed + number)
            except RequestError:
                if prompts is not None:
                    raise
    return {name: sums / max(rows, 1) for name, (sums, rows) in counted.items()}


def _own(engine: Engine, max_tokens: int, seed: int) -> Iterator[str]:
    """Return what a model writes after the beginning of a text and nothing else."""
    config: Any = engine.model.config
    for number in range(ANSWERS):
        yield engine.generate([config.bos_token_id], max_tokens=max_tokens, seed=seed + number).text


@contextmanager
def _counting(model: nn.Module) -> Iterator[dict[str, tuple[Tensor, int]]]:
    """Sum the squares of all that goes into a model's matrices."""
    counted: dict[str, tuple[Tensor, int]] = {}
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            handles.append(module.register_forward_pre_hook(partial(_of_linear, counted, f"{name}.weight")))
        elif isinstance(module, Experts):
            handles.append(module.register_forward_pre_hook(partial(_of_experts, counted, name)))
    try:
        yield counted
    finally:
        for handle in handles:
            handle.remove()


def _add(counted: dict[str, tuple[Tensor, int]], name: str, sums: Tensor, rows: int) -> None:
    before, count = counted.get(name, (torch.zeros_like(sums), 0))
    counted[name] = before + sums, count + rows


@torch.no_grad()
def _of_linear(counted: dict[str, tuple[Tensor, int]], name: str, _: nn.Module, given: tuple[Tensor, ...]) -> None:
    rows = given[0].float().flatten(0, -2)
    _add(counted, name, rows.square().sum(0), len(rows))


@torch.no_grad()
def _of_experts(
    counted: dict[str, tuple[Tensor, int]], name: str, module: nn.Module, given: tuple[Tensor, Tensor, Tensor]
) -> None:
    """An expert's rows count by the square of their weight in the sum."""
    experts, (x, weights, chosen) = cast(Experts, module), given
    x = x.to(experts.gate_up_proj.dtype)
    number, _, hidden = experts.gate_up_proj.shape
    outer, inner = torch.zeros(number, hidden), torch.zeros(number, experts.down_proj.shape[-1])
    for expert in chosen.unique().tolist():
        rows, place = (chosen == expert).nonzero(as_tuple=True)
        own, share = x[rows], weights[rows, place].float().square()[:, None]
        gate, up = F.linear(own, experts.gate_up_proj[expert]).chunk(2, dim=-1)
        outer[expert] = (own.float().square() * share).sum(0)
        inner[expert] = ((F.gelu(gate, approximate="tanh") * up).float().square() * share).sum(0)
    _add(counted, f"{name}.gate_up_proj", outer, len(x))
    _add(counted, f"{name}.down_proj", inner, len(x))
