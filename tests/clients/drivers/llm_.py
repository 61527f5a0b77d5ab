# /// script
# dependencies = ["llm==0.36"]
# ///
"""Simon Willison's llm: a model of one's own in its YAML file, streamed, at once, with a schema."""

import json
import os
import sys
import tempfile
from pathlib import Path

url, name = sys.argv[1:]
folder = tempfile.mkdtemp()
os.environ["LLM_USER_PATH"] = folder
described = {
    "model_id": "served", "model_name": name, "api_base": f"{url}/v1", "supports_schema": True
}  # fmt: skip
(Path(folder) / "extra-openai-models.yaml").write_text(json.dumps([described]))

import llm  # noqa: E402  (it reads where its files are)

model = llm.get_model("served")
model.key = "none"
assert isinstance(model.prompt("hi", max_tokens=30, stream=False).text(), str)
assert "".join(model.prompt("hi", system="be brief", max_tokens=30)) is not None
schema = {"type": "object", "properties": {"kind": {"enum": ["good", "bad"]}}, "required": ["kind"]}
judged = model.prompt("judge", schema=schema, max_tokens=60)
assert json.loads(judged.text())["kind"] in ("good", "bad")
print("llm: ok")
