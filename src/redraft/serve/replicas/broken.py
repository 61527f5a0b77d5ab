"""The end of a stream whose replica was lost in the midst of it, in the words of its wire format."""

import json
from typing import Any

from redraft.serve.errors import ApiError, to_json
from redraft.serve.wire import anthropic, events
from redraft.serve.wire.openai.common import frame


def broken(path: str, error: ApiError, first: bytes, last: bytes) -> bytes:
    """Return the event that ends the stream of the route ``path``. ``first``, ``last``: the events that its client was
    sent first and last."""
    if path.startswith("/v1/messages"):
        text = anthropic.failed(error, path)
    elif path.startswith("/v1/redraft/"):
        text = events.failed(error)
    elif path == "/v1/responses":
        text = _response(error, _content(first), _content(last))
    else:
        text = frame(error.envelope(path))
    return text.encode(errors="backslashreplace")


def _response(error: ApiError, first: dict[str, Any], last: dict[str, Any]) -> str:
    """Fail a response, as it was when it began: what came of it since the client has."""
    problem = {"code": "server_error", "message": error.message}
    response = {**first.get("response", {}), "status": "failed", "error": problem}
    content = {
        "type": "response.failed",
        "sequence_number": int(last.get("sequence_number", 0)) + 1,
        "response": response,
    }
    return f"event: response.failed\ndata: {to_json(content)}\n\n"


def _content(event: bytes) -> dict[str, Any]:
    data = b"".join(line[6:] for line in event.splitlines() if line.startswith(b"data: "))
    try:
        found = json.loads(data)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
