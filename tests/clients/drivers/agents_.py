# /// script
# dependencies = ["openai-agents==0.24.0"]
# ///
"""OpenAI's agents over chat completions and responses: a tool turn, a typed result, a stream."""

import asyncio
import sys
from typing import Literal

from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from openai import AsyncOpenAI
from pydantic import BaseModel

url, model = sys.argv[1:]
set_tracing_disabled(True)


class Verdict(BaseModel):
    """A verdict."""

    kind: Literal["good", "bad"]


called: list[str] = []


@function_tool
def look_up(word: Literal["alpha", "beta"]) -> str:
    """Look a word up."""
    called.append(word)
    return "found"


async def main() -> None:
    client = AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    for kind in (OpenAIChatCompletionsModel, OpenAIResponsesModel):
        one = kind(model, client)
        typed = Agent(name="judge", model=one, output_type=Verdict, model_settings=ModelSettings(max_tokens=100))
        assert (await Runner.run(typed, "judge")).final_output.kind in ("good", "bad")
        called.clear()
        # The agent itself goes back to "auto" after the first call.
        settings = ModelSettings(max_tokens=100, tool_choice="required", parallel_tool_calls=False, metadata={"a": "b"})
        agent = Agent(name="helper", instructions="be brief", model=one, tools=[look_up], model_settings=settings)
        result = await Runner.run(agent, "look alpha up", max_turns=30)
        assert isinstance(result.final_output, str)
        assert called
        streamed = Runner.run_streamed(agent, "look alpha up", max_turns=30)
        kinds = {event.type async for event in streamed.stream_events()}
        assert {"raw_response_event", "run_item_stream_event"} <= kinds
        followed = await Runner.run(agent, [*result.to_input_list(), {"role": "user", "content": "more"}], max_turns=30)
        assert isinstance(followed.final_output, str)


asyncio.run(main())
print("openai-agents: ok")
