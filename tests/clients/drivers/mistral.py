# /// script
# dependencies = ["mistralai==3.7.0"]
# ///
"""Mistral's client: models, chat with streams and tools, and fill in the middle."""

import sys

from mistralai.client import Mistral

url, model = sys.argv[1:]
TOOL = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Look a word up.",
        "parameters": {"type": "object", "properties": {"word": {"enum": ["alpha", "beta"]}}, "required": ["word"]},
    },
}
with Mistral(server_url=url, api_key="none") as client:
    (card,) = client.models.list().data
    assert (card.id, card.type) == (model, "base"), card
    assert card.capabilities.completion_chat
    assert client.models.retrieve(model_id=model).id == model
    asked = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]
    said = client.chat.complete(model=model, messages=asked, max_tokens=40, random_seed=3, temperature=0.7)
    again = client.chat.complete(model=model, messages=asked, max_tokens=40, random_seed=3, temperature=0.7)
    assert said.choices[0].message.content == again.choices[0].message.content
    with client.chat.stream(model=model, messages=asked, max_tokens=40, random_seed=3, temperature=0.7) as events:
        text = "".join(event.data.choices[0].delta.content or "" for event in events)
    assert text == said.choices[0].message.content
    called = client.chat.complete(model=model, messages=asked, max_tokens=80, tools=[TOOL], tool_choice="any")
    message = called.choices[0].message
    assert message.tool_calls[0].function.name == "look_up"
    turns = [*asked, message]
    turns += [{"role": "tool", "name": "look_up", "content": "found", "tool_call_id": one.id}
              for one in message.tool_calls]  # fmt: skip
    assert client.chat.complete(model=model, messages=turns, max_tokens=40, tools=[TOOL]).choices
    json = client.chat.complete(model=model, messages=asked, max_tokens=80, response_format={"type": "json_object"})
    assert json.choices[0].message.content.startswith("{")
    filled = client.fim.complete(model=model, prompt="a = ", suffix="\nprint(a)", max_tokens=20, random_seed=1)
    assert isinstance(filled.choices[0].message.content, str)
print("mistralai: ok")
