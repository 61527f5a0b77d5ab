# /// script
# dependencies = ["langchain-openai==1.7.4", "langchain-anthropic==1.7.10"]
# ///
"""LangChain over both formats: streams, tools with a whole turn, structured output, names, stop beside tools."""

import sys
from typing import Literal

from langchain_anthropic import ChatAnthropic
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel, Field

url, model = sys.argv[1:]


@tool
def look_up(word: Literal["alpha", "beta"], times: int = 1) -> str:
    """Look a word up."""
    return word * times


class Verdict(BaseModel):
    """A verdict."""

    kind: Literal["good", "bad"]
    words: list[Literal["a", "b"]] = Field(max_length=2)


def check(chat: ChatOpenAI | ChatAnthropic, forced: str) -> None:
    said = chat.invoke([SystemMessage("be brief"), HumanMessage("hi", name="bob")])
    assert isinstance(said, AIMessage)
    assert said.usage_metadata is not None
    assert said.usage_metadata["output_tokens"] > 0
    streamed = list(chat.stream("hi"))
    assert len(streamed) > 1
    with_tools = chat.bind_tools([look_up], tool_choice=forced)
    call = with_tools.invoke("look alpha up")
    assert call.tool_calls, call
    assert call.tool_calls[0]["args"]["word"] in ("alpha", "beta")
    chunks = [chunk for chunk in with_tools.stream("look alpha up")]
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    assert whole.tool_calls[0]["name"] == "look_up", whole
    assert whole.tool_calls[0]["args"]["word"] in ("alpha", "beta")
    results = [ToolMessage("found", tool_call_id=one["id"], name="look_up") for one in call.tool_calls]
    again = chat.bind_tools([look_up]).invoke([HumanMessage("look alpha up"), call, *results], stop=["\nObservation:"])
    assert isinstance(again, AIMessage)
    verdict = chat.with_structured_output(Verdict).invoke("judge")
    assert isinstance(verdict, Verdict)


openai = ChatOpenAI(base_url=f"{url}/v1", api_key="none", model=model, max_tokens=200, temperature=0.5, max_retries=0)
check(openai, "look_up")
for method in ("json_schema", "function_calling"):
    assert isinstance(openai.with_structured_output(Verdict, method=method).invoke("judge"), Verdict)
responses = ChatOpenAI(
    base_url=f"{url}/v1", api_key="none", model=model, use_responses_api=True, max_tokens=200, max_retries=0
)
check(responses, "look_up")
check(ChatAnthropic(base_url=url, api_key="none", model=model, max_tokens=200, max_retries=0), "look_up")
assert isinstance(OpenAI(base_url=f"{url}/v1", api_key="none", model=model, max_tokens=20).invoke("hi"), str)
print("langchain: ok")
