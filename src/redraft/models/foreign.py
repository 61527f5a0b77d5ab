"""Repositories and folders that hold something else than a checkpoint that loads: each is told what it is, and what to
do, from the names of its files and its configuration alone."""

from collections.abc import Collection, Mapping
from pathlib import PurePosixPath
from typing import Any

from redraft.errors import CheckpointError
from redraft.formats.adapter import CONFIG_FILE as ADAPTER_FILE
from redraft.formats.gguf.header import SUFFIX as GGUF
from redraft.formats.quantised.published import METHODS, quantisation
from redraft.formats.safetensors import INDEX_FILE, WEIGHTS_FILE
from redraft.formats.source import CONFIG_FILE
from redraft.models.packed_file import METHOD

# Weights that are pickled Python objects, or of another framework.
_PICKLED = (".bin", ".pt", ".pth", ".ckpt")
_FRAMEWORKS = {".h5": "TensorFlow", ".msgpack": "Flax", ".onnx": "ONNX", ".npz": "MLX or NumPy"}
_SHOWN = 3


def check(where: str, names: Collection[str], config: Mapping[str, Any] | None, adapter: Mapping[str, Any]) -> None:
    """Raise CheckpointError, beginning with ``where``, for files that are no checkpoint which loads.

    names: of all files, with their folders. config: what ``config.json`` says, None where there is none. adapter: what
    ``adapter_config.json`` says, empty where there is none.
    """
    reason = _reason(names, config, adapter)
    if reason is not None:
        raise CheckpointError(f"{where} {reason}")


def _reason(names: Collection[str], config: Mapping[str, Any] | None, adapter: Mapping[str, Any]) -> str | None:
    found = quantisation(config or {}, {})
    method = None if found is None else found.method
    if method is not None and method != METHOD and method not in METHODS:
        return (
            f"has weights that were quantised by {method!r} (quantization_config of {CONFIG_FILE}), which is not read; "
            f"read are {', '.join(METHODS)}, and GGUF files. Take such a copy, or the repository that it was made of, "
            "and quantise that: redraft quantize MODEL DIR --dtype int8"
        )
    if INDEX_FILE in names or WEIGHTS_FILE in names:
        return None
    if ADAPTER_FILE in names:
        base = adapter.get("base_model_name_or_path") or "a base that it does not name"
        return (
            f"holds an adapter of {base}, not a whole model; merge the two into a checkpoint: "
            "redraft train merge ADAPTER --out DIR"
        )
    return _other_weights(names)


def _other_weights(names: Collection[str]) -> str:
    """Say what stands in the place of the weights that are read."""
    by_suffix: dict[str, list[str]] = {}
    for name in sorted(names):
        by_suffix.setdefault(PurePosixPath(name).suffix, []).append(name)
    if files := by_suffix.get(GGUF):
        return f"holds GGUF files ({_listed(files)}); name the file itself: fetch one, and give its path"
    if files := [name for suffix in _PICKLED for name in by_suffix.get(suffix, []) if name != "training_args.bin"]:
        return (
            f"has its weights as pickled PyTorch files ({_listed(files)}), which may run code when they are read, and "
            "are not; look for a copy in safetensors, or convert it with transformers: "
            "model.save_pretrained(DIR, safe_serialization=True)"
        )
    for suffix, framework in _FRAMEWORKS.items():
        if files := by_suffix.get(suffix):
            return f"has its weights for {framework} ({_listed(files)}), which are not read; look for safetensors"
    if files := by_suffix.get(".safetensors"):
        return (
            f"has no {WEIGHTS_FILE} and no {INDEX_FILE}, but {_listed(files)}; rename the file, or write the index "
            "that says which tensor is in which"
        )
    return f"has neither {WEIGHTS_FILE} nor {INDEX_FILE}; its weights are missing"


def _listed(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
