# /// script
# dependencies = ["pydantic-ai-slim[openai,anthropic]==2.68.0"]
# ///
"""pydantic-ai's agents over three formats: a tool turn and a typed result, at once and streamed."""

import asyncio
import sys
from typing import Literal

from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput, ToolOutput
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.usage import UsageLimits

url, model = sys.argv[1:]


class Verdict(BaseModel):
    """A verdict."""

    kind: Literal["good", "bad"]


called: list[str] = []


def look_up(word: Literal["alpha", "beta"]) -> str:
    """Look a word up."""
    called.append(word)
    return "found"


async def main() -> None:
    openai = OpenAIProvider(base_url=f"{url}/v1", api_key="none")
    for one in (
        OpenAIChatModel(model, provider=openai),
        OpenAIResponsesModel(model, provider=openai),
        AnthropicModel(model, provider=AnthropicProvider(base_url=url, api_key="none")),
    ):
        settings = {"max_tokens": 200}
        typed = Agent(one, output_type=ToolOutput(Verdict), model_settings=settings, retries=0)
        assert (await typed.run("judge")).output.kind in ("good", "bad")
        async with typed.run_stream("judge") as stream:
            assert (await stream.get_output()).kind in ("good", "bad")
        if not isinstance(one, AnthropicModel):
            native = Agent(one, output_type=NativeOutput(Verdict), model_settings=settings, retries=0)
            assert (await native.run("judge")).output.kind in ("good", "bad")
        # The model of noise calls one of the two at random, and the result's tool ends it sooner or later.
        agent = Agent(one, output_type=ToolOutput(Verdict), model_settings=settings, retries=3)
        called.clear()
        agent.tool_plain(look_up)

        for attempt in range(8):
            result = await agent.run(f"judge {attempt}", usage_limits=UsageLimits(request_limit=40))
            assert isinstance(result.output, Verdict)
            if called:
                break
        assert called


asyncio.run(main())
print("pydantic-ai: ok")
