"""Copies that MLX wrote: words of whole numbers with a scale and a bias a group, module by module in other bits.

https://ml-explore.github.io/mlx/build/html/python/_autosummary/mlx.core.quantize.html
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from redraft.errors import CheckpointError
from redraft.formats.quantised.codes import Codes, Float4Codes, Float8Codes, WordCodes
from redraft.formats.quantised.matrices import Minimums, Quantised, Scales
from redraft.formats.quantised.modules import WEIGHT, Module, check_width, modules
from redraft.formats.safetensors import DTYPES
from redraft.formats.tensors import Part

METHOD = "mlx"
_SCALES, _BIASES = "scales", "biases"
_OF_WEIGHTS = (WEIGHT, _SCALES, _BIASES)
_WORDS = ("U32",)
_FLOATS: dict[str, tuple[int, int, str, Codes]] = {
    "mxfp4": (4, 32, "U8", Float4Codes(_WORDS)),
    "mxfp8": (8, 32, "U8", Float8Codes(_WORDS)),
}
"""Modes without biases: bits, the size of a group, the dtype of scales, and the codes."""
_AFFINE, _AFFINE_BITS = "affine", (2, 3, 4, 5, 6, 8)


@dataclass(frozen=True)
class Settings:
    """The way in which one module is quantised."""

    bits: int
    group: int
    mode: str

    @property
    def label(self) -> str:
        return f"MLX {self.bits}-bit, groups of {self.group}" if self.mode == _AFFINE else f"MLX {self.mode.upper()}"


def describe(parts: Mapping[str, Part], config: Mapping[str, Any]) -> dict[str, Quantised]:
    """Describe quantised matrices by the names of their dense weights. Other parts are none of theirs.

    Raises CheckpointError naming the key of the configuration, or the tensor, that is missing, unknown or contradicts.
    """
    overall = _settings(config, None, "quantization")
    found = {}
    for name, module in modules(parts, _OF_WEIGHTS).items():
        own, where = config.get(name), f"quantization.{name}"
        plain = WEIGHT in module.parts and module.parts[WEIGHT].dtype in DTYPES and _SCALES not in module.parts
        if plain and _BIASES not in module.parts:
            if isinstance(own, Mapping):
                raise CheckpointError(f"{module.where} is stored without scales, and config.json has {where} = {own}")
            continue
        if own is False:
            raise CheckpointError(f"{module.where} is stored with scales, and config.json has {where} = false")
        found[f"{name}.{WEIGHT}"] = _matrix(module, _settings(own, overall, where), where)
    return found


def belongs(name: str) -> bool:
    """Tell whether a part is one of a quantised matrix, beside the weight itself."""
    return name.rpartition(".")[2] in (_SCALES, _BIASES)


def _settings(config: object, overall: Settings | None, where: str) -> Settings:
    """Read what is said of one module, or of all; what it leaves out is as in ``overall``."""
    own: Mapping[str, Any] = config if isinstance(config, Mapping) else {}
    mode = own.get("mode", _AFFINE if overall is None else overall.mode)
    if mode != _AFFINE and mode not in _FLOATS:
        raise CheckpointError(
            f"config.json: {where}.mode = {mode!r} is not read; read are {', '.join((_AFFINE, *_FLOATS))}"
        )
    usual = (4, 64) if mode == _AFFINE else _FLOATS[mode][:2]
    if overall is not None and mode == overall.mode:
        usual = overall.bits, overall.group
    bits, group = own.get("bits", usual[0]), own.get("group_size", usual[1])
    right = bits in _AFFINE_BITS if mode == _AFFINE else (bits, group) == _FLOATS[mode][:2]
    if not right or not isinstance(group, int) or isinstance(group, bool) or group < 1:
        raise CheckpointError(f"config.json: {where} has {bits!r} bits in groups of {group!r}, which {mode} has not")
    return Settings(bits, group, mode)


def _matrix(module: Module, settings: Settings, where: str) -> Quantised:
    why = f"{where} ({settings.mode}, {settings.bits} bits, groups of {settings.group})"
    affine = settings.mode == _AFFINE
    codes = WordCodes(settings.bits, False, _WORDS) if affine else _FLOATS[settings.mode][3]
    weight = module.part(WEIGHT, codes.dtypes, why)
    dtypes = tuple(DTYPES) if affine else (_FLOATS[settings.mode][2],)
    scale = module.part(_SCALES, dtypes, why)
    scales, minimums = Scales(scale, group=settings.group), None
    if len(weight.shape) not in (2, 3) or scale.shape[:-1] != weight.shape[:-1]:
        raise CheckpointError(f"{scale} has shape {list(scale.shape)}, beside a weight {list(weight.shape)} by {why}")
    shape = (*weight.shape[:-1], scale.shape[-1] * settings.group)
    check_width(weight, codes, shape[-1], why)
    if affine:
        minimums = Minimums(module.part(_BIASES, dtypes, why))
        if minimums.part.shape != scale.shape:
            raise CheckpointError(
                f"{minimums.part} has shape {list(minimums.part.shape)}, and {_SCALES} has {list(scale.shape)}"
            )
    elif _BIASES in module.parts:
        raise CheckpointError(f"{module.parts[_BIASES]} has no place in {why}")
    return Quantised(settings.label, weight, codes, shape, scales, minimums)
