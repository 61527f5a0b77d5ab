"""The output items of OpenAI's Responses API and the strict order of the events that write them."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

from redraft.engine.result import Result
from redraft.models.tools import CallPart
from redraft.serve.deltas import Piece
from redraft.serve.errors import ApiError, to_json
from redraft.serve.prepare import Prepared
from redraft.serve.wire.openai.common import thought_tokens, usage


@dataclass(frozen=True)
class _Part:
    """The one part of an item's text: where it stands, its type, what the events about it and its text are called."""

    place: str
    type: str
    events: str
    text_events: str


_MESSAGE = _Part("content", "output_text", "response.content_part", "response.output_text")
_THOUGHT = _Part("content", "reasoning_text", "response.content_part", "response.reasoning_text")
_SUMMARY = _Part("summary", "summary_text", "response.reasoning_summary_part", "response.reasoning_summary_text")
_IDS = {"message": "msg", "reasoning": "rs", "function_call": "fc"}


class ResponseEvents:
    """One response as it grows. Each method yields the server-sent events of what happened; who wants the whole alone
    may drop them."""

    def __init__(
        self,
        described: dict[str, Any],
        names: Mapping[str, tuple[str | None, str]] | None = None,
        summarised: bool = False,
    ) -> None:
        """``described``: what the response repeats of its request. ``names``: of functions as the model knows them, the
        namespace and name that the client knows them by. ``summarised``: a thought is told as its summary."""
        self._described, self._names = described, names or {}
        self._parts = {"message": _MESSAGE, "reasoning": _SUMMARY if summarised else _THOUGHT}
        """The parts, by an item's type."""
        self._id, self._created = f"resp_{uuid4().hex}", int(time.time())
        self._output: list[dict[str, Any]] = []
        self._open: dict[str, Any] | None = None
        """The item that still grows; the last of the output."""
        self._sent = 0

    def begin(self, certain: Piece) -> Iterator[str]:
        """Begin the response, with what is ``certain`` before any work."""
        yield self._event("response.created", response=self._response("in_progress"))
        yield self._event("response.in_progress", response=self._response("in_progress"))
        yield from self.add(certain)

    def add(self, piece: Piece) -> Iterator[str]:
        """Add a canvas's piece to the response."""
        if piece.thought:
            yield from self._write("reasoning", piece.thought)
        if piece.text:
            yield from self._write("message", piece.text)
        for part in piece.parts:
            yield from self._call(part)

    def end(self, prepared: Prepared, result: Result) -> Iterator[str]:
        """End the response, which is whole."""
        if not self._output:
            yield from self._write("message", "")
        yield from self._close("incomplete" if result.finish_reason == "length" else "completed")
        response = self._finished(prepared, result)
        yield self._event(f"response.{response['status']}", response=response)

    def whole(self, prepared: Prepared, result: Result, piece: Piece) -> dict[str, Any]:
        """Return the response, all of which ``piece`` says."""
        parts = [CallPart(number, call.name, call.arguments, last=True) for number, call in enumerate(piece.calls)]
        for _ in (*self.add(replace(piece, parts=parts)), *self.end(prepared, result)):
            pass
        return self._finished(prepared, result)

    def fail(self, error: ApiError) -> str:
        """End the response here, in the midst of the item that is open."""
        if self._open is not None:
            self._open["status"] = "incomplete"
        problem = {"code": "server_error", "message": error.message}
        return self._event("response.failed", response=self._response("failed", error=problem))

    def _write(self, type: str, text: str) -> Iterator[str]:
        """Write text at the end of the open item, or of a new one where that is of another type."""
        part = self._parts[type]
        if self._open is None or self._open["type"] != type:
            yield from self._close()
            item = self._item(type, content=[])
            if type == "message":
                item["role"] = "assistant"
            else:
                item["summary"] = []
            yield from self._add(item)
            item[part.place].append({"type": part.type, "text": ""} | _more(part))
            yield self._of_part(f"{part.events}.added", part, part=dict(item[part.place][0]))
            self._open = item
        if text:
            self._open[part.place][0]["text"] += text
            yield self._of_part(f"{part.text_events}.delta", part, delta=text, **_logprobs(part))

    def _call(self, part: CallPart) -> Iterator[str]:
        """Begin a call, or add to it."""
        if part.name is not None:
            yield from self._close()
            space, name = self._names.get(part.name, (None, part.name))
            item = {"call_id": f"call_{uuid4().hex}", "name": name, "arguments": ""}
            self._open = self._item("function_call", **item, **({} if space is None else {"namespace": space}))
            yield from self._add(self._open)
        assert self._open is not None, "a call begins with its name"
        if part.arguments:
            self._open["arguments"] += part.arguments
            yield self._of_item("response.function_call_arguments.delta", delta=part.arguments)
        if part.last:
            yield from self._close()

    def _close(self, status: str = "completed") -> Iterator[str]:
        """Close the item that is open: nothing is added to it any more."""
        if self._open is None:
            return
        item, self._open = self._open, None
        if item["type"] == "function_call":
            given = {"arguments": item["arguments"], "name": item["name"]}
            yield self._of_item("response.function_call_arguments.done", **given)
        else:
            part = self._parts[item["type"]]
            whole = item[part.place][0]
            yield self._of_part(f"{part.text_events}.done", part, text=whole["text"], **_logprobs(part))
            yield self._of_part(f"{part.events}.done", part, part=whole)
        item["status"] = status
        yield self._event("response.output_item.done", output_index=len(self._output) - 1, item=item)

    def _item(self, type: str, **more: Any) -> dict[str, Any]:
        return {"id": f"{_IDS[type]}_{uuid4().hex}", "type": type, "status": "in_progress", **more}

    def _add(self, item: dict[str, Any]) -> Iterator[str]:
        self._output.append(item)
        yield self._event("response.output_item.added", output_index=len(self._output) - 1, item=item)

    def _finished(self, prepared: Prepared, result: Result) -> dict[str, Any]:
        cut = result.finish_reason == "length"
        cost = usage([result], thought_tokens(prepared, [result]))
        return self._response(
            "incomplete" if cut else "completed",
            completed_at=None if cut else int(time.time()),
            incomplete_details={"reason": "max_output_tokens"} if cut else None,
            unconverged_canvases=list(result.unconverged_canvases),
            usage={
                "input_tokens": cost["prompt_tokens"],
                "input_tokens_details": {**cost["prompt_tokens_details"], "cache_write_tokens": 0},
                "output_tokens": cost["completion_tokens"],
                "output_tokens_details": cost["completion_tokens_details"],
                "total_tokens": cost["total_tokens"],
                "canvases": cost["canvases"],
                "denoising_steps": cost["denoising_steps"],
                "forwards": cost["forwards"],
                "accepted_drafts": cost["accepted_drafts"],
            },
        )

    def _response(self, status: str, **more: Any) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "usage": None,
            **self._described,
            "output": self._output,
            **more,
        }

    def _of_item(self, type: str, **fields: Any) -> str:
        """Write an event about the last item."""
        place = {"item_id": self._output[-1]["id"], "output_index": len(self._output) - 1}
        return self._event(type, **place, **fields)

    def _of_part(self, type: str, of: _Part, **fields: Any) -> str:
        """Write an event about the last item's part."""
        return self._of_item(type, **{f"{of.place}_index": 0}, **fields)

    def _event(self, type: str, **fields: Any) -> str:
        content = {"type": type, "sequence_number": self._sent, **fields}
        self._sent += 1
        return f"event: {type}\ndata: {to_json(content)}\n\n"


def _more(part: _Part) -> dict[str, Any]:
    return {"annotations": [], "logprobs": []} if part is _MESSAGE else {}


def _logprobs(part: _Part) -> dict[str, Any]:
    return {"logprobs": []} if part is _MESSAGE else {}
