"""Chat messages become the ids that ``transformers`` makes of them; what cannot be rendered is refused by name."""

import json
import shutil
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from redraft.errors import CheckpointError, RequestError
from redraft.models.tokenizer import ChatTokenizer
from tests.random_checkpoint import write_tokenizer

TEMPLATE, SETTINGS, TOKENIZER = "chat_template.jinja", "tokenizer_config.json", "tokenizer.json"
CHATS = [
    [{"role": "user", "content": "w20"}],
    [{"role": "system", "content": "w30 w31"}, {"role": "user", "content": "w20\nw21"}],
    [
        {"role": "user", "content": "w20"},
        {"role": "model", "content": "w40 w41"},
        {"role": "user", "content": "w21 <|turn> w22"},
    ],
]


@pytest.fixture
def folder(tmp_path) -> Path:
    write_tokenizer(tmp_path, vocab_size=64)
    return tmp_path


def put_template_into_settings(folder: Path) -> None:
    settings = json.loads((folder / SETTINGS).read_text())
    settings["chat_template"] = (folder / TEMPLATE).read_text()
    (folder / SETTINGS).write_text(json.dumps(settings))
    (folder / TEMPLATE).unlink()


class TestChat:
    @pytest.mark.parametrize("place", [TEMPLATE, SETTINGS])
    @pytest.mark.parametrize("messages", CHATS, ids=len)
    def test_ids_are_the_references(self, folder, messages, place):
        if place == SETTINGS:
            put_template_into_settings(folder)
        reference = PreTrainedTokenizerFast.from_pretrained(folder)
        expected = reference.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert ChatTokenizer.from_folder(folder).encode_chat(messages) == expected

    def test_the_templates_own_file_wins(self, folder):
        settings = json.loads((folder / SETTINGS).read_text())
        (folder / SETTINGS).write_text(json.dumps({**settings, "chat_template": "w63"}))
        assert 63 not in ChatTokenizer.from_folder(folder).encode_chat(CHATS[0])

    def test_special_tokens_may_be_written_as_objects(self, folder):
        expected = ChatTokenizer.from_folder(folder).encode_chat(CHATS[0])
        (folder / SETTINGS).write_text(json.dumps({"bos_token": {"content": "<bos>", "lstrip": False}}))
        assert ChatTokenizer.from_folder(folder).encode_chat(CHATS[0]) == expected

    def test_the_beginning_is_marked_once(self, folder):
        tokenizer = ChatTokenizer.from_folder(folder)
        assert tokenizer.encode_chat(CHATS[0]).count(2) == 1
        assert tokenizer.encode("w20") == [2, 20]

    def test_no_template(self, folder):
        (folder / TEMPLATE).unlink()
        with pytest.raises(RequestError, match="no chat template; pass the prompt as raw text"):
            ChatTokenizer.from_folder(folder).encode_chat(CHATS[0])

    @pytest.mark.parametrize(
        ("template", "words"),
        [
            ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
            ("{% if %}", "template"),
            ("{{ messages[0].tool.name }}", "template"),
            pytest.param(
                "{{ messages[0].content + 1 }}",
                "template",
            ),
        ],
    )
    def test_template_that_refuses_or_fails(self, folder, template, words):
        (folder / TEMPLATE).write_text(template)
        with pytest.raises(RequestError, match=words):
            ChatTokenizer.from_folder(folder).encode_chat(CHATS[0])

    @pytest.mark.parametrize(
        ("message", "words"),
        [
            ({"content": "w20"}, "message 1 must have a 'role' and a 'content'"),
            ({"role": "user"}, "message 1 must have a 'role' and a 'content'"),
            ({"role": 3, "content": "w20"}, "message 1 must have a 'role'"),
            ("w20", "message 1 must have a 'role'"),
            ({"role": "user", "content": None}, "message 1 has content of type NoneType"),
            ({"role": "user", "content": [{"type": "image", "url": "cat.png"}]}, "type 'image'; only 'text'"),
            ({"role": "user", "content": ["w20"]}, "part of type None; only 'text'"),
            ({"role": "clown", "content": "w20"}, "unknown role clown"),
        ],
    )
    def test_message_that_cannot_be_honoured(self, folder, message, words):
        with pytest.raises(RequestError, match=words):
            ChatTokenizer.from_folder(folder).encode_chat([CHATS[0][0], message])


class TestText:
    def test_markers_survive_decoding(self, folder):
        """Tool and turn markers are part of what the model said."""
        assert ChatTokenizer.from_folder(folder).decode([4, 7, 20, 5]) == "<|turn> model w20 <turn|>"

    @pytest.mark.parametrize("text", ["unheard-of", "w20 w999", "\ud800"])
    def test_text_without_tokens_is_refused(self, folder, text):
        with pytest.raises(RequestError, match="no tokens for this text"):
            ChatTokenizer.from_folder(folder).encode(text)

    @pytest.mark.parametrize(("token", "text"), [(20, "w20"), (5, "<turn|>"), (64, "<64>")])
    def test_piece_of_any_id(self, folder, token, text):
        assert ChatTokenizer.from_folder(folder).piece(token) == text


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (TOKENIZER, None, "has no tokenizer.json"),
        (TOKENIZER, b"{}", "not a readable tokenizer"),
        (SETTINGS, b"{,", "tokenizer_config.json is not valid JSON"),
        pytest.param(SETTINGS, b"[]", SETTINGS),
        pytest.param(TEMPLATE, b"\xff", TEMPLATE),
    ],
)
def test_damaged_file_is_named(folder, name, content, words):
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=words):
        ChatTokenizer.from_folder(folder)


def test_settings_and_template_are_optional(folder):
    (folder / SETTINGS).unlink()
    shutil.move(folder / TEMPLATE, folder / "elsewhere")
    assert ChatTokenizer.from_folder(folder).encode("w20") == [2, 20]
