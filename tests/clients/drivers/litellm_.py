# /// script
# dependencies = ["litellm[proxy]==1.108.7"]
# ///
"""litellm over three formats, and its proxy between OpenAI's client and the server."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm
from openai import OpenAI

url, model = sys.argv[1:]
PARAMETERS = {"type": "object", "properties": {"word": {"enum": ["alpha", "beta"]}}, "required": ["word"]}
TOOL = {"type": "function", "function": {"name": "look_up", "description": "Look up.", "parameters": PARAMETERS}}
ASKED = [{"role": "user", "content": "look alpha up", "name": "bob"}]


def through(client: OpenAI, name: str) -> None:
    """A stream, a tool turn and a schema."""
    pieces = client.chat.completions.create(model=name, messages=ASKED, max_tokens=30, stream=True)
    assert [piece for piece in pieces][-1].choices[0].finish_reason in ("stop", "length")
    called = client.chat.completions.create(
        model=name, messages=ASKED, max_tokens=90, tools=[TOOL], tool_choice="required", stop=["\nObservation"], seed=1
    )
    (call, *_) = called.choices[0].message.tool_calls
    assert json.loads(call.function.arguments)["word"] in ("alpha", "beta")
    turns = [*ASKED, called.choices[0].message.model_dump(exclude_none=True)]
    turns += [{"role": "tool", "name": "look_up", "tool_call_id": one.id, "content": "found"}
              for one in called.choices[0].message.tool_calls]  # fmt: skip
    assert client.chat.completions.create(model=name, messages=turns, max_tokens=30, tools=[TOOL]).choices
    schema = {"name": "s", "schema": PARAMETERS}
    said = client.chat.completions.create(
        model=name, messages=ASKED, max_tokens=60, response_format={"type": "json_schema", "json_schema": schema}
    )
    assert json.loads(said.choices[0].message.content)["word"] in ("alpha", "beta")


for provider, base in (("openai", f"{url}/v1"), ("hosted_vllm", f"{url}/v1"), ("anthropic", url)):
    common = {"model": f"{provider}/{model}", "api_base": base, "api_key": "none", "messages": ASKED, "num_retries": 0}
    assert litellm.completion(**common, max_tokens=30).choices[0].finish_reason in ("stop", "length")
    pieces = list(litellm.completion(**common, max_tokens=30, stream=True))
    assert pieces[-1].choices[0].finish_reason in ("stop", "length")
    forced = {"type": "function", "function": {"name": "look_up"}}
    called = litellm.completion(**common, max_tokens=90, tools=[TOOL], tool_choice=forced)
    (call,) = called.choices[0].message.tool_calls
    assert json.loads(call.function.arguments)["word"] in ("alpha", "beta"), provider

with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
with tempfile.TemporaryDirectory() as folder:
    config = Path(folder) / "config.yaml"
    settings = {"model": f"openai/{model}", "api_base": f"{url}/v1", "api_key": "none"}
    config.write_text(json.dumps({"model_list": [{"model_name": "proxied", "litellm_params": settings}]}))
    program = Path(sys.executable).parent / "litellm"
    environment = {**os.environ, "LITELLM_MASTER_KEY": "sk-proxy"}
    command = [program, "--config", config, "--host", "127.0.0.1", "--port", str(port)]
    proxy = subprocess.Popen(command, env=environment)
    try:
        end = time.monotonic() + 240
        while True:
            assert proxy.poll() is None, "the proxy ended"
            assert time.monotonic() < end, "the proxy did not start"
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health/liveliness")
                break
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.5)
        through(OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="sk-proxy", max_retries=0), "proxied")
    finally:
        proxy.terminate()
        proxy.wait(30)
print("litellm: ok")
