"""Chat messages become the ids that ``transformers`` makes of them; what cannot be rendered is refused by name."""

import json
import random
import shutil
import sys
import threading
import time
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from redraft.errors import CheckpointError, RequestError
from redraft.models.thoughts import ThoughtSyntax
from redraft.models.tokenizer import LONG, ChatTokenizer
from redraft.train.recipes.sudoku.export import tokenizer as sudoku_tokenizer
from tests.constrain.gemma_tokenizer import gemma_tokenizer
from tests.random_checkpoint import THOUGHT, THOUGHT_IDS, write_letters_tokenizer, write_tokenizer

SYNTAX = ThoughtSyntax(*THOUGHT, "thought\n")
TEMPLATE, SETTINGS, TOKENIZER = "chat_template.jinja", "tokenizer_config.json", "tokenizer.json"
CHATS = [
    [{"role": "user", "content": "w20"}],
    [{"role": "system", "content": "w30 w31"}, {"role": "user", "content": "w20\nw21"}],
    [
        {"role": "user", "content": "w20"},
        {"role": "model", "content": "w40 w41"},
        {"role": "user", "content": "w21 w22"},
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
    def test_markers_are_no_text_unless_all_is_wanted(self, folder):
        own = ChatTokenizer.from_folder(folder)
        assert own.decode([4, 7, 20, 5]) == "model w20"
        assert own.decode_all([4, 7, 20, 5]) == "<|turn> model w20 <turn|>"

    def test_half_a_character_is_named(self, folder):
        with pytest.raises(RequestError, match="half a character at 3"):
            ChatTokenizer.from_folder(folder).encode("w20\ud800")

    @pytest.mark.parametrize("text", ["unheard-of", "w20 w999"])
    def test_text_without_tokens_is_refused(self, folder, text):
        with pytest.raises(RequestError, match="no tokens for this text"):
            ChatTokenizer.from_folder(folder).encode(text)

    @pytest.mark.parametrize(("token", "text"), [(20, "w20"), (5, "<turn|>"), (64, "<64>")])
    def test_piece_of_any_id(self, folder, token, text):
        assert ChatTokenizer.from_folder(folder).piece(token) == text

    def test_pieces_of_a_byte_level_tokenizer_are_text(self, tmp_path):
        """Not the letters that it names bytes by; what is part of a character is told byte by byte."""
        made = byte_level_tokenizer(tmp_path)
        made.decoder = decoders.ByteLevel()
        made.add_special_tokens(["<|Ġend|>"])
        own = ChatTokenizer(made, {}, None)
        tokens = own.encode("the the\né")
        assert [own.piece(token) for token in tokens] == ["the", " the", "\n", "<0xC3>", "<0xA9>"]
        (added,) = own.encode("<|Ġend|>")
        assert own.piece(added) == "<|Ġend|>"


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


def letters_tokenizer(tmp_path: Path) -> Tokenizer:
    write_letters_tokenizer(tmp_path, vocab_size=400)
    return ChatTokenizer.from_folder(tmp_path).tokenizer


def byte_level_tokenizer(tmp_path: Path) -> Tokenizer:
    pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "th", "the", "Ġthe"]
    merges = [("t", "h"), ("th", "e"), ("Ġ", "the")]
    made = Tokenizer(models.BPE({piece: token for token, piece in enumerate(pieces)}, merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return made


BOUNDED = [
    pytest.param(letters_tokenizer, id="unigram"),
    pytest.param(byte_level_tokenizer, id="byte level"),
    pytest.param(lambda _: sudoku_tokenizer(), id="sudoku"),
    pytest.param(lambda _: gemma_tokenizer(), id="gemma", marks=pytest.mark.slow),
]


def random_texts(made: Tokenizer, count: int = 60) -> list[str]:
    """Some of what the tokenizer has a token for, its longest tokens alone, and, if it takes any text, others."""
    rng = random.Random(1)
    pieces = [piece.replace("▁", " ") for piece in made.get_vocab() if "Ġ" not in piece]
    longest = sorted(pieces, key=lambda piece: -len(piece.encode()))[:4]
    texts = [piece * 20 for piece in longest]
    texts += ["".join(rng.choices(pieces, k=rng.randrange(1, 80))) for _ in range(count)]
    if not isinstance(made.model, models.WordLevel):
        others = ["  " * 30, "é日😀", "\t\r\n", "café café"]
        texts += ["".join(rng.choices([*pieces, *others], k=50)) for _ in range(count)]
    return texts


class TestLongTexts:
    @pytest.mark.parametrize("make", BOUNDED)
    def test_ids_are_those_of_the_library(self, make, tmp_path):
        made = make(tmp_path)
        own = ChatTokenizer(made, {}, None)
        for text in random_texts(made):
            assert own.encode(text) == made.encode(text).ids
            assert own.encode_text(text) == made.encode(text, add_special_tokens=False).ids

    @pytest.mark.parametrize("make", BOUNDED)
    def test_a_text_has_no_fewer_tokens_than_is_said(self, make, tmp_path):
        made = make(tmp_path)
        own = ChatTokenizer(made, {}, None)
        for text in random_texts(made):
            assert 0 < own.fewest_tokens(text) <= len(own.encode_text(text))
        longest = max(made.get_vocab(), key=lambda piece: len(piece.encode()))
        assert own.fewest_tokens(longest * 100) == 100, "the bound is as good as one by the longest token can be"

    @pytest.mark.parametrize(
        "change",
        [
            lambda made: setattr(made, "normalizer", normalizers.NFC()),
            lambda made: setattr(made, "normalizer", normalizers.Sequence([normalizers.Strip()])),
            lambda made: setattr(made, "normalizer", normalizers.Replace("  ", "x")),
            lambda made: setattr(made, "pre_tokenizer", pre_tokenizers.Whitespace()),
            lambda made: setattr(made, "pre_tokenizer", pre_tokenizers.Split(" ", "removed")),
            lambda made: setattr(made, "pre_tokenizer", None),
            lambda made: setattr(made, "model", models.WordLevel({"the": 0, "<unk>": 1}, unk_token="<unk>")),
            lambda made: setattr(made, "model", models.WordPiece({"the": 0, "[UNK]": 1})),
            lambda made: setattr(made, "model", models.BPE({"a": 0, "<unk>": 1}, [], unk_token="<unk>")),
            lambda made: made.add_tokens([AddedToken("<mask>", lstrip=True)]),
            lambda made: made.enable_truncation(10),
        ],
    )
    def test_where_characters_may_get_lost_nothing_is_said(self, change, tmp_path):
        made = byte_level_tokenizer(tmp_path)
        change(made)
        assert ChatTokenizer(made, {}, None).fewest_tokens("the " * 10_000) == 0

    def test_what_is_too_long_is_refused_before_it_is_tokenized(self, tmp_path, monkeypatch):
        write_letters_tokenizer(tmp_path, vocab_size=400)
        own = ChatTokenizer.from_folder(tmp_path)
        tokenized = []
        added = own.tokenizer.get_added_tokens_decoder()
        spy = {"encode_batch_fast": lambda *given, **_: tokenized.append(given)}
        own._tokenizer = type("Spy", (), {**spy, "get_added_tokens_decoder": lambda _: added})()
        monkeypatch.setattr(own, "fewest_tokens", len)

        def check(fewest):
            raise RequestError(f"{fewest} tokens")

        text = "x" * (LONG + 1)
        for refused in (
            lambda: own.encode(text, check),
            lambda: own.encode_text(text, check),
            lambda: own.encode_chat([{"role": "user", "content": text}], check=check),
        ):
            with pytest.raises(RequestError, match=r"^16\d\d\d tokens$"):
                refused()
        assert tokenized == []

    def test_other_threads_run_while_a_text_is_tokenized(self, tmp_path):
        own = ChatTokenizer(letters_tokenizer(tmp_path), {}, None)
        text = "the x and" * 100_000
        running, ticks, before = True, 0, sys.getswitchinterval()

        def tick():
            nonlocal ticks
            while running:
                ticks += 1
                time.sleep(0)

        ticker = threading.Thread(target=tick)
        # Nobody is made to give the interpreter's lock away: what runs meanwhile was let run.
        sys.setswitchinterval(1000)
        try:
            ticker.start()
            started = ticks
            own.encode_text(text)
            passed = ticks - started
        finally:
            running = False
            sys.setswitchinterval(before)
            ticker.join(600)
        assert passed > 0


class TestThinkingOff:
    """DiffusionGemma writes an empty thought first, unless the prompt ends with it."""

    MESSAGES = ({"role": "user", "content": "hi"},)

    @pytest.fixture
    def letters(self, tmp_path):
        write_letters_tokenizer(tmp_path, vocab_size=400)
        return ChatTokenizer.from_folder(tmp_path)

    def test_the_block_is_the_markers_and_the_channels_name(self, letters):
        opening, *name, closing = letters.empty_thought(SYNTAX)
        assert (opening, closing) == THOUGHT_IDS
        assert letters.decode(name) == "thought\n"

    @pytest.mark.slow
    def test_with_gemmas_own_tokens_it_is_four_of_them(self):
        shared = gemma_tokenizer()
        made = Tokenizer(shared.model)
        made.normalizer, made.decoder = shared.normalizer, shared.decoder
        assert ChatTokenizer(made, {}, None).empty_thought(SYNTAX) == [], "it has no markers yet"
        made.add_special_tokens(list(THOUGHT))
        names = [made.id_to_token(token) for token in ChatTokenizer(made, {}, None).empty_thought(SYNTAX)]
        assert names == ["<|channel>", "thought", "\n", "<channel|>"]

    def test_without_markers_there_is_no_block(self, folder):
        assert ChatTokenizer.from_folder(folder).empty_thought(SYNTAX) == []
        assert ChatTokenizer(sudoku_tokenizer(), {}, None).empty_thought(SYNTAX) == []

    def test_a_prompt_ends_with_it_once_whether_or_not_the_template_has_it(self, letters):
        block = letters.empty_thought(SYNTAX)
        plain = letters.encode_chat(self.MESSAGES)
        assert plain[-len(block) :] != block
        assert letters.encode_chat(self.MESSAGES, ending=block) == [*plain, *block]
        own_block = letters.template + "<|channel>thought{{ '\\n' }}<channel|>"
        having = ChatTokenizer(letters.tokenizer, {"bos_token": "<bos>"}, own_block)
        assert having.encode_chat(self.MESSAGES) == [*plain, *block]
        assert having.encode_chat(self.MESSAGES, ending=block) == [*plain, *block]


class TestDecode:
    def test_special_tokens_have_no_text(self, tmp_path):
        own = ChatTokenizer(letters_tokenizer(tmp_path), {}, None)
        text = "a<|channel>the é<channel|>\u65e5<|tool_call>"
        assert own.decode(own.encode_text(text)) == "athe é\u65e5"
        assert own.decode_all(own.encode_text(text)) == text

    def test_a_special_token_between_the_bytes_of_a_character_settles_nothing(self, tmp_path):
        own = ChatTokenizer(letters_tokenizer(tmp_path), {}, None)
        first, second = (own.token_id(f"<0x{value:02X}>") for value in "ñ".encode())
        text, pad = own.encode_text("the"), own.token_id("<pad>")
        assert first is not None
        assert second is not None
        assert pad is not None
        assert own.decode([*text, first, pad, second]) == "theñ"
        assert own.settled([*text, first, pad]) == len(text)
        assert own.settled([*text, first, pad, second, *text]) == 2 * len(text) + 3
