"""The list of models, in the words of every client that asks for it."""

import time
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter
from fastapi import Request as HttpRequest

from redraft.serve.state import Serving, all_serving, serving

router = APIRouter()
_STARTED = int(time.time())


@router.get("/v1/models")
async def models(http: HttpRequest) -> dict[str, Any]:
    """List the models, the one first that answers where none is named."""
    all = all_serving(http)
    found = [all.default, *(one for one in all.models.values() if one is not all.default)]
    names = [one.settings.model for one in found]
    # OpenAI's and Anthropic's clients read "data", System One's "models".
    described = [
        {
            "name": one.settings.model,
            "description": "A block-diffusion language model." if _has_canvas(one) else "A language model.",
            "release_date": "",
        }
        for one in found
    ]
    pages = {"has_more": False, "first_id": names[0], "last_id": names[-1]}
    return {"object": "list", "data": [_model(one, http) for one in found], **pages, "models": described}


@router.get("/v1/models/{name:path}")
async def model(name: str, http: HttpRequest) -> dict[str, Any]:
    """Describe a model, by its name."""
    return _model(serving(http, name), http)


def _has_canvas(here: Serving) -> bool:
    return "diffusion" in here.runtime.model.modes


def _model(here: Serving, http: HttpRequest) -> dict[str, Any]:
    config = here.runtime.model.config
    about: dict[str, Any] = {
        "id": here.settings.model,
        "object": "model",
        "created": _STARTED,
        "owned_by": "redraft",
        "context_length": config.context_length,
        "max_model_len": config.context_length,
        "canvas_length": config.canvas_length,
        "modes": list(here.runtime.modes),
        "display_name": here.settings.model,
        "created_at": datetime.fromtimestamp(_STARTED, UTC).isoformat().replace("+00:00", "Z"),
    }
    # Two formats have a "type" and "capabilities" of their own. Anthropic's clients always send this header.
    if "anthropic-version" in http.headers:
        lengths = {"max_input_tokens": config.context_length, "max_tokens": config.context_length}
        return {**about, "type": "model", "lifecycle": "active", **lengths}
    runtime = here.runtime
    capabilities = {
        "completion_chat": runtime.tokenizer.template is not None,
        "function_calling": bool(runtime.tool_markers) and runtime.tokenizer.knows_tools,
        "reasoning": runtime.thought_markers is not None,
        "completion_fim": _has_canvas(here),
        "fine_tuning": False,
        "vision": False,
    }
    return {**about, "type": "base", "max_context_length": config.context_length, "capabilities": capabilities}
