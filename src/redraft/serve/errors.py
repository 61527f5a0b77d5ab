"""Errors as a client is told of them, in the envelope that its format has for them."""

import json
import re
from collections.abc import Mapping
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.responses import Response

from redraft.errors import (
    BusyError,
    CancelledError,
    ConstraintError,
    DeadlineError,
    GenerationError,
    RequestError,
    ShuttingDownError,
)

# Seconds after which a client that was turned away may come again.
RETRY_AFTER = 1
_MAX_MESSAGE = 4000
# What was left out of a request that was answered all the same.
WARNING_HEADER = "x-redraft-warning"

# System One has an envelope of its own, as Anthropic's routes have.
_DECISIONS = "/v1/systemone"

_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    413: "request_too_large",
    422: "invalid_request_error",
    429: "rate_limit_error",
    503: "overloaded_error",
}


class ApiError(Exception):
    """An error with everything that any of the envelopes says about it."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, type: str | None = None, code: str | None = None
    ) -> None:
        # It may repeat what a client sent.
        message = message if len(message) <= _MAX_MESSAGE else f"{message[:_MAX_MESSAGE]}... and so on"
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.type = type or ("invalid_request_error" if status < 500 else "server_error")

    @property
    def headers(self) -> dict[str, str]:
        """The headers that belong to the status."""
        if self.status in (429, 503):
            return {"retry-after": str(RETRY_AFTER)}
        return {"www-authenticate": "Bearer"} if self.status == 401 else {}

    def envelope(self, path: str) -> dict[str, Any]:
        """Return the body, as clients of the route ``path`` read it."""
        if path.startswith("/v1/messages"):
            kind = _ANTHROPIC_TYPES.get(self.status, "api_error")
            return {"type": "error", "error": {"type": kind, "message": self.message}}
        if path == _DECISIONS:
            return {"detail": self._detail()}
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return {"error": error}

    def _detail(self) -> Any:
        """Return what System One's clients read: what is wrong in the body place by place, else what kind of error."""
        if self.status not in (400, 422):
            return {"error_type": self.type, "message": self.message}
        place = ["body", *(self.param or "").split(".")] if self.param else ["body"]
        return [{"loc": place, "msg": self.message, "type": self.code or self.type}]

    def response(self, path: str) -> Response:
        """Return the whole answer to a request that ended with this error."""
        # There what cannot be honoured is always a fault of validation.
        status = 422 if path == _DECISIONS and self.status == 400 else self.status
        return Json(self.envelope(path), status, self.headers)


class Json(Response):
    """A JSON body. Half a surrogate pair, which a client may have sent and a message repeats, is escaped."""

    media_type = "application/json"

    def __init__(self, content: Any, status_code: int = 200, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(to_json(content).encode(errors="backslashreplace"), status_code, headers)


def to_json(content: Any) -> str:
    """Write compact JSON text."""
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def bad_request(message: str, param: str | None) -> ApiError:
    """Refuse a field that cannot be honoured."""
    return ApiError(400, message, param=param)


def of_engine(error: BaseException, fields: Mapping[str, str]) -> ApiError:
    """Say to a client what went wrong in the engine.

    ``fields``: by the engine's parameters, "prompt" and "constraint" among them, the fields that they came from.
    """
    match error:
        case ApiError():
            return error
        case ConstraintError():
            return bad_request(str(error), fields.get("constraint") or _param(error, fields))
        case RequestError():
            return bad_request(str(error), _param(error, fields))
        case BusyError():
            return ApiError(429, str(error), type="rate_limit_error", code="busy")
        case ShuttingDownError() | CancelledError():
            return ApiError(503, str(error), code="shutting_down")
        case DeadlineError():
            # No status that clients answer by asking again at once.
            return ApiError(422, str(error), param=fields.get("deadline_ms"), code="deadline_exceeded")
        case GenerationError():
            return ApiError(500, str(error), code="generation_failed")
    return ApiError(500, f"the request failed inside the server: {type(error).__name__}", code="internal_error")


def of_validation(error: RequestValidationError) -> ApiError:
    """Name the first fault that was found in a body by its field."""
    fault = error.errors()[0]
    where = [str(part) for part in fault["loc"] if part not in ("body", "query")]
    if fault["type"] == "json_invalid":
        return bad_request(f"the body is not valid JSON: {fault.get('ctx', {}).get('error', fault['msg'])}", None)
    param = ".".join(where) or None
    if fault["type"] == "extra_forbidden":
        return bad_request(f"{param}: this field is unknown, or not supported by this server; leave it out", param)
    message = fault["msg"].removeprefix("Value error, ")
    return bad_request(f"{param}: {message}" if param else message, param)


def _param(error: BaseException, fields: Mapping[str, str]) -> str | None:
    """Find the field that an error of the engine is about: its messages begin with a name."""
    said = [name for name in fields if re.match(rf"{name}\b", str(error))]
    return fields.get(max(said, key=len, default="prompt"))
