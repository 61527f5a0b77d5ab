"""Copies that compressed-tensors wrote, the library of llm-compressor and vLLM: its schemes, names and layouts.

https://github.com/vllm-project/compressed-tensors. Only weights are read: whatever a scheme says of activations, and of
keys and values, is a wish of the runtime that it was made for.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from redraft.errors import CheckpointError
from redraft.formats.quantised.codes import ByteCodes, Codes, Float4Codes, Float8Codes, WordCodes
from redraft.formats.quantised.matrices import Minimums, Quantised, Scales
from redraft.formats.quantised.modules import WEIGHT, Module, check_scales, check_width, modules
from redraft.formats.safetensors import DTYPES
from redraft.formats.tensors import Part

METHOD = "compressed-tensors"
_KEY = "quantization_config"
_PACKED, _SCALE, _GLOBAL = "weight_packed", "weight_scale", "weight_global_scale"
_ZERO, _SHAPE, _ORDER = "weight_zero_point", "weight_shape", "weight_g_idx"
_OF_WEIGHTS = (WEIGHT, _PACKED, _SCALE, _GLOBAL, _ZERO, _SHAPE, _ORDER)
UNREAD = (
    *("input_scale", "input_zero_point", "input_global_scale", "output_scale", "output_zero_point"),
    *("q_scale", "k_scale", "v_scale", "q_zero_point", "k_zero_point", "v_zero_point", "kv_scale"),
)
"""Parts that are for quantised activations, keys and values: what computes in more bits has no use for them."""
# What is written of each format, and in how many bits: the part with the weights, the type of its numbers, and bits.
_FORMATS = {
    "pack-quantized": (_PACKED, "int", range(1, 9)),
    "int-quantized": (WEIGHT, "int", range(2, 9)),
    "float-quantized": (WEIGHT, "float", (8,)),
    "naive-quantized": (WEIGHT, None, range(2, 9)),
    "nvfp4-pack-quantized": (_PACKED, "float", (4,)),
    "mxfp4-pack-quantized": (_PACKED, "float", (4,)),
    "mxfp8-quantized": (WEIGHT, "float", (8,)),
}
_STRATEGIES = ("tensor", "channel", "group", "tensor_group", "block")
_MIXED = "mixed-precision"


@dataclass(frozen=True)
class Scheme:
    """The numbers that a group of modules is quantised to."""

    group: str
    """The group's name in ``config_groups``."""
    format: str
    bits: int
    kind: str
    """"int" or "float"."""
    symmetric: bool
    strategy: str
    group_size: int | None
    block: tuple[int, int] | None
    targets: tuple[str, ...]

    @property
    def why(self) -> str:
        return f"{_KEY}.config_groups.{self.group} ({self.format}, {self.bits} bits, by {self.strategy})"


@dataclass(frozen=True)
class Schemes:
    """All that a ``quantization_config`` says of weights."""

    groups: tuple[Scheme, ...]
    ignore: tuple[str, ...]

    def of(self, module: Module) -> Scheme:
        """Return what a module that is stored quantised is quantised to.

        Raises CheckpointError where the configuration says that it is not.
        """
        if (pattern := self.ignored(module.name)) is not None:
            raise CheckpointError(
                f"{module.where} is stored quantised ({', '.join(sorted(module.parts))}), and {_KEY}.ignore of "
                f"config.json has {pattern!r}; one of the two belongs to another copy"
            )
        named = [one for one in self.groups if _named(module.name, one.targets)]
        of_class = [one for one in self.groups if any(_is_class(target) for target in one.targets)]
        for found in (named, of_class):
            if found:
                return found[0]
        raise CheckpointError(f"{module.where} is stored quantised, and no target of {_KEY}.config_groups is its name")

    def check_plain(self, module: Module) -> None:
        """Raise CheckpointError for a module that is stored as it is, and that the configuration names as quantised."""
        scheme = next((one for one in self.groups if _named(module.name, one.targets)), None)
        part = module.parts[WEIGHT]
        if scheme is not None and len(part.shape) >= 2 and self.ignored(module.name) is None:
            raise CheckpointError(
                f"{part} is stored as {part.dtype} without scales, and {scheme.why} names it as quantised; one of the "
                "two belongs to another copy"
            )

    def ignored(self, name: str) -> str | None:
        """Return what of ``ignore`` a module's name matches."""
        return next((pattern for pattern in self.ignore if _matches(name, pattern)), None)


def describe(parts: Mapping[str, Part], config: Mapping[str, Any]) -> dict[str, Quantised]:
    """Describe quantised matrices by the names of their dense weights. Other parts are none of theirs.

    Raises CheckpointError naming the key of the configuration, or the tensor, that is missing, unknown or contradicts.
    """
    schemes = read_schemes(config)
    found = {}
    for name, module in modules(parts, _OF_WEIGHTS).items():
        if set(module.parts) == {WEIGHT} and module.parts[WEIGHT].dtype in DTYPES:
            schemes.check_plain(module)
        else:
            found[f"{name}.{WEIGHT}"] = _matrix(module, schemes.of(module))
    return found


def belongs(name: str) -> bool:
    """Tell whether a part is one of a quantised matrix, beside the weight itself, or is not read at all."""
    return name.rpartition(".")[2] in (*_OF_WEIGHTS[1:], *UNREAD)


def read_schemes(config: Mapping[str, Any]) -> Schemes:
    """Read a ``quantization_config``. Raises CheckpointError naming what of it is not read."""
    transforms, sparsity = config.get("transform_config"), config.get("sparsity_config")
    if isinstance(transforms, Mapping) and transforms.get("config_groups"):
        raise _unread("transform_config", "rotations that are applied while the model runs", "a copy without them")
    if isinstance(sparsity, Mapping) and sparsity.get("format", "dense") != "dense":
        raise _unread("sparsity_config", f"format {sparsity['format']!r}", "a copy that is not sparse")
    groups = config.get("config_groups")
    if not isinstance(groups, Mapping) or not groups:
        raise CheckpointError(f"config.json: {_KEY} has no 'config_groups', so nothing says what its weights are")
    read = tuple(_scheme(name, group, config.get("format")) for name, group in groups.items())
    ignore = config.get("ignore") or []
    if not isinstance(ignore, list) or not all(isinstance(one, str) for one in ignore):
        raise CheckpointError(f"config.json: {_KEY}.ignore must be a list of names, not {ignore!r}")
    return Schemes(tuple(scheme for scheme in read if scheme is not None), tuple(ignore))


def _scheme(name: str, group: object, overall: object) -> Scheme | None:
    """Read a group; one that says nothing of weights is None."""
    where = f"config.json: {_KEY}.config_groups.{name}"
    if not isinstance(group, Mapping):
        raise CheckpointError(f"{where} must be an object that says how weights are stored, not {group!r}")
    weights = group.get("weights")
    if weights is None:
        return None
    format = group.get("format") or overall
    if format not in _FORMATS:
        key = f"{where}.format" if group.get("format") or overall == _MIXED else f"config.json: {_KEY}.format"
        raise CheckpointError(
            f"{key} = {format!r} is not read; read are {', '.join(_FORMATS)}. Take a copy in one of those, or the "
            "checkpoint that it was made of"
        )
    bits, kind = weights.get("num_bits", 8), weights.get("type", "int")
    _, wanted, widths = _FORMATS[format]
    if (wanted or kind) != kind or kind not in ("int", "float") or bits not in widths:
        raise CheckpointError(f"{where}.weights: {kind!r} of {bits!r} bits is none of what {format} has")
    if weights.get("actorder") in ("group", "dynamic", True):
        raise CheckpointError(f"{where}.weights.actorder = {weights['actorder']!r} is not read; take a copy without it")
    return _with_ranges(name, format, weights, tuple(group.get("targets") or ()), where)


def _with_ranges(name: str, format: str, weights: Mapping[str, Any], targets: tuple[str, ...], where: str) -> Scheme:
    """Read what shares a scale."""
    size, block = weights.get("group_size"), weights.get("block_structure")
    strategy = weights.get("strategy") or ("tensor" if size is None else "channel" if size == -1 else "group")
    if strategy not in _STRATEGIES:
        raise CheckpointError(f"{where}.weights.strategy = {strategy!r} is not read; read are {', '.join(_STRATEGIES)}")
    grouped = strategy in ("group", "tensor_group")
    if grouped and not _is_size(size):
        raise CheckpointError(f"{where}.weights.group_size = {size!r} must be a whole number, 1 or more")
    blocked = strategy == "block"
    if blocked and not (isinstance(block, list) and len(block) == 2 and all(map(_is_size, block))):
        raise CheckpointError(
            f"{where}.weights.block_structure = {block!r} must be two whole numbers, rows and columns"
        )
    expected = {"nvfp4-pack-quantized": 16, "mxfp4-pack-quantized": 32, "mxfp8-quantized": 32}.get(format)
    if expected is not None and (not grouped or size != expected):
        raise CheckpointError(f"{where}.weights: {format} has groups of {expected}, not {strategy} of {size!r}")
    return Scheme(
        group=name,
        format=format,
        bits=weights.get("num_bits", 8),
        kind=weights.get("type", "int"),
        symmetric=weights.get("symmetric", True) is not False,
        strategy=strategy,
        group_size=size if grouped else None,
        block=(block[0], block[1]) if blocked and block is not None else None,
        targets=targets,
    )


def _matrix(module: Module, scheme: Scheme) -> Quantised:
    """Describe one matrix, its parts checked against each other."""
    suffix, packed = _FORMATS[scheme.format][0], scheme.format == "pack-quantized"
    asked = {_SHAPE: packed, _GLOBAL: scheme.format.startswith("nvfp4"), _ZERO: not scheme.symmetric}
    module.check_no_others((suffix, _SCALE, *(part for part, own in asked.items() if own)), scheme.why)
    codes = _codes(scheme)
    weight = module.part(suffix, codes.dtypes, scheme.why)
    if len(weight.shape) != 2:
        raise CheckpointError(f"{weight} has shape {list(weight.shape)}, and {scheme.why} has matrices")
    scales = _scales(module, scheme)
    told = module.part(_SHAPE, ("I64", "I32"), scheme.why) if packed else None
    shape = (weight.shape[0], _inputs(weight, codes, scales))
    check_width(weight, codes, shape[1], scheme.why)
    check_scales(scales, *shape, scheme.why)
    zeros = None if scheme.symmetric else _zero_points(module, scheme, scales, shape)
    return Quantised(_label(scheme), weight, codes, shape, scales, zeros, told)


def _codes(scheme: Scheme) -> Codes:
    if scheme.kind == "float":
        return Float4Codes() if scheme.bits == 4 else Float8Codes()
    if scheme.format == "pack-quantized":
        return WordCodes(scheme.bits, scheme.symmetric, ("I32",))
    return ByteCodes(scheme.bits, scheme.symmetric)


def _scales(module: Module, scheme: Scheme) -> Scales:
    powers, tiny = scheme.format.startswith("mx"), scheme.format.startswith("nvfp4")
    dtypes = ("U8",) if powers else ("F8_E4M3",) if tiny else tuple(DTYPES)
    part = module.part(_SCALE, dtypes, scheme.why)
    overall = module.part(_GLOBAL, ("F32",), scheme.why) if tiny else None
    rows, columns = scheme.block or (None if scheme.strategy == "tensor" else 1, scheme.group_size)
    return Scales(part, rows, columns, overall, divides=True)


def _inputs(weight: Part, codes: Codes, scales: Scales) -> int:
    """Return how wide a matrix is: its scales say it where codes do not fill whole words."""
    group, shape = scales.group, scales.part.shape
    if isinstance(codes, WordCodes):
        if group is not None and len(shape) == 2:
            return shape[1] * group
        return weight.shape[1] * 32 // codes.bits
    return weight.shape[1] * (2 if isinstance(codes, Float4Codes) else 1)


def _zero_points(module: Module, scheme: Scheme, scales: Scales, shape: tuple[int, int]) -> Minimums:
    words = scheme.format == "pack-quantized" and scheme.strategy in ("group", "channel")
    codes = WordCodes(scheme.bits, False, ("I32",)) if words else ByteCodes(scheme.bits, False)
    part = module.part(_ZERO, codes.dtypes, scheme.why)
    outputs, groups = scales.expected(*shape)
    wanted = (codes.width(outputs) if words else outputs, groups)
    if part.shape != wanted and not (groups == 1 and part.shape in (wanted[:1], ())):
        raise CheckpointError(f"{part} has shape {list(part.shape)}, and by {scheme.why} it must have {list(wanted)}")
    return Minimums(part, codes)


def _label(scheme: Scheme) -> str:
    if scheme.format.startswith(("nvfp4", "mx")):
        return scheme.format.partition("-")[0].upper()
    kind = f"{'FP' if scheme.kind == 'float' else 'INT'}{scheme.bits}"
    groups = "" if scheme.group_size is None else f", groups of {scheme.group_size}"
    blocks = "" if scheme.block is None else f", blocks of {scheme.block[0]} x {scheme.block[1]}"
    return f"{kind}{groups}{blocks}{'' if scheme.symmetric else ', with zero points'}"


def _named(name: str, targets: tuple[str, ...]) -> bool:
    return any(_matches(name, target) for target in targets)


def _matches(name: str, pattern: str) -> bool:
    """Tell whether a module's name is a pattern's: the same, or one that a regular expression begins."""
    if not pattern.startswith("re:"):
        return name == pattern
    try:
        return re.match(pattern.removeprefix("re:"), name) is not None
    except re.error as error:
        raise CheckpointError(f"config.json: {_KEY}: {pattern!r} is no regular expression: {error}") from error


def _is_class(target: str) -> bool:
    """Tell whether a target is the class of modules rather than the name of one."""
    return target[:1].isupper() and "." not in target


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _unread(key: str, what: str, instead: str) -> CheckpointError:
    return CheckpointError(f"config.json: {_KEY}.{key} asks for {what}, which is not read; take {instead}")
