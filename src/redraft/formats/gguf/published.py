"""The translation of a file, by the module of its architecture: a ``config.json``, and the origins of its tensors."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from redraft.formats.gguf.header import Header


@dataclass(frozen=True)
class Origin:
    """The tensor that a published one is read from, and what undoes llama.cpp's change to its values."""

    name: str
    undo: Callable[[Tensor], Tensor] | None = None


@dataclass(frozen=True)
class Published:
    """A GGUF file under published names."""

    config: dict[str, Any]
    """The ``config.json`` of the same model on the hub."""
    origins: dict[str, Origin]
    """Origins by published name. A tensor that no published one is read from keeps its own name."""
    generation: dict[str, Any]
    """The ``generation_config.json`` of the same model."""


def published_names(
    header: Header, outside: Mapping[str, str], inside: Mapping[str, str], prefix: str
) -> dict[str, str]:
    """Return published names by those of the file: ``outside`` of layers whole names, ``inside`` what stands behind
    "blk.N." and behind "``prefix``layers.N."; others keep their own."""
    found = {}
    for name in header.extents:
        block, number, rest = ([*name.split(".", 2), "", ""])[:3]
        if block == "blk" and rest in inside:
            found[name] = f"{prefix}layers.{number}.{inside[rest]}"
        else:
            found[name] = outside.get(name, name)
    return found


def decimal(value: float) -> float:
    """Return what a float32 of the metadata was written as: 1e-5, not 9.999999747378752e-06."""
    return float(f"{value:.7g}")


def end_tokens(header: Header) -> list[int]:
    """Return the ids that end a text or a turn."""
    names = ("eos", "eot")
    found = (header.metadata.get(f"tokenizer.ggml.{name}_token_id") for name in names)
    return list(dict.fromkeys(token for token in found if token is not None))
