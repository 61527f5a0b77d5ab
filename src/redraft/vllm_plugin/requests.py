"""Requests of vLLM's front end: those that ask for something of ours are made requests of the engine."""

import secrets
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from redraft.engine.runtime import Runtime
from redraft.errors import RequestError
from redraft.vllm_plugin.carried import packed
from redraft.vllm_plugin.hooks import CARRIED, TOOLS, checkpoint_folder
from redraft.vllm_plugin.model import remote_runtime
from redraft.vllm_plugin.prepare import PREFIX, Wanted, prepare, structured

# What vLLM does with one canvas that is only read.
_READS = ("diffusion_read_only", "diffusion_constrained")


def check(params: Any) -> None:
    """Refuse what neither vLLM nor we can honour; RequestError names it."""
    for name in ("bad_words", "allowed_token_ids"):
        if getattr(params, name):
            raise RequestError(f"{name} is not supported; a constraint (structured_outputs) says what may be written")
    if params.prompt_logprobs is not None or getattr(params, "prompt_logprob_token_ids", None) is not None:
        raise RequestError("prompt_logprobs is not supported: a canvas's model has none")


def asks_for_ours(params: Any) -> bool:
    """Tell whether a request asks for something that vLLM's own sampler does not do."""
    extra = params.extra_args or {}
    return bool(
        params.seed is not None
        or params.temperature != 1.0
        or params.min_p > 0
        or params.min_tokens > 0
        or params.logit_bias
        or params.presence_penalty
        or params.frequency_penalty
        or params.repetition_penalty != 1.0
        or params.structured_outputs is not None
        or TOOLS in extra
        or extra.get("diffusion_pinned")
        or any(name.startswith(PREFIX) for name in extra)
    )


class Requests:
    """Makes requests for one model; it has the tokenizer, and keeps the latest constraints compiled."""

    def __init__(self, vllm_config: Any) -> None:
        self._model_config = vllm_config.model_config
        self._canvas_length = vllm_config.diffusion_config.canvas_length
        self._runtime: Runtime | None = None

    @property
    def runtime(self) -> Runtime:
        """The ground on which requests are checked."""
        if self._runtime is None:
            self._runtime = remote_runtime(
                checkpoint_folder(self._model_config),
                context_length=self._model_config.max_model_len,
                canvas_length=self._canvas_length,
            )
        return self._runtime

    def made(self, params: Any, process: Callable[[Any], Any]) -> Any:
        """Make vLLM's own request of ``params`` by ``process``, and ours in it, if anything is asked for.

        Raises RequestError, of a constraint ConstraintError, naming what cannot be honoured.
        """
        if not asks_for_ours(params):
            return process(params)
        wanted, extra = self._wanted(params), dict(params.extra_args or {})
        plain = params.clone()
        plain.structured_outputs = None
        plain.extra_args = {name: value for name, value in extra.items() if not _is_ours(name)} or None
        made = process(plain)
        if made.prompt_token_ids is None:
            raise RequestError("a prompt of embeddings cannot be given with what redraft adds; give text or tokens")
        self._complete(made, wanted, params)
        return made

    def _wanted(self, params: Any) -> Wanted:
        extra = params.extra_args or {}
        if any(extra.get(name) for name in _READS):
            raise RequestError(f"{' and '.join(_READS)} are vLLM's own, and cannot be given with what redraft adds")
        if params.logprobs is not None or params.logprob_token_ids is not None:
            raise RequestError("logprobs cannot be given with a seed, a temperature or a constraint; leave one out")
        tools, choice = extra.get(TOOLS, ((), "required"))
        given = params.structured_outputs
        return Wanted(
            constraint=None if given is None else structured(asdict(given)),
            tools=tools,
            tool_choice=choice,
            options={name[len(PREFIX) :]: value for name, value in extra.items() if name.startswith(PREFIX)},
            seed_canvas=extra.get("diffusion_seed_canvas"),
            pinned=extra.get("diffusion_pinned") or (),
            sampling=_sampling(params),
        )

    def _complete(self, made: Any, wanted: Wanted, params: Any) -> None:
        """Put our request into vLLM's."""
        own, prompt = made.sampling_params, made.prompt_token_ids
        room = self._model_config.max_model_len - len(prompt)
        # The server fills in all that the context has left.
        most = None if own.max_tokens == room else own.max_tokens
        own.seed = secrets.randbits(32) if params.seed is None else params.seed
        # Where images stand nothing is to be checked: vLLM encodes them.
        images = set(self.runtime.model.config.image_token_ids)
        shown = [0 if token in images else token for token in prompt]
        request = prepare(
            self.runtime,
            shown,
            Wanted(
                {**wanted.sampling, "max_tokens": most, "seed": own.seed},
                wanted.constraint,
                wanted.tools,
                wanted.tool_choice,
                wanted.options,
                wanted.seed_canvas,
                wanted.pinned,
            ),
        )
        made.prompt_token_ids = [*prompt, *request.prompt[len(prompt) :]]
        room = self._model_config.max_model_len - len(made.prompt_token_ids)
        # Behind a constrained answer an end token stands, which for vLLM is a token of the answer.
        own.max_tokens = min(request.max_tokens + (request.constraint is not None), room)
        own.extra_args = {**(own.extra_args or {}), CARRIED: packed(request)}


def _is_ours(name: str) -> bool:
    # Ours has the canvas and its pins.
    return name.startswith(PREFIX) or name in (TOOLS, "diffusion_seed_canvas", "diffusion_pinned")


def _sampling(params: Any) -> dict[str, Any]:
    """Return what vLLM has fields for, as parameters of ``request.generate``."""
    extra = params.extra_args or {}
    found = {
        "temperature": float(params.temperature),
        "top_p": params.top_p,
        "top_k": params.top_k,
        "min_p": params.min_p,
        "logit_bias": params.logit_bias,
        "presence_penalty": params.presence_penalty,
        "frequency_penalty": params.frequency_penalty,
        "repetition_penalty": params.repetition_penalty,
        "min_tokens": params.min_tokens,
        "ignore_eos": params.ignore_eos,
        "stop_token_ids": list(params.stop_token_ids or ()),
    }
    if params.stop:
        found["stop"] = list(params.stop)
    if extra.get("diffusion_max_steps"):
        found["max_denoising_steps"] = extra["diffusion_max_steps"]
    if extra.get("diffusion_canvas_length"):
        found["canvas_length"] = extra["diffusion_canvas_length"]
    if params.thinking_token_budget is not None:
        found |= {"thinking": True, "thinking_budget": params.thinking_token_budget}
    return found
