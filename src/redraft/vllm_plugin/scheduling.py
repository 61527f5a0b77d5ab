"""vLLM's schedulers of canvases, which schedule a canvas whole or not at all, and end a request that failed."""

from typing import Any

from vllm.v1.core.sched.diffusion_scheduler import DiffusionAsyncScheduler, DiffusionScheduler
from vllm.v1.request import RequestStatus

from redraft.vllm_plugin.hooks import FAILED, LOG


class _WholeCanvases:
    """The part that both schedulers have in common."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        own: Any = self
        canvas, config = own.num_spec_tokens, own.scheduler_config
        budget = min(own.max_num_scheduled_tokens, config.max_num_batched_tokens)
        if budget < canvas:
            raise ValueError(f"max_num_batched_tokens {budget} is less than a canvas of {canvas}; set it to {canvas}")
        if 0 < config.long_prefill_token_threshold < canvas:
            raise ValueError(
                f"long_prefill_token_threshold {config.long_prefill_token_threshold} would cut canvases of {canvas}; "
                f"set it to {canvas} or more"
            )

    def schedule(self, throttle_prefills: bool = False) -> Any:
        """Schedule a step, without the canvases that would be cut."""
        self._hold_back()
        return super().schedule(throttle_prefills)  # type: ignore[misc]

    def _hold_back(self) -> None:
        """Let canvases wait for which the budget has not enough left, in the order in which they are scheduled."""
        own: Any = self
        left = min(own.max_num_scheduled_tokens, own.scheduler_config.max_num_batched_tokens)
        following = own.current_step + 1
        for request in own.running:
            if following < request.next_decode_eligible_step:
                continue
            needed = request.num_tokens_with_spec + request.num_output_placeholders - request.num_computed_tokens
            needed = min(needed, own.max_model_len - request.num_computed_tokens)
            if request.spec_token_ids and needed > left:
                # The step after the next one may take it.
                request.next_decode_eligible_step = following + 1
            else:
                left -= max(0, min(needed, left))

    def _update_request_with_output(
        self, request: Any, new_token_ids: list[int], is_stale: bool = False
    ) -> tuple[list[int], bool]:
        if new_token_ids[:1] == [FAILED]:
            LOG.error("request %s ended with an error of its canvas", request.request_id)
            request.status = RequestStatus.FINISHED_ERROR
            return [], True
        found: tuple[list[int], bool] = super()._update_request_with_output(  # type: ignore[misc]
            request, new_token_ids, is_stale
        )
        return found


class CanvasScheduler(_WholeCanvases, DiffusionScheduler):  # type: ignore[misc]
    """The scheduler that waits for each step."""


class CanvasAsyncScheduler(_WholeCanvases, DiffusionAsyncScheduler):  # type: ignore[misc]
    """The scheduler that schedules a step ahead."""
