"""What the wire formats share on the way to the engine."""

from typing import Any

import pytest

from tests.serve.conftest import NAME, Served

MESSAGES = [{"role": "user", "content": "say something"}]
SCHEMA = {"type": "object", "properties": {}}


def openai_tool(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": SCHEMA}}


@pytest.mark.parametrize("name", ["", "two words", "x" * 65])
@pytest.mark.parametrize("route", ["/v1/chat/completions", "/v1/responses", "/v1/messages"])
def test_a_name_that_no_tool_can_have_is_refused_by_its_field(served: Served, route: str, name: str):
    fields: dict[str, dict[str, Any]] = {
        "/v1/chat/completions": {"messages": MESSAGES, "tools": [openai_tool(name)]},
        "/v1/responses": {"input": MESSAGES, "tools": [{"type": "function", "name": name, "parameters": SCHEMA}]},
        "/v1/messages": {"messages": MESSAGES, "max_tokens": 9, "tools": [{"name": name, "input_schema": SCHEMA}]},
    }
    answer = served.post(route, {"model": NAME, **fields[route]})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error.get("param", "tools") == "tools"
    assert error["message"].startswith(f"tools: tool name {name!r} must be 1 to 64 letters")
