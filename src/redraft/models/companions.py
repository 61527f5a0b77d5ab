"""Files beside a checkpoint's weights: its tokenizer and template, and its terms. They are copied whole, or written out
where a GGUF file has them in its metadata."""

from pathlib import Path

from redraft.files import copy_file, replacing, write_text
from redraft.formats.json_objects import write_object
from redraft.formats.source import is_single_file
from redraft.models.tokenizer import SETTINGS_FILE, TEMPLATE_FILE, TOKENIZER_FILE, ChatTokenizer

_TOKENIZER_FILES = (TOKENIZER_FILE, SETTINGS_FILE, TEMPLATE_FILE, "special_tokens_map.json", "added_tokens.json")
_TERMS = ("LICENSE*", "NOTICE*")


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
