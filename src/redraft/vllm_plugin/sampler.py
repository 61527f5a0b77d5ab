"""DiffusionGemma in vLLM with our sampler behind its model state; what asks for nothing of ours is left to vLLM's own.

Of a batch of both, vLLM's sampler is called on each run of its own requests, so that their logits are not copied.
"""

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from vllm.model_executor.models.diffusion_gemma import (
    DiffusionGemmaForConditionalGeneration,
    DiffusionGemmaModelState,
    DiffusionSampler,
    _concat_logprob_stashes,
)
from vllm.v1.outputs import LogprobsTensors
from vllm.v1.worker.gpu.sample.output import SamplerOutput

from redraft.layers.vocabulary_head import Embedding
from redraft.vllm_plugin.canvases import Canvases, Output, Share, Writing
from redraft.vllm_plugin.carried import Unpacker
from redraft.vllm_plugin.hooks import CARRIED, FAILED, LOG, checkpoint_folder
from redraft.vllm_plugin.model import remote_runtime


class CanvasModelState(DiffusionGemmaModelState):  # type: ignore[misc]
    """vLLM's model state, which knows our requests as well."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._unpacker = Unpacker()
        self._suspended: dict[str, Writing] = {}
        self._ids: dict[str, int] = {}
        self.canvases: Canvases | None = None

    def custom_sampler(self, sampler: Any) -> tuple[Any, Any]:
        """Put our sampler around vLLM's."""
        own, rejection = super().custom_sampler(sampler)
        embedding = Embedding(
            own.embed_weight[: own.sc_vocab_end - own.sc_vocab_start],
            float(own.normalizer),
            own.sc_vocab_start,
            _together(own) if own.tp_size > 1 else None,
        )
        runtime = remote_runtime(
            checkpoint_folder(self.model_config),
            context_length=self.max_model_len,
            canvas_length=own.canvas_length,
            device=self.diffusion_states.device,
            embedding=embedding,
        )
        self.canvases = Canvases(runtime)
        return CanvasSampler(own, self.canvases), rejection

    def add_request(self, req_index: int, new_req_data: Any) -> None:
        """Take a slot; a request of ours that was preempted goes on where it was."""
        super().add_request(req_index, new_req_data)
        given = (getattr(new_req_data.sampling_params, "extra_args", None) or {}).get(CARRIED)
        if given is None or self.canvases is None:
            return
        request_id = new_req_data.req_id
        self._ids[request_id] = req_index
        known = len(new_req_data.prefill_token_ids) - new_req_data.prompt_len
        writing = self._suspended.pop(request_id, None)
        if writing is not None:
            writing.go_on_from(known)
            self.canvases.slots[req_index] = writing
            return
        self.canvases.add(req_index, self._unpacker.request(given, new_req_data.sampling_params.seed))

    def remove_request(self, req_id: str) -> None:
        """Empty a slot; until the request is known to have ended, its task stays."""
        slot = self._ids.pop(req_id, None)
        if slot is not None and self.canvases is not None and (writing := self.canvases.remove(slot)) is not None:
            self._suspended[req_id] = writing
        super().remove_request(req_id)

    def forget(self, request_ids: set[str]) -> None:
        """Drop what is kept of requests that have ended."""
        for request_id in request_ids:
            self._suspended.pop(request_id, None)

    def _apply_self_conditioning(
        self,
        decode_slots_np: Any,
        decode_idx_np: Any,
        query_start_loc_np: Any,
        inputs_embeds: Tensor,
        sc_embeds: Tensor,
    ) -> None:
        # A commit of ours is encoded as a prompt is. vLLM sends the rows of its own commits through the
        # self-conditioning MLP, of zeros, whose last norm changes them.
        slots = {} if self.canvases is None else self.canvases.slots
        kept = np.array([not _commits(slots.get(int(slot))) for slot in decode_slots_np], dtype=bool)
        super()._apply_self_conditioning(
            decode_slots_np[kept], decode_idx_np[kept], query_start_loc_np, inputs_embeds, sc_embeds
        )


class CanvasDiffusionGemma(DiffusionGemmaForConditionalGeneration):  # type: ignore[misc]
    """vLLM's model, with our model state."""

    @staticmethod
    def get_model_state_cls() -> type[CanvasModelState]:
        """Return our model state."""
        return CanvasModelState


class CanvasSampler:
    """vLLM's sampler for vLLM's requests, and ``canvases`` for ours."""

    def __init__(self, own: DiffusionSampler, canvases: Canvases) -> None:
        self._own, self._canvases = own, canvases

    def __getattr__(self, name: str) -> Any:
        """Return what the runner reads of vLLM's sampler."""
        return getattr(self._own, name)

    def add_request(self, req_idx: int, sampling_params: Any) -> None:
        """Tell vLLM's sampler of its own requests; the model state has taken ours."""
        if req_idx not in self._canvases.slots:
            self._own.add_request(req_idx, sampling_params)

    def __call__(self, logits: Tensor, input_batch: Any, draft_logits: Tensor | None = None) -> SamplerOutput:
        """Take every request of a batch a step on, by its rows of ``logits`` [rows, V]."""
        slots = [int(slot) for slot in input_batch.idx_mapping_np[: input_batch.num_reqs]]
        ours = [slot in self._canvases.slots for slot in slots]
        if not any(ours):
            return self._own(logits, input_batch, draft_logits)
        whole = _Whole(input_batch, self._own.canvas_length, logits.device)
        for first, beyond in _runs(ours):
            whole.take(first, beyond, self._own(*_part(logits, input_batch, first, beyond)))
        rows = input_batch.cu_num_logits_np
        shares, places = [], []
        for place, (slot, own) in enumerate(zip(slots, ours, strict=True)):
            if not own:
                continue
            if rows[place + 1] > rows[place]:
                shares.append(Share(slot, int(rows[place]), int(rows[place + 1] - rows[place])))
                places.append(place)
            elif _prefilled(input_batch, place):
                self._show(slot)
        for place, share, output in zip(places, shares, self._canvases.step(logits, shares), strict=True):
            whole.put(place, output)
            self._show(share.slot)
        return whole.output()

    def _show(self, slot: int) -> None:
        """Write what a request of ours asks of the next forward to where vLLM reads it."""
        asked, states = self._canvases.slots[slot].input, self._own.diffusion_states
        if asked is None:
            return
        count = len(asked.tokens)
        states.is_encoder_phase[slot] = asked.encode
        drafts = self._own.req_states.draft_tokens
        drafts[slot, :count] = asked.tokens.to(drafts.device, drafts.dtype)
        soft = states.self_conditioning_embeds[slot]
        soft.zero_()
        if asked.self_conditioning is not None:
            soft[:count] = asked.self_conditioning


class _Whole:
    """The output of a whole batch, put together."""

    def __init__(self, input_batch: Any, canvas_length: int, device: torch.device) -> None:
        count = self._count = input_batch.num_reqs
        self._lengths = np.diff(input_batch.query_start_loc_np[: count + 1]).astype(np.int64)
        self._device = device
        self._sampled = torch.zeros(count, canvas_length, dtype=torch.int32, device=device)
        self._num_sampled = torch.zeros(count, dtype=torch.int32, device=device)
        self._num_rejected = torch.zeros(count, dtype=torch.int32, device=device)
        self._logprobs: list[LogprobsTensors] = []
        self._generated = np.zeros(count, dtype=np.int64)

    def take(self, first: int, beyond: int, output: SamplerOutput) -> None:
        """Take over what vLLM's sampler returned for some requests; its buffers are used again."""
        own = slice(first, beyond)
        self._sampled[own, : output.sampled_token_ids.shape[1]] = output.sampled_token_ids
        self._num_sampled[own] = output.num_sampled
        self._num_rejected[own] = output.num_rejected
        found = output.logprobs_tensors
        if found is not None:
            starts = np.array([*found.cu_num_generated_tokens, len(found.logprobs)])
            self._generated[own] = np.diff(starts)[: beyond - first]
            self._logprobs.append(found)

    def put(self, place: int, output: Output) -> None:
        """Take what came of a request of ours."""
        length, tokens = int(self._lengths[place]), output.tokens
        if output.error is not None:
            LOG.error("a request ended with an error: %s", output.error)
            tokens = (FAILED,)
        if tokens:
            self._sampled[place, : len(tokens)] = torch.tensor(tokens, dtype=torch.int32, device=self._device)
        self._num_sampled[place] = len(tokens)
        self._num_rejected[place] = length - len(tokens)

    def output(self) -> SamplerOutput:
        """Return all of it as the runner takes it."""
        logprobs = None
        if self._logprobs:
            starts = np.cumsum(self._generated) - self._generated
            logprobs = _concat_logprob_stashes(self._logprobs, starts.tolist())
        return SamplerOutput(
            sampled_token_ids=self._sampled,
            logprobs_tensors=logprobs,
            num_nans=None,
            num_sampled=self._num_sampled,
            num_rejected=self._num_rejected,
        )


def _commits(writing: Writing | None) -> bool:
    asked = None if writing is None else writing.input
    return asked is not None and asked.encode


def _runs(ours: list[bool]) -> list[tuple[int, int]]:
    """The places of vLLM's own requests, as (first, one beyond the last) of each run of them."""
    borders = np.flatnonzero(np.diff([True, *ours, True]))
    return [(int(first), int(beyond)) for first, beyond in zip(borders[::2], borders[1::2], strict=True)]


def _part(logits: Tensor, batch: Any, first: int, beyond: int) -> tuple[Tensor, Any]:
    """Return the logits and the batch of some requests that follow each other, as views."""
    rows = batch.cu_num_logits_np[first : beyond + 1]
    own = slice(first, beyond)
    part = SimpleNamespace(
        num_reqs=beyond - first,
        num_draft_tokens=int(rows[-1] - rows[0]),
        idx_mapping=batch.idx_mapping[own],
        idx_mapping_np=batch.idx_mapping_np[own],
        cu_num_logits_np=rows - rows[0],
        query_start_loc=batch.query_start_loc[first : beyond + 1],
        query_start_loc_np=batch.query_start_loc_np[first : beyond + 1],
        num_computed_prefill_tokens_np=batch.num_computed_prefill_tokens_np[own],
        num_scheduled_tokens=batch.num_scheduled_tokens[own],
        prefill_len_np=batch.prefill_len_np[own],
    )
    return logits[int(rows[0]) : int(rows[-1])], part


def _prefilled(batch: Any, place: int) -> bool:
    """Tell whether a request's prompt is encoded with this forward."""
    done = batch.num_computed_prefill_tokens_np[place] + batch.num_scheduled_tokens[place]
    return bool(done >= batch.prefill_len_np[place])


def _together(own: DiffusionSampler) -> Any:
    """Return what adds up the soft embeddings of all ranks' parts of the vocabulary."""
    return lambda mean: torch.ops.vllm.all_reduce(mean, group_name=own.tp_group_name)
