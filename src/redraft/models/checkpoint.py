"""Checkpoint folders as the hub holds them: found, described, loaded and saved, with every fault named."""

import json
import re
import shutil
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import resources
from math import prod
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from redraft.errors import CheckpointError
from redraft.files import replacing, write_text
from redraft.kernels.packed import FORMATS, Format
from redraft.models.base import GenerationDefaults
from redraft.models.diffusion_gemma.model import DiffusionGemma, DiffusionGemmaConfig, WindowPolicy

DType = Literal["auto", "float32", "bfloat16", "int8", "int4"]
# Below this many parameters "auto" computes in float32, which is exact and, for small shapes, no slower.
AUTO_FLOAT32 = 500_000_000
CONFIG_FILE, GENERATION_FILE = "config.json", "generation_config.json"
OWN_FILE = "redraft.json"
INDEX_FILE, WEIGHTS_FILE = "model.safetensors.index.json", "model.safetensors"
_DOWNLOADED = ["*.json", "*.safetensors", "*.jinja"]
# What ``transformers`` refuses to find in its own file.
_OWN = ("choice_temperature",)
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_TORCH_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies and what the file's header says of it."""

    file: Path
    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class Checkpoint:
    """A folder whose configuration was read and whose tensors were found, none of them loaded yet."""

    folder: Path
    architecture: str
    config: DiffusionGemmaConfig
    defaults: GenerationDefaults
    tensors: Mapping[str, StoredTensor]
    """By hub name; only what the text model is made of."""
    unused: Mapping[str, StoredTensor]
    """Tensors in the files that the text model has no use for: the vision tower, and copies of tied weights."""

    def format(self, dtype: DType) -> Format:
        """What "auto" means for this checkpoint; other names are themselves. CheckpointError for unknown ones."""
        if dtype == "auto":
            parameters = sum(prod(t.shape) for t in self.tensors.values())
            stored = self.tensors["model.decoder.embed_tokens.weight"].dtype
            return "float32" if parameters < AUTO_FLOAT32 or stored == torch.float32 else "bfloat16"
        if dtype not in FORMATS:
            known = ", ".join(repr(name) for name in get_args(DType))
            raise CheckpointError(f"dtype {dtype!r} is not supported; choose one of {known}")
        return dtype

    def load(self, dtype: DType = "auto", window_policy: WindowPolicy = "shared") -> DiffusionGemma:
        """Load the plain model on the CPU, in float32 or bfloat16. Tensors already stored so stay mapped from their
        files.

        Raises CheckpointError naming the file that cannot be read.
        """
        format = self.format(dtype)
        if format in ("int8", "int4"):
            raise CheckpointError(f"dtype {format!r} has packed weights only; load it with redraft.load")
        wanted = torch.float32 if format == "float32" else torch.bfloat16
        with torch.device("meta"):
            model = DiffusionGemma(self.config, window_policy)
        model.defaults = self.defaults
        state: dict[str, torch.Tensor] = {}
        with ExitStack() as files:
            opened = {path: files.enter_context(_open(path)) for path in {t.file for t in self.tensors.values()}}
            for name, hub_name in _hub_names(model).items():
                state[name] = opened[self.tensors[hub_name].file].get_tensor(hub_name).to(wanted)
        model.load_state_dict(state, assign=True)
        return model.eval().requires_grad_(False)


def find(source: str | Path) -> Path:
    """The folder of a bundled name ("sudoku"), a path, or a hub id ("google/diffusiongemma-26B-A4B-it").

    Raises CheckpointError saying what was looked for and what is there.
    """
    name = str(source)
    if not name.strip():
        raise CheckpointError("the checkpoint's name is empty; give a bundled name, a folder, or a hub id")
    path = _local_path(name)
    if path is not None and path.is_dir():
        return path
    bundled = Path(str(resources.files("redraft") / "bundled"))
    names = sorted(path.parent.name for path in bundled.glob(f"*/{CONFIG_FILE}"))
    if name in names:
        return bundled / name
    if path is not None and path.exists():
        raise CheckpointError(f"{name} is a file; pass the checkpoint's folder")
    if _HUB_ID.fullmatch(name) and not name.startswith("."):
        return _download(name)
    known = ", ".join(names) or "none"
    raise CheckpointError(
        f"no checkpoint {name!r}: it is no folder, no bundled name (there are: {known}), and no hub id (owner/name)"
    )


def find_here(source: str | Path) -> Path | None:
    """The folder that ``find`` would give, if nothing has to be fetched for it."""
    try:
        if _HUB_ID.fullmatch(str(source)) and not Path(source).is_dir():
            from huggingface_hub import try_to_load_from_cache

            cached = try_to_load_from_cache(str(source), CONFIG_FILE)
            return Path(cached).parent if isinstance(cached, str) else None
        return find(source)
    except (CheckpointError, ValueError, OSError):
        return None


def _local_path(name: str) -> Path | None:
    """``name`` as a path, or None where no path can be called that."""
    try:
        path = Path(name).expanduser()
        path.exists()
    except (OSError, RuntimeError, ValueError):
        return None
    return path


def read(folder: Path) -> Checkpoint:
    """Read a folder's configuration and the headers of its weight files, and check that they belong together.

    Raises CheckpointError naming the file, or the missing, unexpected or misshapen tensor.
    """
    raw = _read_json(folder / CONFIG_FILE)
    named = raw.get("architectures")
    architecture = named[0] if isinstance(named, list) and named else named
    if architecture != "DiffusionGemmaForBlockDiffusion":
        raise CheckpointError(
            f"{folder / CONFIG_FILE}: architecture {architecture!r} is not supported; "
            "supported is 'DiffusionGemmaForBlockDiffusion'"
        )
    config = DiffusionGemmaConfig.from_json(raw)
    stored = _stored_tensors(folder)
    with torch.device("meta"):
        model = DiffusionGemma(config)
    expected = {DiffusionGemma.hub_name(name): tensor for name, tensor in model.state_dict().items()}
    _check_tensors(folder, expected, stored)
    generation, own = (
        _read_json(folder / name) if (folder / name).exists() else {} for name in (GENERATION_FILE, OWN_FILE)
    )
    return Checkpoint(
        folder=folder,
        architecture=architecture,
        config=config,
        defaults=_generation_defaults(generation, own, config),
        tensors={name: stored[name] for name in expected},
        unused={name: tensor for name, tensor in stored.items() if name not in expected},
    )


def save(model: DiffusionGemma, folder: Path, dtype: torch.dtype, extra_files: Iterable[Path] = ()) -> None:
    """Write a folder that ``read`` and ``transformers`` load: configuration, defaults, weights, and copies of
    ``extra_files`` (tokenizer, template)."""
    folder.mkdir(parents=True, exist_ok=True)
    state = model.state_dict()
    tensors = {hub: state[name].to(dtype).contiguous() for name, hub in _hub_names(model).items()}
    # A link, as in the hub's cache, is replaced itself: others share the file that it leads to.
    with replacing(folder / WEIGHTS_FILE, keep_link=False) as new:
        save_file(tensors, new, metadata={"format": "pt"})
    # An index left by a sharded checkpoint would be read in place of the file just written.
    (folder / INDEX_FILE).unlink(missing_ok=True)
    config = {**model.config.to_json(), "dtype": str(dtype).removeprefix("torch.")}
    _write_json(folder / CONFIG_FILE, config)
    defaults = model.defaults
    generation = {
        "max_denoising_steps": defaults.max_denoising_steps,
        "sampler_config": {"_cls_name": "EntropyBoundSamplerConfig", "entropy_bound": defaults.entropy_bound},
        "t_max": defaults.t_max,
        "t_min": defaults.t_min,
        "stability_threshold": defaults.stability_threshold,
        "confidence_threshold": defaults.confidence_threshold,
        "eos_token_id": list(defaults.end_token_ids),
        "pad_token_id": model.config.pad_token_id,
        "bos_token_id": model.config.bos_token_id,
    }
    _write_json(folder / GENERATION_FILE, generation)
    own = {name: getattr(defaults, name) for name in _OWN if getattr(defaults, name) is not None}
    if own:
        _write_json(folder / OWN_FILE, own)
    else:
        (folder / OWN_FILE).unlink(missing_ok=True)
    for path in extra_files:
        if path.resolve() != (folder / path.name).resolve():
            with replacing(folder / path.name, keep_link=False) as new:
                shutil.copy(path, new)


def save_choice_temperature(folder: str | Path, temperature: float) -> None:
    """Write a fitted ``choice_temperature`` into a checkpoint folder, in a file that only Redraft reads.

    Raises CheckpointError for a folder that is no checkpoint, and for a temperature that is not above 0 and finite.
    """
    folder = Path(folder)
    config = DiffusionGemmaConfig.from_json(_read_json(folder / CONFIG_FILE))
    own = {"choice_temperature": temperature}
    _generation_defaults({}, own, config)
    _write_json(folder / OWN_FILE, own)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(content, indent=2) + "\n", keep_link=False)


def _hub_names(model: DiffusionGemma) -> dict[str, str]:
    return {name: DiffusionGemma.hub_name(name) for name in model.state_dict()}


def _download(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hub_id, allow_patterns=_DOWNLOADED))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(
            f"{hub_id!r} is no folder here and could not be fetched from the hub: {reason}. Check the name and the "
            "connection, log in with 'hf auth login' if the model is gated, or pass a local folder"
        ) from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path.parent} has no {path.name}; is it a checkpoint folder?") from None
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds {type(content).__name__}, not a JSON object")
    return content


def _stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    if (folder / INDEX_FILE).exists():
        index = _read_json(folder / INDEX_FILE).get("weight_map")
        if not isinstance(index, dict) or not all(isinstance(name, str) for name in index.values()):
            raise CheckpointError(f"{folder / INDEX_FILE} has no 'weight_map' of tensor names to file names")
        paths = [folder / name for name in sorted(set(index.values()))]
    elif (folder / WEIGHTS_FILE).exists():
        index, paths = {}, [folder / WEIGHTS_FILE]
    else:
        raise CheckpointError(f"{folder} has neither {WEIGHTS_FILE} nor {INDEX_FILE}; its weights are missing")
    stored: dict[str, StoredTensor] = {}
    for path in paths:
        with _open(path) as file:
            for name in file.keys():  # noqa: SIM118 - a safetensors file is no mapping
                part = file.get_slice(name)
                if part.get_dtype() not in _TORCH_DTYPES:
                    supported = ", ".join(_TORCH_DTYPES)
                    raise CheckpointError(
                        f"{path}: tensor {name} is stored as {part.get_dtype()}; supported are {supported}"
                    )
                stored[name] = StoredTensor(path, tuple(part.get_shape()), _TORCH_DTYPES[part.get_dtype()])
    for name in index:
        if name not in stored:
            raise CheckpointError(f"{folder / index[name]} lacks tensor {name}, which {INDEX_FILE} says it holds")
    return stored


def _open(path: Path) -> Any:
    if not path.exists():
        raise CheckpointError(f"weight file {path} is missing; download the checkpoint again")
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"weight file {path} is damaged or cut short ({error}); download it again") from error


def _check_tensors(folder: Path, expected: Mapping[str, torch.Tensor], stored: Mapping[str, StoredTensor]) -> None:
    missing = [name for name in expected if name not in stored]
    if missing:
        raise CheckpointError(
            f"{folder}: tensor {missing[0]} is missing{_and_more(missing)}; the download may be incomplete, or "
            f"{CONFIG_FILE} belongs to another model"
        )
    for name, tensor in expected.items():
        if stored[name].shape != tuple(tensor.shape):
            raise CheckpointError(
                f"{stored[name].file}: tensor {name} has shape {list(stored[name].shape)}, and by {CONFIG_FILE} it "
                f"must have {list(tensor.shape)}"
            )
    unknown = [name for name in stored if name not in expected and DiffusionGemma.unused_part(name) is None]
    if unknown:
        raise CheckpointError(
            f"{stored[unknown[0]].file}: tensor {unknown[0]} has no place in the model{_and_more(unknown)}; the "
            "checkpoint may need a newer version of redraft"
        )


def _and_more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def _generation_defaults(
    generation: Mapping[str, Any], own: Mapping[str, Any], config: DiffusionGemmaConfig
) -> GenerationDefaults:
    """Absent and null fields take the reference's values. ``max_new_tokens`` is not read: a released checkpoint says
    256, which would cut every longer answer."""
    sampler = generation.get("sampler_config") or {}
    if not isinstance(sampler, dict):
        raise CheckpointError(f"{GENERATION_FILE}: sampler_config must be an object, not {sampler!r}")
    if sampler.get("_cls_name", "EntropyBoundSamplerConfig") != "EntropyBoundSamplerConfig":
        raise CheckpointError(f"{GENERATION_FILE}: sampler {sampler['_cls_name']!r} is not supported")
    if unknown := own.keys() - _OWN:
        raise CheckpointError(f"{OWN_FILE}: {min(unknown)!r} is unknown; known is {', '.join(_OWN)}")
    end = generation.get("eos_token_id")
    values: dict[str, Any] = {
        **{name: (own if name in _OWN else generation).get(name) for name in GenerationDefaults.__dataclass_fields__},
        "entropy_bound": sampler.get("entropy_bound"),
        "end_token_ids": config.end_token_ids if end is None else tuple(end) if isinstance(end, list) else (end,),
    }
    try:
        return GenerationDefaults(**{name: value for name, value in values.items() if value is not None})
    except (TypeError, ValueError) as error:
        file = OWN_FILE if any(name in str(error) for name in _OWN) else GENERATION_FILE
        raise CheckpointError(f"{file}: {error}") from error
