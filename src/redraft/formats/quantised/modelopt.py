"""Copies that NVIDIA's Model Optimizer wrote: NVFP4 and FP8, with a scale over all that values are multiplied by.

https://github.com/NVIDIA/Model-Optimizer. Its configuration lies in ``config.json`` or in ``hf_quant_config.json``.
"""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from redraft.errors import CheckpointError
from redraft.formats.quantised.codes import Codes, Float4Codes, Float8Codes
from redraft.formats.quantised.matrices import Quantised, Scales
from redraft.formats.quantised.modules import WEIGHT, Module, check_scales, check_width, modules
from redraft.formats.safetensors import DTYPES
from redraft.formats.tensors import Part

METHOD = "modelopt"
CONFIG_FILE = "hf_quant_config.json"
_SCALE, _OVERALL = "weight_scale", "weight_scale_2"
# A scale for each input, which rows are multiplied by first: a copy that has it cannot be read without.
_ROW_SCALE = "pre_quant_scale"
_OF_WEIGHTS = (WEIGHT, _SCALE, _OVERALL, _ROW_SCALE)
UNREAD = ("input_scale", "k_scale", "v_scale", "k_bias", "v_bias", "output_scale")
"""Parts that are for quantised activations, keys and values."""
_GROUP = 16
_ALGORITHMS: dict[str, Codes] = {"NVFP4": Float4Codes(), "FP8": Float8Codes()}


def describe(parts: Mapping[str, Part], config: Mapping[str, Any]) -> dict[str, Quantised]:
    """Describe quantised matrices by the names of their dense weights. Other parts are none of theirs.

    Raises CheckpointError naming the key of the configuration, or the tensor, that is missing, unknown or contradicts.
    """
    algorithm, ignore = _read(config)
    codes = _ALGORITHMS[algorithm]
    why = f"quant_algo {algorithm}"
    found = {}
    for name, module in modules(parts, _OF_WEIGHTS).items():
        if set(module.parts) == {WEIGHT} and module.parts[WEIGHT].dtype in DTYPES:
            continue
        pattern = next((one for one in ignore if fnmatchcase(name, one)), None)
        if pattern is not None:
            raise CheckpointError(
                f"{module.where} is stored quantised ({', '.join(sorted(module.parts))}), and the list of what is not "
                f"has {pattern!r}; one of the two belongs to another copy"
            )
        found[f"{name}.{WEIGHT}"] = _matrix(module, algorithm, codes, why)
    return found


def belongs(name: str) -> bool:
    """Tell whether a part is one of a quantised matrix, beside the weight itself, or is not read at all."""
    return name.rpartition(".")[2] in (*_OF_WEIGHTS[1:], *UNREAD)


def _read(config: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Return the algorithm, and patterns of names that it was not applied to."""
    nested = config.get("quantization")
    own = nested if isinstance(nested, Mapping) else config
    algorithm = own.get("quant_algo")
    if algorithm not in _ALGORITHMS:
        raise CheckpointError(
            f"quantization_config.quant_algo = {algorithm!r} is not read; read are {', '.join(_ALGORITHMS)}. Take a "
            "copy in one of those, or the checkpoint that it was made of"
        )
    size = _group_size(own)
    if algorithm == "NVFP4" and size != _GROUP:
        raise CheckpointError(f"quantization_config: NVFP4 has groups of {_GROUP}, not of {size!r}")
    ignore = own.get("ignore", own.get("exclude_modules")) or []
    if not isinstance(ignore, list) or not all(isinstance(one, str) for one in ignore):
        raise CheckpointError(f"quantization_config.ignore must be a list of patterns of names, not {ignore!r}")
    return algorithm, ignore


def _group_size(config: Mapping[str, Any]) -> object:
    """Return what the configuration says of groups; where it says nothing, what NVFP4 has."""
    if config.get("group_size") is not None:
        return config["group_size"]
    groups = config.get("config_groups")
    sizes = [
        group["weights"]["group_size"]
        for group in (groups.values() if isinstance(groups, Mapping) else ())
        if isinstance(group, Mapping) and isinstance(group.get("weights"), Mapping) and "group_size" in group["weights"]
    ]
    return next((size for size in sizes if size != _GROUP), _GROUP)


def _matrix(module: Module, algorithm: str, codes: Codes, why: str) -> Quantised:
    tiny = algorithm == "NVFP4"
    module.check_no_others((WEIGHT, _SCALE, *((_OVERALL,) if tiny else ())), why)
    weight = module.part(WEIGHT, codes.dtypes, why)
    if len(weight.shape) != 2:
        raise CheckpointError(f"{weight} has shape {list(weight.shape)}, and {why} has matrices")
    scale = module.part(_SCALE, ("F8_E4M3",) if tiny else tuple(DTYPES), why)
    if tiny:
        scales = Scales(scale, group=_GROUP, overall=module.part(_OVERALL, ("F32",), why))
    else:
        # One for the matrix, or one a row.
        scales = Scales(scale, block=None if scale.shape in ((), (1,)) else 1)
    shape = (weight.shape[0], weight.shape[1] * (2 if tiny else 1))
    check_width(weight, codes, shape[1], why)
    check_scales(scales, *shape, why)
    return Quantised(algorithm, weight, codes, shape, scales)
