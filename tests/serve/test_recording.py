"""What a server keeps of its answers: a file each, from which the answer can be had again."""

from pathlib import Path

from redraft.api import Engine
from redraft.record.recorder import RecordingFolder
from redraft.record.recording import Recording
from redraft.record.replay import replay
from redraft.serve.state import ServerSettings
from tests.serve.conftest import NAME, serving

CHAT = {"model": NAME, "messages": [{"role": "user", "content": "one"}], "max_tokens": 60}
EDIT = "<|current_file_content|>\na\n<|code_to_edit|>\nb\n<|/code_to_edit|>\nc\n<|/current_file_content|>"
APPLY = "<|original_code|>\na\n<|/original_code|>\n<|update_snippet|>\nb\n<|/update_snippet|>"
SCHEMA = {"type": "object", "properties": {"who": {"enum": ["Ada", "Bo"]}}, "required": ["who"]}
REQUESTS = {
    "/v1/chat/completions": CHAT,
    "/v1/messages": CHAT,
    "/v1/completions": {"model": NAME, "prompt": "two ", "suffix": " three", "max_tokens": 8},
    "/v1/fim/completions": {"model": NAME, "prompt": "two ", "suffix": " three", "max_tokens": 8},
    "/v1/edit/completions": {"model": NAME, "messages": [{"role": "user", "content": EDIT}]},
    "/v1/apply/completions": {"model": NAME, "messages": [{"role": "user", "content": APPLY}], "max_tokens": 8},
    "/v1/redraft/generate": {"prompt": "four", "max_tokens": 8},
    "/v1/redraft/choose": {"prompt": "five", "questions": {"a": ["yes", "no"]}},
    "/v1/redraft/extract": {"text": "Ada", "schema": SCHEMA, "layout": "slots", "draft": {"who": "Bo"}},
    "/v1/systemone": {"model": NAME, "state": "six", "questions": {"a": {"type": "noul", "instructions": "Is it?"}}},
}


def test_every_answer_leaves_a_file_that_replays_to_the_same(engine: Engine, alone: Engine, tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    with serving(engine, ServerSettings(NAME, record=RecordingFolder(folder))) as up:
        for count, (route, body) in enumerate(REQUESTS.items(), 1):
            assert up.post(route, body).status_code == 200, route
            assert len(list(folder.iterdir())) == count, route
        two = up.post("/v1/chat/completions", {**CHAT, "n": 2, "seed": 5})
        assert len(list(folder.iterdir())) == len(REQUESTS) + 2
    texts = set()
    for path in folder.iterdir():
        recording = Recording.load(path)
        assert replay(recording, alone).identical
        texts.add(recording.header["result"].get("text"))
    assert {choice["message"]["content"] for choice in two.json()["choices"]} <= texts


def test_prompts_can_be_left_out(engine: Engine, tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    with serving(engine, ServerSettings(NAME, record=RecordingFolder(folder, keep_prompts=False))) as up:
        up.post("/v1/chat/completions", CHAT)
    (path,) = folder.iterdir()
    assert set(Recording.load(path).header["request"]["prompt"]) == {"tokens", "sha256"}
