"""A checkpoint's tokenizer and chat template, as its folder or GGUF file holds them."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

from jinja2 import Template, TemplateError, meta
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import AddedToken, Encoding, Tokenizer
from tokenizers.models import BPE, Unigram, WordLevel
from tokenizers.pre_tokenizers import ByteLevel

from redraft.constrain.automaton.byte_level import from_letters
from redraft.errors import CheckpointError, RequestError
from redraft.formats.gguf.file import open_gguf
from redraft.formats.gguf.tokenizer import read_tokenizer
from redraft.formats.pointer import check_no_pointer
from redraft.formats.source import is_single_file
from redraft.models.literal import SpecialNames, mark_for, texts_in, with_texts
from redraft.models.thoughts import ThoughtSyntax

Check = Callable[[int], None]
"""Takes the min number of tokens that a long text can have, before it is tokenized; raises if they are too many."""

# Shorter texts are tokenized in less time than a person notices, and not looked at before.
LONG = 1 << 14
# Steps before the model that keep every character, or make it longer.
_LOSSLESS = {"Prepend", "ByteLevel", "Metaspace", "Digits", "Replace", "Split"}

TOKENIZER_FILE, SETTINGS_FILE, TEMPLATE_FILE = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"


class ChatTokenizer:
    """Text and chat messages to token ids, and back."""

    def __init__(self, tokenizer: Tokenizer, special: Mapping[str, str], template: str | None) -> None:
        """``special``: the texts that a template knows as ``bos_token``, ``eos_token`` and so on."""
        self._tokenizer, self.special, self.template = tokenizer, dict(special), template

    @classmethod
    def from_checkpoint(cls, path: Path) -> "ChatTokenizer":
        """Read the tokenizer of a folder, as in ``from_folder``, or of a GGUF file, with its chat template.

        Raises CheckpointError naming what is missing, damaged or not supported.
        """
        if not is_single_file(path):
            return cls.from_folder(path)
        found = read_tokenizer(open_gguf(path).header)
        return cls(found.tokenizer, found.special, found.template)

    @classmethod
    def from_folder(cls, folder: Path) -> "ChatTokenizer":
        """Read ``tokenizer.json`` with, if they are there, its settings and chat template.

        Raises CheckpointError naming the file that is missing or damaged.
        """
        path = folder / TOKENIZER_FILE
        if not path.exists():
            raise CheckpointError(f"{folder} has no {TOKENIZER_FILE}; the model cannot be used with text without it")
        check_no_pointer(path)
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises bare Exception for any fault of the file
            raise CheckpointError(f"{path} is not a readable tokenizer: {error}") from error
        settings: dict[str, Any] = {}
        if (folder / SETTINGS_FILE).exists():
            try:
                settings = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
            except ValueError as error:
                raise CheckpointError(f"{folder / SETTINGS_FILE} is not valid JSON: {error}") from error
            if not isinstance(settings, dict):
                raise CheckpointError(f"{folder / SETTINGS_FILE} holds {type(settings).__name__}, not a JSON object")
        template = _default_template(settings.get("chat_template"))
        if (folder / TEMPLATE_FILE).exists():
            try:
                template = (folder / TEMPLATE_FILE).read_text(encoding="utf-8")
            except UnicodeDecodeError as error:
                raise CheckpointError(f"{folder / TEMPLATE_FILE} is not UTF-8 text: {error}") from error
        special = {
            name: value if isinstance(value, str) else value["content"]
            for name, value in settings.items()
            if name.endswith("_token") and (isinstance(value, str) or (isinstance(value, dict) and "content" in value))
        }
        return cls(tokenizer, special, template)

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer itself, for what reads its vocabulary and decoder."""
        return self._tokenizer

    def token_id(self, text: str) -> int | None:
        """Return the id of the token whose name is ``text``; None if there is none."""
        found = self._tokenizer.token_to_id(text)
        return None if found is None else int(found)

    @property
    def vocab_size(self) -> int:
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    def encode(self, text: str, check: Check | None = None, *, literal: bool = False) -> list[int]:
        """Raw text to ids, with the beginning-of-sequence token where the tokenizer adds one.

        literal: the names of special tokens in it are text.
        """
        return self._encode(self._pieces(text, check, literal), add_special_tokens=True)

    def encode_text(self, text: str, check: Check | None = None, *, literal: bool = False) -> list[int]:
        """Text that follows other text to ids, with nothing added; ``literal`` as in ``encode``."""
        return self._encode(self._pieces(text, check, literal), add_special_tokens=False)

    def encode_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        thinking: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        check: Check | None = None,
        ending: Sequence[int] = (),
        variables: Mapping[str, Any] | None = None,
        thought: ThoughtSyntax | None = None,
    ) -> list[int]:
        """Chat messages to ids through the checkpoint's own template, ready for the model's turn.

        ``thinking`` is what a template knows as ``enable_thinking``, ``tools`` what it knows by that name. ``ending``:
        the tokens that come last, whether or not the template has them. ``variables``: others that the template reads.
        The special tokens are the template's alone: what messages, tools and variables say is text, also where it
        spells one; but for the markers of a whole ``thought`` in the model's own messages, which are the template's to
        leave out.

        Raises RequestError where there is no template, the template refuses the messages, or has no use for tools or
        a variable.
        """
        if self.template is None:
            raise RequestError("this checkpoint has no chat template; pass the prompt as raw text")
        for index, message in enumerate(messages):
            _check_message(index, message)
        if tools and not self.knows_tools:
            raise RequestError("this checkpoint's chat template does not show tools to the model; leave them out")
        self._check_variables(variables or {})
        given = {"messages": list(messages), "tools": list(tools) if tools else None, **(variables or {})}
        pieces = self._rendered(given, thinking, thought)
        self._check_length("".join(pieces), check)
        tokens = self._encode(pieces, add_special_tokens=False)
        return tokens if tokens[len(tokens) - len(ending) :] == list(ending) else [*tokens, *ending]

    def _rendered(self, given: Mapping[str, Any], thinking: bool, thought: ThoughtSyntax | None) -> list[str]:
        """Render the template, in pieces, each to be tokenized by itself: cut where what was given spells a special
        token."""
        names = self._special_names
        mark = mark_for(texts_in([self.template, *given.values()]))
        block = None if thought is None else _block(thought)

        def marked(text: str) -> str:
            return names.marked(text, mark)

        def of_model(text: str) -> str:
            """Leave the markers of whole thoughts, which a pattern has split off."""
            parts = [text] if block is None else block.split(text)
            return "".join(part if number % 4 in (1, 3) else marked(part) for number, part in enumerate(parts))

        shown = {name: with_texts(value, marked) for name, value in given.items() if name != "messages"}
        shown["messages"] = [_marked_message(message, marked, of_model) for message in given["messages"]]
        try:
            text = self._compiled.render(add_generation_prompt=True, enable_thinking=thinking, **self.special, **shown)
        except (TemplateError, TypeError, ValueError, KeyError) as error:
            found = str(error).replace(mark, "")
            raise RequestError(f"the checkpoint's chat template does not take these messages: {found}") from error
        return names.needed(text, mark) if mark in text else [text]

    def _check_variables(self, variables: Mapping[str, Any]) -> None:
        own = {"messages", "tools", "add_generation_prompt", "enable_thinking", *self.special}
        for name in variables:
            if name in own:
                raise RequestError(f"chat_template_kwargs: {name!r} is not theirs to set")
            if name not in self._read_by_template:
                known = ", ".join(sorted(self._read_by_template - own)) or "none"
                raise RequestError(
                    f"chat_template_kwargs: this checkpoint's chat template does not read {name!r}; besides "
                    f"enable_thinking it reads: {known}"
                )

    def empty_thought(self, syntax: ThoughtSyntax | None) -> list[int]:
        """Return what a model that is not to think writes first.

        It is empty where there is no syntax, or its markers are not single tokens. Gemma 4's own template ends with it;
        one that does not leaves it to the model.
        """
        if syntax is None or self.token_id(syntax.opening) is None or self.token_id(syntax.closing) is None:
            return []
        return self.encode_text(syntax.empty)

    def take_as_special(self, tokens: Iterable[int]) -> None:
        """Have added tokens be special that a tokenizer's file does not call so: they are no text."""
        added = self._tokenizer.get_added_tokens_decoder()
        wanted = [one.content for token in tokens if (one := added.get(token)) is not None and not one.special]
        self._tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in wanted])

    @cached_property
    def knows_tools(self) -> bool:
        """True where the chat template reads ``tools``."""
        return "tools" in self._read_by_template

    @cached_property
    def _read_by_template(self) -> set[str]:
        return meta.find_undeclared_variables(self._compiled.environment.parse(self.template or ""))

    @cached_property
    def _special_names(self) -> SpecialNames:
        added = self._tokenizer.get_added_tokens_decoder()
        return SpecialNames(one.content for one in added.values() if one.special)

    @cached_property
    def _compiled(self) -> Template:
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        environment.filters["tojson"] = _to_json
        return environment.from_string(self.template or "")

    def decode(self, tokens: Sequence[int]) -> str:
        """Ids to text. Special tokens have none: where they mean something, they are read as tokens."""
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True))

    def decode_all(self, tokens: Sequence[int]) -> str:
        """Ids to text, special tokens to their names: what ``encode_text`` reads as the same tokens."""
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=False))

    def settled(self, tokens: Sequence[int]) -> int:
        """Return the number of first tokens whose text none that follow can change.

        Decoders take neighbouring byte tokens together: if they are not UTF-8 as a whole, none of them is a character.
        Special tokens between them are no border.
        """
        count = len(tokens)
        while count and (tokens[count - 1] in self._byte_tokens or tokens[count - 1] in self._special_tokens):
            count -= 1
        return count

    @cached_property
    def _special_tokens(self) -> frozenset[int]:
        return frozenset(token for token, one in self._added_tokens.items() if one.special)

    @cached_property
    def _added_tokens(self) -> Mapping[int, AddedToken]:
        return dict(self._tokenizer.get_added_tokens_decoder())

    @cached_property
    def _byte_tokens(self) -> frozenset[int]:
        found = (self._tokenizer.token_to_id(f"<0x{value:02X}>") for value in range(256))
        return frozenset(token for token in found if token is not None)

    def piece(self, token: int) -> str:
        """The text of one token on its own, for drawing; a tokenizer's mark for a space is shown as a space.

        Bytes that are no whole characters are ``<0xE2>`` each, whatever the tokenizer calls them.
        """
        name = self._tokenizer.id_to_token(token) or f"<{token}>"
        if not self._named_in_bytes or token in self._added_tokens:
            return name.replace("\u2581", " ")
        own = from_letters(name)
        try:
            return own.decode()
        except UnicodeDecodeError:
            return "".join(f"<0x{value:02X}>" for value in own)

    @cached_property
    def _named_in_bytes(self) -> bool:
        return any(step["type"] == "ByteLevel" for step in _steps(self._tokenizer.decoder))

    def fewest_tokens(self, text: str) -> int:
        """A lower bound of the number of tokens, found without tokenizing; 0 where nothing can be said."""
        longest = self._longest_token
        return 0 if longest is None else -(-len(text.encode(errors="replace")) // longest)

    @cached_property
    def _longest_token(self) -> int | None:
        """Bytes of text that one token stands for at most, or None: characters may get lost before the model, or one
        token may stand for any number that it does not know."""
        own = self._tokenizer
        steps = [*_steps(own.normalizer), *_steps(own.pre_tokenizer)]
        swallowing = any(added.lstrip or added.rstrip for added in own.get_added_tokens_decoder().values())
        if own.truncation is not None or swallowing or not all(map(_is_lossless, steps)):
            return None
        match own.model:
            case WordLevel(unk_token=unknown):
                # Without a token for unknown words it refuses them.
                spells_all = own.token_to_id(unknown) is None
            case BPE(byte_fallback=False):
                in_bytes = any(step["type"] == "ByteLevel" for step in steps)
                spells_all = in_bytes and all(own.token_to_id(byte) is not None for byte in ByteLevel.alphabet())
            case BPE():
                spells_all = len(self._byte_tokens) == 256
            case Unigram():
                spells_all = len(self._byte_tokens) == 256 and json.loads(own.model.__getstate__())["byte_fallback"]
            case _:
                spells_all = False
        if not spells_all:
            return None
        # What stands for a space or a byte in a token's name is no shorter than that.
        return max(len(piece.encode()) for piece in own.get_vocab(with_added_tokens=True))

    def _check_length(self, text: str, check: Check | None) -> None:
        if check is not None and len(text) > LONG:
            check(self.fewest_tokens(text))

    def _pieces(self, text: str, check: Check | None, literal: bool) -> list[str]:
        self._check_length(text, check)
        return self._special_names.cut(text) if literal else [text]

    def _encode(self, pieces: Sequence[str], add_special_tokens: bool) -> list[int]:
        text = pieces[0] if len(pieces) == 1 else "".join(pieces)
        whole = len(pieces) == 1
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise RequestError(
                f"the text has half a character at {error.start} ({text[error.start]!r}, a surrogate alone), which no "
                "UTF-8 text has; remove it"
            ) from None
        try:
            # Unlike ``encode``, it lets other threads run meanwhile.
            found = self._tokenizer.encode_batch_fast(pieces, add_special_tokens=add_special_tokens and whole)
            if whole:
                return list(found[0].ids)
            return list(self._tokenizer.post_process(Encoding.merge(found, False), None, add_special_tokens).ids)
        except Exception as error:  # tokenizers raises bare Exception for text it has no token for
            raise RequestError(f"the tokenizer has no tokens for this text: {error}") from error


def _steps(part: Any) -> Iterator[Mapping[str, Any]]:
    """The steps of a normalizer, pre-tokenizer or decoder, those of sequences one by one."""
    if part is None:
        return
    left = [json.loads(part.__getstate__())]
    while left:
        step = left.pop(0)
        if step["type"] == "Sequence":
            left += step.get("normalizers") or step.get("pretokenizers") or step.get("decoders") or []
        else:
            yield step


def _is_lossless(step: Mapping[str, Any]) -> bool:
    """Tell whether a step keeps every character, or puts something in its place that is no shorter in bytes."""
    match step:
        case {"type": "Split", "behavior": behavior}:
            return bool(behavior != "Removed")
        case {"type": "Replace", "pattern": {"String": old}, "content": new}:
            return len(new.encode()) >= len(old.encode())
        case {"type": "Replace"}:
            return False
    return step["type"] in _LOSSLESS


def _default_template(setting: Any) -> str | None:
    """The template among what ``chat_template`` of a settings file may be: a text, or a list of named ones."""
    if isinstance(setting, list):
        named = {part.get("name"): part.get("template") for part in setting if isinstance(part, dict)}
        setting = named.get("default")
    return setting if isinstance(setting, str) else None


def _to_json(value: Any, indent: int | None = None) -> str:
    """Templates want JSON as it is, not escaped for HTML as jinja's own filter does."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


class _RefusedByTemplateError(TemplateError):
    """A template called ``raise_exception``."""


def _refuse(message: str) -> NoReturn:
    raise _RefusedByTemplateError(message)


def _block(thought: ThoughtSyntax) -> re.Pattern[str]:
    """Match a whole thought, its markers apart."""
    return re.compile(f"({re.escape(thought.opening)})(.*?)({re.escape(thought.closing)})", re.DOTALL)


def _marked_message(
    message: Mapping[str, Any], marked: Callable[[str], str], of_model: Callable[[str], str]
) -> dict[str, Any]:
    """Mark the texts of a message but for its role, which templates compare with those that they know."""
    change = of_model if message["role"] in ("assistant", "model") else marked
    return {
        name: value if name == "role" else with_texts(value, change if name == "content" else marked)
        for name, value in message.items()
    }


def _check_message(index: int, message: Mapping[str, Any]) -> None:
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str) or "content" not in message:
        raise RequestError(f"message {index} must have a 'role' and a 'content'")
    content = message["content"]
    if isinstance(content, list):
        for part in content:
            kind = part.get("type") if isinstance(part, Mapping) else None
            if kind != "text":
                raise RequestError(f"message {index} has a part of type {kind!r}; only 'text' is supported yet")
    elif not isinstance(content, str):
        raise RequestError(f"message {index} has content of type {type(content).__name__}; it must be text")
