"""From what a wire format asks for to a checked request: prompts tokenized, constraints compiled, limits kept."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from redraft.constrain.automaton.vocabulary import Vocabulary
from redraft.engine.deadline import Deadline
from redraft.engine.generation import Generate, Recorders
from redraft.engine.request import Request, check_stop
from redraft.engine.request import generate as check_generate
from redraft.engine.runtime import Prompt, Runtime
from redraft.engine.thinking import wants_thought, without_switches
from redraft.engine.tools import ToolUse, calling
from redraft.errors import RequestError
from redraft.models.tools import Tool
from redraft.serve.errors import bad_request
from redraft.serve.state import Serving, new_seed
from redraft.tasks.fill import FillRequest, fill
from redraft.tasks.infill import context_before

_SEEDS = 1 << 64


@dataclass(frozen=True, eq=False)
class Prepared:
    """A request that is checked, and what its answers are told by."""

    runtime: Runtime
    request: Request
    record: Recorders | None
    tools: ToolUse | None = None
    vocabulary: Vocabulary | None = None
    """Spells the tokens of log probabilities; None unless they were asked for."""
    text_stop: tuple[str, ...] = ()
    """Strings at which the text beside calls ends, after which there is no call. Without tools the request has them."""

    def answers(self, count: int = 1) -> list[Generate]:
        """Return so many answers, the n-th with n - 1 added to the seed."""
        seeds = [(self.request.seed + index) % _SEEDS for index in range(count)]
        return [Generate(self.runtime, replace(self.request, seed=seed), self.record) for seed in seeds]


async def generation(
    here: Serving,
    prompt: Prompt,
    parameters: Mapping[str, Any],
    fields: Mapping[str, str],
    tools: ToolUse | None = None,
) -> Prepared:
    """Check what a prompt asks for.

    ``parameters``: those of ``request.generate``; one that is None asks for nothing. ``fields``: by the engine's
    parameters, "prompt" and "constraint" among them, the fields that they came from.

    Raises ApiError for what cannot be honoured.
    """
    parameters = counting(here, parameters)

    def check() -> Prepared:
        given = {name: value for name, value in parameters.items() if value is not None}
        given.setdefault("seed", new_seed())
        if here.settings.max_tokens is not None:
            given.setdefault("max_tokens", here.settings.max_tokens)
        template = given.pop("chat_template_kwargs", None)
        switches = (given.get("thinking"), given.get("reasoning_effort"), given.get("thinking_budget"), template)
        given["thinking"] = wants_thought(*switches)
        variables = without_switches(template)
        tokens = prompt_tokens(here, prompt, fields.get("prompt"), given["thinking"], tools, variables)
        # A stop string that stood in a call's arguments would leave it unfinished: it ends the text alone.
        text_stop = () if tools is None else check_stop(given.pop("stop", None))
        if tools is not None:
            given["constraint"] = calling(here.runtime, tools, given.get("constraint"))
        if here.settings.mode is not None and "quality" not in given:
            given.setdefault("mode", here.settings.mode)
        if here.settings.recipe is not None:
            given = here.settings.recipe.beside(given)
        request = check_generate(here.runtime, tokens, **given)
        if here.settings.record is not None and request.mode != "diffusion":
            raise RequestError(
                f"mode {request.mode!r}: this server records every answer, and there are recordings of denoising steps "
                "alone; ask for mode 'diffusion'"
            )
        vocabulary = None if request.top_logprobs is None else here.runtime.constraints.vocabulary
        return Prepared(here.runtime, request, here.settings.record, tools, vocabulary, text_stop)

    return await here.check(check, fields)


async def gap(
    here: Serving, prefix: str, suffix: str, parameters: Mapping[str, Any], fields: Mapping[str, str]
) -> FillRequest:
    """Check a request to write what stands between two texts; parameters of ``tasks.fill``, otherwise as
    ``generation``. A mode is that of canvases, as was checked."""
    parameters = counting(here, parameters)

    def check() -> FillRequest:
        given = {name: value for name, value in parameters.items() if value is not None and name != "mode"}
        if here.settings.recipe is not None:
            given = here.settings.recipe.beside(given, generates=False)
        given.setdefault("seed", new_seed())
        too_long = here.limits.before_tokenizing(fields["prompt"])
        before = context_before(here.runtime, given.get("prompt"), prefix, too_long)
        here.limits.check_prompt(len(before), fields["prompt"])
        return fill(here.runtime, prefix, suffix, record=here.settings.record, **given)

    return await here.check(check, fields)


def counting(here: Serving, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
    """Begin to count to a deadline now, with what is waited for until the request is checked."""
    given = parameters.get("deadline_ms")
    return parameters if given is None else {**parameters, "deadline_ms": Deadline.after(given, here.runtime.clock)}


def prompt_tokens(
    here: Serving,
    prompt: Prompt,
    field: str | None,
    thinking: bool = False,
    tools: ToolUse | None = None,
    variables: Mapping[str, Any] | None = None,
) -> Sequence[int]:
    """Tokenize a prompt from ``field``; ApiError where it is longer than the server takes. ``variables``: what its
    chat template reads besides."""
    shown = None if tools is None else tools.shown
    tokens = here.runtime.tokenize(prompt, thinking, shown, here.limits.before_tokenizing(field), variables)
    here.limits.check_prompt(len(tokens), field)
    return tokens


def stop_strings(stop: str | Sequence[str] | None) -> Sequence[str]:
    """Return the stop strings of what is written into a text, which is cut at them; ApiError for an empty one."""
    strings = [stop] if isinstance(stop, str) else stop or []
    if not all(strings):
        raise bad_request("stop must be strings of at least one character", "stop")
    return strings


def tool(here: Serving, name: str, schema: Mapping[str, Any]) -> Tool:
    """Read a tool from the field "tools"; ApiError for a name or a schema that cannot be one's."""
    here.limits.check_schema(schema, "tools")
    try:
        return Tool(name, json.dumps(schema))
    except RequestError as error:
        raise bad_request(f"tools: {error}", "tools") from error
