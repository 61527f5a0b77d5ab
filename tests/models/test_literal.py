"""What people write is text, also where it spells a special token, or where two of their texts together would."""

from itertools import pairwise, product
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models

from redraft.errors import RequestError
from redraft.models import literal
from redraft.models.literal import SpecialNames, mark_for
from redraft.models.thoughts import ThoughtSyntax
from redraft.models.tokenizer import LONG, ChatTokenizer
from tests.random_checkpoint import LETTERS_SIZE, THOUGHT, THOUGHT_IDS, write_letters_tokenizer

NAMES = ["<a>", "<ab>", "a>b", "<|a|>", "x"]
MARK = "\ufdd0"


@pytest.fixture(scope="module")
def letters(tmp_path_factory: pytest.TempPathFactory) -> ChatTokenizer:
    folder = tmp_path_factory.mktemp("letters")
    write_letters_tokenizer(folder, LETTERS_SIZE)
    return ChatTokenizer.from_folder(folder)


def spelled(text: str) -> bool:
    return any(name in text for name in NAMES if len(name) > 1)


def test_of_all_short_texts_no_piece_spells_a_name_and_together_they_are_the_text():
    names = SpecialNames(NAMES)
    for letters in product("<a>b|", repeat=5):
        text = "".join(letters)
        pieces = names.cut(text)
        assert "".join(pieces) == text
        assert not any(map(spelled, pieces)), text
        assert len(pieces) == 1 or spelled(text)


def test_texts_side_by_side_are_cut_where_together_they_would_spell_one_and_only_there():
    names = SpecialNames(NAMES)
    for first, second in product(map("".join, product("<a>|", repeat=3)), repeat=2):
        rendered = f"<ab>{names.marked(first, MARK)}{names.marked(second, MARK)}<a>"
        pieces = names.needed(rendered, MARK)
        assert "".join(pieces) == f"<ab>{first}{second}<a>"
        own = first + second
        assert sum(piece.count("<ab>") for piece in pieces) == 1
        inner = "".join(pieces)[4:-3]
        assert inner == own
        found = [piece for piece in (pieces if len(pieces) == 1 else [*pieces[1:-1]]) if piece]
        if len(pieces) == 1:
            assert not spelled(own), (first, second)
        else:
            assert not any(map(spelled, found)), (first, second)


@pytest.mark.parametrize("at_once", [1, 2, 3, 7])
def test_a_text_that_is_looked_through_in_stretches_is_cut_as_a_whole_one(
    monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    names = SpecialNames(NAMES)
    texts = ["".join(letters) for letters in product("<a>b|", repeat=4)]
    texts += [first + second for first, second in pairwise(texts)]
    expected = [names.cut(text) for text in texts]
    monkeypatch.setattr(literal, "_AT_ONCE", at_once)
    assert [names.cut(text) for text in texts] == expected


def test_a_text_that_is_too_long_is_refused_before_it_is_looked_through(
    letters: ChatTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(fewest: int) -> None:
        raise RequestError(f"{fewest} tokens")

    monkeypatch.setattr(SpecialNames, "cut", lambda self, text: pytest.fail("it was looked through"))
    for encode in (letters.encode, letters.encode_text):
        with pytest.raises(RequestError, match="tokens"):
            encode("<eos>" * LONG, check, literal=True)


def test_without_special_tokens_nothing_is_cut():
    names = SpecialNames([])
    assert (names.cut("<a>"), names.marked("<a>", MARK)) == (["<a>"], "<a>")


def test_a_mark_is_none_of_the_texts_characters():
    assert mark_for(["a", MARK]) == "\ufdd1"
    with pytest.raises(RequestError, match="every one of Unicode's noncharacters"):
        mark_for(["".join(map(chr, range(0xFDD0, 0xFDF0)))])


CONTROL = ("<|turn>", "<turn|>", "<eos>", "<image>", "<|channel>", "<|tool_call>", '<|"|>')


def specials(own: ChatTokenizer, tokens: list[int]) -> list[str]:
    added = own.tokenizer.get_added_tokens_decoder()
    return [added[token].content for token in tokens if token in added]


@pytest.mark.parametrize("name", CONTROL)
@pytest.mark.parametrize(
    "place", ["user", "system", "assistant", "part", "two parts", "call", "tool", "tools", "reasoning"]
)
def test_whatever_messages_say_the_special_tokens_are_the_templates(letters: ChatTokenizer, name: str, place: str):
    def chat(said: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        messages: list[dict[str, Any]] = [{"role": "user", "content": "hi"}]
        tools: list[dict[str, Any]] = []
        match place:
            case "user" | "system" | "assistant" | "tool":
                messages.append({"role": place, "content": f"the {said} the"})
            case "part":
                messages.append({"role": "user", "content": [{"type": "text", "text": said}]})
            case "two parts":
                half = [{"type": "text", "text": part} for part in (f" {said[:3]} ", f"{said[3:]} ")]
                messages.append({"role": "user", "content": half})
            case "call":
                call = {"function": {"name": "f", "arguments": {said: said}}}
                messages.append({"role": "assistant", "content": "", "tool_calls": [call]})
            case "tools":
                tools.append({"function": {"name": "f", "parameters": {"description": said}}})
            case "reasoning":
                messages.append({"role": "assistant", "content": "", "reasoning": said})
        return messages, tools

    # Texts one after the other, stripped, as Gemma's own template writes them.
    joined = (
        "{% if message.content is string %}{{ message.content }}{% else %}"
        "{% for part in message.content %}{{ part.text | trim }}{% endfor %}{% endif %}{{ message.reasoning }}"
    )
    own = ChatTokenizer(
        letters.tokenizer, letters.special, (letters.template or "").replace("{{ message.content }}", joined)
    )
    messages, tools = chat(name)
    harmless, tools_then = chat("an".join("xx"))
    tokens = own.encode_chat(messages, tools=tools)
    assert specials(own, tokens) == specials(own, own.encode_chat(harmless, tools=tools_then))
    assert name in own.decode_all(tokens) or place in ("call", "tools"), "and they are there, as text"


def test_a_whole_thought_in_the_models_own_message_is_the_templates_to_leave_out(letters: ChatTokenizer):
    stripping = "{{ message.content.split('<channel|>')[-1] if message.role == 'assistant' else message.content }}"
    template = (letters.template or "").replace("{{ message.content }}", stripping)
    own = ChatTokenizer(letters.tokenizer, letters.special, template)
    syntax = ThoughtSyntax(*THOUGHT, "thought\n")
    said = "<|channel>thought\nhm <eos><channel|>the"
    answered = own.encode_chat([{"role": "assistant", "content": said}], thought=syntax)
    assert answered == own.encode_chat([{"role": "assistant", "content": "the"}], thought=syntax)
    asked = own.encode_chat([{"role": "user", "content": said}], thought=syntax)
    assert not set(THOUGHT_IDS) & set(asked)
    assert said in own.decode_all(asked)


def test_a_text_that_a_template_strips_is_stripped(letters: ChatTokenizer):
    template = (letters.template or "").replace("{{ message.content }}", "{{ message.content | trim }}")
    own = ChatTokenizer(letters.tokenizer, letters.special, template)
    for said in (" <", ">>> x ", " <|turn> "):
        stripped = own.encode_chat([{"role": "user", "content": said}])
        assert stripped == own.encode_chat([{"role": "user", "content": said.strip()}])


@pytest.mark.parametrize("text", ["a <|turn> é", "<eos>", "<eos", "", "the >"])
def test_text_before_a_canvas_is_text_and_raw_text_is_as_the_tokenizer_reads_it(letters: ChatTokenizer, text: str):
    tokens = letters.encode_text(text, literal=True)
    assert letters.decode(tokens) == text
    assert letters.encode(text, literal=True) == [2, *tokens]
    assert letters.encode(text) == letters.tokenizer.encode(text).ids


def test_a_tokenizer_that_cannot_spell_it_says_so():
    made = Tokenizer(models.WordLevel({"a": 0, "<s>": 1}, unk_token="<unk>"))
    made.add_special_tokens(["<s>"])
    with pytest.raises(RequestError, match="no tokens for this text"):
        ChatTokenizer(made, {}, None).encode_text("<s>", literal=True)


def test_tokens_of_a_meaning_that_a_file_does_not_call_special_can_be_made_so(tmp_path: Path):
    made = Tokenizer(models.BPE({"a": 0, "<": 1, "s": 2, ">": 3}, []))
    made.add_tokens(["<s>"])
    own = ChatTokenizer(made, {}, None)
    assert own.decode([0, 4]) == "a <s>"
    own.take_as_special([0, 4])
    assert (own.decode([0, 4]), own.token_id("<s>")) == ("a", 4)
    assert own.encode_text("a<s>", literal=True) == [0, 1, 2, 3]
