"""A recipe: the settings that serve a task, in a file that ``generate --recipe`` and ``serve --recipe`` take."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from redraft.canvas.acceptance import ConfidenceThreshold
from redraft.engine.request import check_number, check_whole
from redraft.errors import RequestError
from redraft.files import write_text
from redraft.measure.tune.settings import Setting
from redraft.models.base import ALL_MODES

_FORMAT = 1
_OF_ACCEPTANCE = ("entropy_bound", "confidence_threshold", "acceptance")


@dataclass(frozen=True)
class Recipe:
    """Settings, what they were found for, and what they were worth there."""

    model: str
    setting: Setting
    measured: Mapping[str, Any] = field(default_factory=dict)

    def beside(self, given: Mapping[str, Any], *, generates: bool = True) -> dict[str, Any]:
        """Return ``given`` parameters of ``Engine.generate`` with those of the recipe that they leave open.

        What is None is open. A recipe of another mode than the given one adds nothing; neither do its steps and its
        acceptance where ``quality`` or ``reasoning_effort`` says how carefully to write. ``generates``: False for a
        verb that knows canvases alone; a recipe of another mode adds nothing there.
        """
        found = dict(given)
        own = self.setting.parameters
        mode = own.pop("mode", None)
        wanted = given.get("mode") or (None if generates else "diffusion")
        if mode is not None and wanted is not None and wanted != mode:
            return found
        if generates and mode is not None and given.get("quality") is None:
            found["mode"] = mode
        told = [name for name in ("quality", "reasoning_effort") if given.get(name) is not None]
        if told or any(given.get(name) is not None for name in _OF_ACCEPTANCE):
            own = {name: value for name, value in own.items() if name not in _OF_ACCEPTANCE}
        if told:
            own.pop("max_denoising_steps", None)
        threshold = own.pop("confidence_threshold", None)
        if threshold is not None:
            found["acceptance"] = ConfidenceThreshold(threshold)
        for name, value in own.items():
            if found.get(name) is None:
                found[name] = value
        return found

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters of ``Engine.generate``."""
        return self.beside({})

    def write(self, path: Path) -> None:
        """Write the file, beside and renamed."""
        content = {
            "redraft_recipe": _FORMAT,
            "model": self.model,
            "parameters": self.setting.parameters,
            "measured": dict(self.measured),
        }
        write_text(path, json.dumps(content, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def read_recipe(path: str | Path) -> Recipe:
    """Read a recipe's file; RequestError for one that is none, or has a parameter that cannot be."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RequestError(f"the recipe {path} cannot be read: {error}") from error
    if not isinstance(found, dict) or "redraft_recipe" not in found:
        raise RequestError(f"{path} is no recipe; redraft tune writes one with --out")
    if found["redraft_recipe"] != _FORMAT:
        raise RequestError(f"the recipe {path} has format {found['redraft_recipe']!r}; this version reads {_FORMAT}")
    parameters, measured = found.get("parameters"), found.get("measured", {})
    if not isinstance(parameters, dict) or not isinstance(measured, dict):
        raise RequestError(f"the recipe {path} must have parameters and measured as objects")
    return Recipe(str(found.get("model", "")), _setting(parameters, path), measured)


def _setting(given: Mapping[str, Any], path: str | Path) -> Setting:
    known = [one.name for one in fields(Setting)]
    for name in given:
        if name not in known:
            raise RequestError(f"the recipe {path} has the parameter {name!r}; known are {', '.join(known)}")
    setting = Setting(**given)
    try:
        if setting.mode is not None and setting.mode not in ALL_MODES:
            raise RequestError(f"mode {setting.mode!r} must be one of {', '.join(ALL_MODES)}")
        for name in ("max_denoising_steps", "canvas_length"):
            if getattr(setting, name) is not None:
                check_whole(name, getattr(setting, name), 1)
        if setting.entropy_bound is not None:
            check_number("entropy_bound", setting.entropy_bound, 0)
        if setting.confidence_threshold is not None:
            ConfidenceThreshold(check_number("confidence_threshold", setting.confidence_threshold, 0))
            if setting.entropy_bound is not None:
                raise RequestError("entropy_bound and confidence_threshold exclude each other")
    except ValueError as error:
        raise RequestError(f"the recipe {path}: {error}") from error
    return setting
