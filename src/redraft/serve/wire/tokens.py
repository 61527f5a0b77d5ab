"""vLLM's routes about tokens: from a text or messages to token ids, and back."""

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from pydantic import Field
from starlette.responses import Response

from redraft.engine.thinking import wants_thought, without_switches
from redraft.serve.errors import Json, bad_request
from redraft.serve.prepare import prompt_tokens
from redraft.serve.state import Serving, serving
from redraft.serve.wire.fields import HINT, Body, only
from redraft.serve.wire.openai.chat import for_template
from redraft.serve.wire.openai.chat_fields import FunctionTool, Message, Tool
from redraft.serve.wire.openai.common import Choice, tools_of

router = APIRouter()


class TokenizeBody(Body):
    """The body of a request for the tokens of a text, or of a chat's prompt as a completion of it would have."""

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[Message], Field(min_length=1)] | None = None
    tools: list[Tool] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_special_tokens: bool | None = None
    """True if a text begins as a prompt does, which is the default. A chat's prompt has what its template writes."""
    add_generation_prompt: Annotated[bool | None, only(True, instead="the prompt ends where the model begins")] = None
    continue_final_message: Annotated[bool | None, only(False)] = None
    chat_template: Annotated[None, only(instead="the checkpoint's own is used")] = None
    return_token_strs: bool | None = None
    mm_processor_kwargs: Annotated[dict[str, Any] | None, HINT] = None


class DetokenizeBody(Body):
    """The body of a request for the text of tokens."""

    model: str | None = None
    tokens: list[Annotated[int, Field(ge=0)]]


@router.post("/tokenize")
async def tokenize(body: TokenizeBody, http: HttpRequest) -> Response:
    """Return the token ids of a text or of messages."""
    here = serving(http, body.model)
    if (body.prompt is None) == (body.messages is None):
        raise bad_request("give exactly one of prompt and messages", "prompt")
    if body.prompt is not None and body.tools:
        raise bad_request("tools are shown to the model with messages alone; leave them out", "tools")
    if body.prompt is not None and body.chat_template_kwargs:
        raise bad_request("chat_template_kwargs are for messages alone; leave them out", "chat_template_kwargs")
    if body.messages is not None and body.add_special_tokens:
        raise bad_request("add_special_tokens: a chat's prompt has those of its template; leave it out",
                          "add_special_tokens")  # fmt: skip
    source = "prompt" if body.messages is None else "messages"
    fields = {"prompt": source, "chat_template_kwargs": "chat_template_kwargs"}
    tokens = await here.check(lambda: _tokens(here, body, source), fields)
    answer: dict[str, Any] = {"count": len(tokens), "max_model_len": here.runtime.model.config.context_length}
    strings = [here.tokenizer.piece(token) for token in tokens] if body.return_token_strs else None
    return Json({**answer, "tokens": list(tokens), "token_strs": strings})


def _tokens(here: Serving, body: TokenizeBody, source: str) -> Sequence[int]:
    if body.messages is None:
        text, check = body.prompt or "", here.limits.before_tokenizing(source)
        encode = here.tokenizer.encode_text if body.add_special_tokens is False else here.tokenizer.encode
        return encode(text, check)
    functions = [tool.function for tool in body.tools or () if isinstance(tool, FunctionTool)]
    tools = tools_of(here, functions, Choice("auto"), None)
    thinking = wants_thought(None, template=body.chat_template_kwargs)
    variables = without_switches(body.chat_template_kwargs)
    messages = [for_template(message) for message in body.messages]
    return prompt_tokens(here, messages, source, thinking, tools, variables)


@router.get("/tokenizer_info")
async def tokenizer_info(http: HttpRequest, model: str | None = None) -> Response:
    """Return the names of special tokens and the chat template, with which clients render prompts themselves."""
    here = serving(http, model)
    tokenizer, ends = here.tokenizer, here.runtime.model.defaults.end_token_ids
    end = {"eos_token": tokenizer.piece(ends[0])} if ends else {"eos_token": None}
    return Json({**end, **tokenizer.special, "chat_template": tokenizer.template})


@router.post("/detokenize")
async def detokenize(body: DetokenizeBody, http: HttpRequest) -> Response:
    """Return the text of tokens, special tokens by their names."""
    here = serving(http, body.model)
    size = here.tokenizer.vocab_size
    unknown = next((token for token in body.tokens if token >= size), None)
    if unknown is not None:
        raise bad_request(f"tokens: {unknown} is no token; ids go from 0 to {size - 1}", "tokens")
    text = await here.check(lambda: here.tokenizer.decode_all(body.tokens), {})
    return Json({"prompt": text})
