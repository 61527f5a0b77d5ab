"""Makes a checkpoint that training can teach to denoise of an autoregressive Llama: ``redraft adapt``.

The weights stay what they are: encoding, the new model is the base. It gets a token for what is unknown on a canvas,
and a configuration that says so.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from redraft.canvas.corruption import MaskOrder
from redraft.errors import CheckpointError
from redraft.files import make_new_folder, replacing, write_text
from redraft.formats import source, streamed
from redraft.formats.json_objects import read_object, write_object
from redraft.formats.source import CONFIG_FILE, GENERATION_FILE
from redraft.formats.tensors import StoredTensor
from redraft.models.checkpoint import architecture_of, check_folder, check_tensors
from redraft.models.companions import write_card, write_terms, write_tokenizer
from redraft.models.family import Family, FamilyConfig
from redraft.models.registry import BASES, family_of
from redraft.models.tokenizer import SETTINGS_FILE, TEMPLATE_FILE, TOKENIZER_FILE, ChatTokenizer

CANVAS_LENGTH = 128
NEW_MASK = "<|mask|>"
# Special tokens that published vocabularies have and that stand for nothing, in the order in which they are taken.
_SPARE = ("<mask>", NEW_MASK, "[MASK]", "<empty_output>", "<|reserved_special_token_0|>", "<unused0>")
_AS_WRITTEN = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
_EMBEDDING, _HEAD = "model.embed_tokens.weight", "lm_head.weight"


@dataclass(frozen=True)
class Base:
    """An autoregressive checkpoint, read as far as its headers."""

    path: Path
    name: str
    """The name that it was asked for by."""
    architecture: str
    config: Mapping[str, Any]
    tensors: Mapping[str, StoredTensor]

    @property
    def family(self) -> Family[Any, Any]:
        """The family that it becomes a model of."""
        return family_of(BASES[self.architecture])


@dataclass(frozen=True)
class Mask:
    """The token that stands for an unknown one."""

    text: str
    id: int
    new: bool
    """True where the base has no such token."""


def is_base(path: Path) -> bool:
    """Tell whether a checkpoint is of an architecture that can be adapted."""
    check_folder(path)
    return str(architecture_of(source.read_config(path))) in BASES


def read_base(path: Path, name: str) -> Base:
    """Read an autoregressive checkpoint's configuration and headers, and check that they belong together.

    Raises CheckpointError for an architecture that is none of those that can be adapted, naming them.
    """
    check_folder(path)
    config = source.read_config(path)
    architecture = architecture_of(config)
    if str(architecture) not in BASES:
        known = ", ".join(map(repr, BASES))
        raise CheckpointError(f"{path}: architecture {architecture!r} cannot be adapted; those that can are {known}")
    base = Base(path, name, str(architecture), config, source.stored_tensors(path))
    expected = _expected(base.family, base.family.read_config(_with_diffusion(base, CANVAS_LENGTH, 0)))
    check_tensors(path, base.family, expected, base.tensors)
    return base


def adapt(
    base: Base,
    folder: Path,
    *,
    mask_token: str | None = None,
    canvas_length: int = CANVAS_LENGTH,
    mask_order: MaskOrder = "any",
    chat_template: str | None = None,
    dtype: torch.dtype | None = None,
) -> Mask:
    """Write a checkpoint folder of the diffusion family that ``base`` belongs to, and return its mask.

    mask_token: the name of a token, which is added if there is none; by default a special one that stands for nothing,
    else a new one. mask_order: the places that training is to put masks on, and the order in which they are revealed.
    dtype: of the weights; by default as they are stored, and float32 for quantised ones.

    Raises CheckpointError where the mask has a meaning, or the base's files cannot be read; RequestError for a chat
    template that renders nothing; OSError for a folder that cannot be made or is not empty.
    """
    if folder.resolve() in (base.path.resolve(), base.path.resolve().parent):
        raise CheckpointError(f"{folder} is where the base lies; give another folder")
    tokenizer = ChatTokenizer.from_checkpoint(base.path)
    mask = _choose_mask(base, tokenizer, mask_token)
    raw = _with_diffusion(base, canvas_length, mask.id)
    if mask_order != "any":
        raw["mask_order"] = mask_order
    config = base.family.read_config(raw)
    if chat_template is not None:
        # A fault in it is told now, and not at the first chat.
        own = ChatTokenizer(tokenizer.tokenizer, tokenizer.special, chat_template)
        own.encode_chat([{"role": "user", "content": "a"}])
    make_new_folder(folder)
    _write_weights(base, folder, config, mask, dtype)
    write_object(folder / CONFIG_FILE, raw)
    defaults = base.family.read_defaults({}, config)
    write_object(folder / GENERATION_FILE, base.family.defaults_to_json(defaults, config))
    write_tokenizer(base.path, folder)
    _add_mask(folder, tokenizer, mask)
    if chat_template is not None:
        write_text(folder / TEMPLATE_FILE, chat_template, keep_link=False)
    write_terms(base.path, folder)
    write_card(
        folder,
        base.path,
        base.name,
        "Made of `{base}` by `redraft adapt`: the base's weights, with the token\n"
        f"`{mask.text}` (id {mask.id}) for what is unknown on a canvas. It has not been trained to denoise yet.",
    )
    return mask


def _with_diffusion(base: Base, canvas_length: int, mask: int) -> dict[str, Any]:
    """Return the base's ``config.json`` with what the family has beside it."""
    ends = source.read_generation(base.path).get("eos_token_id")
    return {
        **{name: value for name, value in base.config.items() if name not in ("auto_map", "transformers_version")},
        **({} if ends is None else {"eos_token_id": ends}),
        "architectures": [BASES[base.architecture]],
        "canvas_length": canvas_length,
        "mask_token_id": mask,
        "vocab_size": max(base.config["vocab_size"], mask + 1),
    }


def _choose_mask(base: Base, tokenizer: ChatTokenizer, wanted: str | None) -> Mask:
    """Find the mask, or add it to ``tokenizer``."""
    if wanted == "":
        raise CheckpointError("the mask's name is empty; give the name of a token, or of one to add")
    special = {token.content for token in tokenizer.tokenizer.get_added_tokens_decoder().values() if token.special}
    text = next((name for name in _SPARE if name in special), NEW_MASK) if wanted is None else wanted
    found = tokenizer.token_id(text)
    if found is None:
        # Its id follows on the last one that there is.
        added = tokenizer.vocab_size
        tokenizer.tokenizer.add_special_tokens([text])
        return Mask(text, added, new=True)
    if text not in special or found in {*_ends(base), *tokenizer.encode("")}:
        raise CheckpointError(
            f"token {text!r} (id {found}) has a meaning in {base.name}; give a special token that stands for nothing, "
            f"or a name that no token has, such as {NEW_MASK!r}, to add one"
        )
    return Mask(text, found, new=False)


def _ends(base: Base) -> set[int]:
    """Return the tokens that begin, end and fill up the base's texts."""
    raw = _with_diffusion(base, CANVAS_LENGTH, 0)
    named = (raw.get(f"{name}_token_id") for name in ("bos", "eos", "pad"))
    return {token for one in named for token in (one if isinstance(one, list) else [one]) if token is not None}


def _expected(family: Family[Any, Any], config: FamilyConfig) -> dict[str, Tensor]:
    """Return the tensors of a model by stored name, without their values."""
    with torch.device("meta"):
        model = family.build(config, {})
    return {family.stored_name(name): tensor for name, tensor in model.state_dict().items()}


def _write_weights(base: Base, folder: Path, config: FamilyConfig, mask: Mask, dtype: torch.dtype | None) -> None:
    """Copy the tensors one at a time, the mask's row of the embedding made the mean of all others."""
    expected = _expected(base.family, config)
    dtypes = {name: dtype or base.tensors[name].dtype for name in expected}
    with source.reading(base.tensors) as stored:

        def tensor(name: str) -> Tensor:
            one = stored(name)
            if name in (_EMBEDDING, _HEAD):
                one = _with_mask(one, mask, len(expected[name]), replaced=name == _EMBEDDING)
            return one.to(dtypes[name])

        described = {name: (tuple(tensor.shape), dtypes[name]) for name, tensor in expected.items()}
        streamed.write_each(folder, described, tensor)


def _with_mask(table: Tensor, mask: Mask, rows: int, replaced: bool) -> Tensor:
    """Return a table [V, H] of ``rows`` rows, new ones and, if it is to be ``replaced``, the mask's the mean of the
    others."""
    others = torch.ones(len(table), dtype=torch.bool)
    if mask.id < len(table):
        others[mask.id] = False
    mean = table[others].float().mean(0).to(table.dtype)
    grown = torch.cat([table, mean.expand(rows - len(table), -1)])
    if replaced:
        grown[mask.id] = mean
    return grown


def _add_mask(folder: Path, tokenizer: ChatTokenizer, mask: Mask) -> None:
    """Have the tokenizer's files name the mask, and have it where it is new."""
    settings = read_object(folder / SETTINGS_FILE) if (folder / SETTINGS_FILE).exists() else {}
    if mask.new:
        with replacing(folder / TOKENIZER_FILE, keep_link=False) as new:
            tokenizer.tokenizer.save(str(new))
        listed = settings.get("added_tokens_decoder")
        if isinstance(listed, dict):
            listed[str(mask.id)] = {"content": mask.text, "special": True, **_AS_WRITTEN}
    write_object(folder / SETTINGS_FILE, {**settings, "mask_token": mask.text})
