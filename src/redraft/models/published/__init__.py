"""Published models whose shapes, and the copies there are of them, ship with Redraft: known without a network.

A file a model: its ``config.json`` and ``generation_config.json`` as published, and its copies with the sizes of their
files as the hub gave them when the table was made. Of other repositories the hub has to be asked.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from redraft.formats.tensors import StoredTensor
from redraft.kernels.packed import FORMATS, Format
from redraft.models.checkpoint import Checkpoint
from redraft.models.family import FamilyConfig
from redraft.models.registry import family_of


@dataclass(frozen=True)
class Copy:
    """A repository with the weights of a published model."""

    name: str
    stored: str
    """The format of its files, in words."""
    nbytes: int
    """Bytes to fetch."""
    dtype: Format
    """The format that it is best computed in here."""
    kept: str
    """The fate of its numbers then: "exact", "scales rounded" or "rounded again"."""


@dataclass(frozen=True)
class _Model:
    name: str
    checkpoint: Checkpoint
    copies: tuple[Copy, ...]


def copies(config: FamilyConfig) -> tuple[Copy, ...]:
    """Return the copies of the published model that has this configuration, largest first; empty for others."""
    return next((model.copies for model in _models() if model.checkpoint.config == config), ())


def known(name: str) -> tuple[Checkpoint, Copy] | None:
    """Return a published model, as though its headers had been read, and the copy of it that a repository has, the
    first of several; None for a name that is not in the table.

    The model's path is the name of the original, and no file of it is there.
    """
    return next(
        ((model.checkpoint, copy) for model in _models() for copy in model.copies if copy.name == name),
        None,
    )


@cache
def _models() -> tuple[_Model, ...]:
    folder = resources.files("redraft.models.published")
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".json")), key=lambda file: file.name)
    return tuple(_model(json.loads(file.read_text(encoding="utf-8"))) for file in files)


def _model(described: Mapping[str, Any]) -> _Model:
    name, raw = described["name"], described["config"]
    architecture = raw["architectures"][0]
    family = family_of(architecture)
    config = family.read_config(raw)
    with torch.device("meta"):
        model = family.build(config, {})
    stored = {
        family.stored_name(own): StoredTensor(Path(name), tuple(tensor.shape), torch.bfloat16)
        for own, tensor in model.state_dict().items()
    }
    found = Checkpoint(
        path=Path(name),
        architecture=architecture,
        family=family,
        config=config,
        names=tuple(model.state_dict()),
        defaults=family.read_defaults(described["generation"], config),
        cache_layout=tuple(model.cache_layout()),
        tensors=stored,
        packed=None,
        unused={},
    )
    own = [
        Copy(one["name"], one["stored"], one["bytes"], _format(one["dtype"]), one["kept"])
        for one in described["copies"]
    ]
    return _Model(name, found, tuple(sorted(own, key=lambda one: -one.nbytes)))


def _format(name: str) -> Format:
    return next(format for format in FORMATS if format == name)
