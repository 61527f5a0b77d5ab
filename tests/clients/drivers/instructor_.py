# /// script
# dependencies = ["instructor==1.17.0", "anthropic==2.14.0"]
# ///
"""instructor's modes over both formats: the answer is the asked model at the first try."""

import sys
from typing import Literal

import instructor
from anthropic import Anthropic
from openai import OpenAI
from pydantic import BaseModel, Field

url, model = sys.argv[1:]


class Person(BaseModel):
    """A person."""

    role: Literal["user", "admin"]
    age: int = Field(ge=0, le=120)
    tags: list[Literal["a", "b"]] = Field(max_length=2)


# Not in Mode.JSON: there the schema stands in the prompt alone, where a model of noise does not heed it.
asked = [{"role": "user", "content": "Jo is 12."}]
for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA, instructor.Mode.TOOLS_STRICT):
    client = instructor.from_openai(OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0), mode=mode)
    asking = {"model": model, "messages": asked, "response_model": Person, "max_tokens": 200}
    assert isinstance(client.chat.completions.create(**asking, max_retries=0), Person)
last = None
client = instructor.from_openai(OpenAI(base_url=f"{url}/v1", api_key="none"), mode=instructor.Mode.TOOLS)
for partial in client.chat.completions.create_partial(
    model=model, messages=asked, response_model=Person, max_tokens=200, max_retries=0
):
    last = partial
assert last is not None
Person.model_validate(last.model_dump())
claude = instructor.from_anthropic(Anthropic(base_url=url, api_key="none"), mode=instructor.Mode.ANTHROPIC_TOOLS)
person = claude.messages.create(model=model, messages=asked, response_model=Person, max_tokens=200, max_retries=0)
assert isinstance(person, Person)
print("instructor: ok")
