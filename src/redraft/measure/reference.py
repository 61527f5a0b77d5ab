"""The contender to beat: the same checkpoint's own ``generate`` in ``transformers``."""

from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from torch import Tensor

from redraft.measure.workload import Run, Stopwatch, Workload
from redraft.models import checkpoint

ReferenceDType = Literal["float32", "bfloat16"]


class TransformersContender:
    """``generate`` of the class that the checkpoint's architecture names, with its fastest attention and experts."""

    def __init__(self, folder: Path, dtype: ReferenceDType) -> None:
        found = checkpoint.read(folder)
        loader: Any = getattr(transformers, found.architecture)
        self.model = loader.from_pretrained(folder, dtype=getattr(torch, dtype), attn_implementation="sdpa").eval()
        self.model.set_experts_implementation("grouped_mm")
        self._end_token_ids = found.defaults.end_token_ids

    def answer(self, workload: Workload, seed: int) -> Run:
        # End tokens are given by name because a checkpoint may leave them to its config.json.
        settings: dict[str, Any] = {"eos_token_id": list(self._end_token_ids) or None, "max_length": None}
        if workload.steps is not None:
            settings = {
                "eos_token_id": None,
                "max_length": None,
                "max_denoising_steps": workload.steps,
                # Before step N + 1 no canvas can equal those of N earlier steps.
                "stability_threshold": workload.steps,
            }
        torch.manual_seed(seed)
        watch = Stopwatch()
        out = self.model.generate(
            torch.tensor([workload.prompt]), max_new_tokens=workload.max_tokens, streamer=_Marks(watch), **settings
        )
        tokens = out.sequences[0, len(workload.prompt) :].tolist()
        ends = () if workload.steps is not None else self._end_token_ids
        end = next((i for i, token in enumerate(tokens) if token in ends), len(tokens))
        return watch.stop(tokens[: min(end, workload.max_tokens)])


class _Marks:
    """A streamer of ``generate``: it gets the prompt, every step's draft, and every finished canvas."""

    def __init__(self, watch: Stopwatch) -> None:
        self._watch = watch
        self._prompt_seen = False

    def put(self, value: Tensor) -> None:
        if self._prompt_seen:
            self._watch.canvas()
        self._prompt_seen = True

    def put_draft(self, value: Tensor) -> None:
        self._watch.step()

    def end(self) -> None:
        """Do nothing: no part of the answer was held back."""
