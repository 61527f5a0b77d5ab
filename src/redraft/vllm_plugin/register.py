"""The plugin (entry point ``vllm.general_plugins``), which vLLM calls in each of its processes."""

from typing import Any

from redraft.errors import RequestError
from redraft.vllm_plugin.hooks import ARCHITECTURE, CARRIED, TOOLS, is_ours

VERSIONS = ("0.32.0",)
"""The versions of vLLM whose insides the plugin was written for and run with."""
_done = False


def register() -> None:
    """Hang our sampler, scheduler and request parameters into vLLM; a second call changes nothing.

    Raises RequestError for a version of vLLM that the plugin was not made for.
    """
    global _done
    if _done:
        return
    import vllm

    check_version(vllm.__version__)
    _done = True
    from vllm import ModelRegistry

    # Imported where the model is: in the workers.
    ModelRegistry.register_model(ARCHITECTURE, "redraft.vllm_plugin.sampler:CanvasDiffusionGemma")
    _use_schedulers()
    _take_parameters()
    _take_tools()
    _forget_finished()


def check_version(version: str) -> None:
    """Raise RequestError for a version of vLLM that is not among ``VERSIONS``, whatever was built of it."""
    if version.partition("+")[0] not in VERSIONS:
        raise RequestError(
            f"redraft's plugin for vLLM is for vLLM {' or '.join(VERSIONS)}, and this is {version}: install the one it "
            "is for (pip install 'redraft[vllm]'), or leave the plugin out with VLLM_PLUGINS=''"
        )


def _use_schedulers() -> None:
    """Put our schedulers in the place of vLLM's own for canvases; a scheduler that was asked for stays."""
    from vllm.config.scheduler import SchedulerConfig

    original = SchedulerConfig.get_scheduler_cls

    def get_scheduler_cls(self: Any) -> Any:
        found = original(self)
        if found.__module__ != "vllm.v1.core.sched.diffusion_scheduler":
            return found
        from redraft.vllm_plugin import scheduling

        return getattr(scheduling, found.__name__.replace("Diffusion", "Canvas"))

    SchedulerConfig.get_scheduler_cls = get_scheduler_cls


def _take_parameters() -> None:
    """Check what is asked of our model ourselves, and carry it to the workers; other models are left alone."""
    from vllm.exceptions import VLLMValidationError
    from vllm.sampling_params import SamplingParams
    from vllm.v1.engine.input_processor import InputProcessor

    from redraft.vllm_plugin.requests import Requests, check

    def for_others(name: str) -> None:
        original = getattr(SamplingParams, name)

        def validate(self: Any, model_config: Any, *more: Any) -> None:
            if is_ours(model_config):
                try:
                    check(self)
                except RequestError as error:
                    raise VLLMValidationError(str(error)) from None
            else:
                original(self, model_config, *more)

        setattr(SamplingParams, name, validate)

    for_others("_validate_diffusion")
    for_others("_validate_structured_outputs")
    process = InputProcessor.process_inputs

    def process_inputs(self: Any, request_id: str, prompt: Any, params: Any, *more: Any, **named: Any) -> Any:
        extra = getattr(params, "extra_args", None)
        if extra and CARRIED in extra:
            raise VLLMValidationError(f"vllm_xargs: {CARRIED!r} is a name that the server keeps for itself")
        if not isinstance(params, SamplingParams) or not is_ours(self.model_config):
            if extra:
                extra.pop(TOOLS, None)
            return process(self, request_id, prompt, params, *more, **named)
        if not hasattr(self, "redraft_requests"):
            self.redraft_requests = Requests(self.vllm_config)

        def original(own: Any) -> Any:
            return process(self, request_id, prompt, own, *more, **named)

        try:
            return self.redraft_requests.made(params, original)
        except RequestError as error:
            raise VLLMValidationError(str(error)) from None

    InputProcessor.process_inputs = process_inputs


def _take_tools() -> None:
    """Hand on the tools of which one has to be called: vLLM's parser of Gemma's calls does not see to it."""
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

    original = ChatCompletionRequest.to_sampling_params

    def to_sampling_params(self: Any, *arguments: Any, **named: Any) -> Any:
        params, choice = original(self, *arguments, **named), self.tool_choice
        if self.tools and choice is not None and choice not in ("auto", "none"):
            chosen = choice if isinstance(choice, str) else choice.model_dump()
            tools = [tool.model_dump() for tool in self.tools]
            params.extra_args = {**(params.extra_args or {}), TOOLS: [tools, chosen]}
        return params

    ChatCompletionRequest.to_sampling_params = to_sampling_params


def _forget_finished() -> None:
    """Let a model state know which of the requests that it was told to remove have ended; others come back."""
    from vllm.v1.worker.gpu import model_runner

    original = model_runner.GPUModelRunner.finish_requests

    def finish_requests(self: Any, scheduler_output: Any) -> None:
        original(self, scheduler_output)
        if (forget := getattr(self.model_state, "forget", None)) is not None:
            forget(scheduler_output.finished_req_ids)

    model_runner.GPUModelRunner.finish_requests = finish_requests
