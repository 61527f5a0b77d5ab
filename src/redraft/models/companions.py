"""Files beside a checkpoint's weights: its tokenizer and template, and its terms. They are copied whole, or written out
where a GGUF file has them in its metadata."""

import re
from pathlib import Path

from redraft.files import copy_file, replacing, write_text
from redraft.formats.gguf.file import open_gguf
from redraft.formats.json_objects import write_object
from redraft.formats.source import is_single_file
from redraft.models.tokenizer import SETTINGS_FILE, TEMPLATE_FILE, TOKENIZER_FILE, ChatTokenizer

_TOKENIZER_FILES = (TOKENIZER_FILE, SETTINGS_FILE, TEMPLATE_FILE, "special_tokens_map.json", "added_tokens.json")
CARD_FILE = "README.md"
_TERMS = ("LICENSE*", "NOTICE*")
WRITTEN = (*_TOKENIZER_FILES, CARD_FILE, *_TERMS)
"""The names, or patterns of names, of all that is written here."""


def write_tokenizer(path: Path, folder: Path) -> None:
    """Give ``folder`` the tokenizer and chat template of the checkpoint at ``path``, if it has one."""
    if not is_single_file(path):
        copy(path, folder, _TOKENIZER_FILES)
        return
    tokenizer = ChatTokenizer.from_checkpoint(path)
    with replacing(folder / TOKENIZER_FILE, keep_link=False) as new:
        tokenizer.tokenizer.save(str(new))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    write_object(folder / SETTINGS_FILE, {**settings, **tokenizer.special})
    if tokenizer.template is not None:
        write_text(folder / TEMPLATE_FILE, tokenizer.template, keep_link=False)


def write_terms(path: Path, folder: Path) -> None:
    """Copy the terms that lie in a checkpoint's folder."""
    if path.is_dir():
        copy(path, folder, [found.name for pattern in _TERMS for found in path.glob(pattern)])


def copy(path: Path, folder: Path, names: list[str] | tuple[str, ...]) -> None:
    """Copy those of the files that there are."""
    for name in names:
        if (path / name).is_file():
            copy_file(path / name, folder / name)


def write_card(folder: Path, base: Path, name: str, made: str) -> None:
    """Write the beginning of a model card: what the checkpoint was made of and how, and under which terms.

    base: where the base lies, which was asked for by ``name``. made: sentences in which {base} stands for its name.
    """
    licence = licence_of(base)
    # What it was read from on this machine says nothing elsewhere.
    shown = base.name if Path(name).exists() else name
    terms = f"those of the base{f', {licence}' if licence else ', which its files here do not name; look them up'}"
    card = f"""\
---
base_model: {shown}
license: {licence or "other"}
library_name: redraft
---

# {folder.name}

{made.replace("{base}", shown)}

Terms: {terms}.
"""
    write_text(folder / CARD_FILE, card, keep_link=False)


def licence_of(path: Path) -> str | None:
    """Return the licence that a checkpoint's file or model card names; None where neither does."""
    if is_single_file(path):
        found = open_gguf(path).header.metadata.get("general.license")
        return found if isinstance(found, str) else None
    card = path / CARD_FILE
    if not card.exists():
        return None
    line = re.search(r"^license: *(\S+)", card.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
    return None if line is None else line[1]
