"""The parts that files have of each module, and what of a quantised one is wrong by its headers."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from redraft.errors import CheckpointError
from redraft.formats.quantised.codes import Codes
from redraft.formats.quantised.matrices import Scales
from redraft.formats.tensors import Part

WEIGHT = "weight"


@dataclass
class Module:
    """A module that has a weight, by the parts that are stored for it."""

    name: str
    parts: dict[str, Part] = field(default_factory=dict)
    """The tensors by what stands behind the module's name: "weight", "weight_scale" and so on."""

    @property
    def where(self) -> str:
        """The file that it lies in, and its name, for messages."""
        return f"{next(iter(self.parts.values())).file}: module {self.name}"

    def part(self, suffix: str, dtypes: Collection[str], why: str) -> Part:
        """Return a part that has to be there. Raises CheckpointError naming it where it is missing, or of a dtype that
        is none of ``dtypes``; ``why`` says what asks for it."""
        found = self.parts.get(suffix)
        if found is None:
            raise CheckpointError(
                f"{self.where} has {', '.join(sorted(self.parts))} and no {suffix}, which {why} needs; the download "
                "may be incomplete"
            )
        if found.dtype not in dtypes:
            raise CheckpointError(f"{found} is stored as {found.dtype}, and by {why} it must be {' or '.join(dtypes)}")
        return found

    def check_no_others(self, known: Collection[str], why: str) -> None:
        """Raise CheckpointError for a part that nothing is known of: it would change what the weights are."""
        for suffix, part in self.parts.items():
            if suffix not in known:
                raise CheckpointError(f"{part} has no place in {why}, which is what {self.name} is stored as")


def modules(parts: Mapping[str, Part], suffixes: Collection[str]) -> dict[str, Module]:
    """Group parts by module, of those whose names end in one of ``suffixes``; others are left out."""
    found: dict[str, Module] = {}
    for name, part in parts.items():
        module, _, suffix = name.rpartition(".")
        if suffix in suffixes and module:
            found.setdefault(module, Module(module)).parts[suffix] = part
    return found


def check_width(weight: Part, codes: Codes, inputs: int, why: str) -> None:
    """Raise CheckpointError for a weight whose rows are not as wide as so many codes."""
    if len(weight.shape) < 2 or weight.shape[-1] != codes.width(inputs):
        raise CheckpointError(
            f"{weight} has shape {list(weight.shape)}, and rows of {inputs} values take {codes.width(inputs)} in {why}"
        )


def check_scales(scales: Scales, outputs: int, inputs: int, why: str) -> None:
    """Raise CheckpointError for scales that are not as many as a matrix of that size has."""
    if scales.group is not None and scales.block in (None, 1) and inputs % scales.group:
        raise CheckpointError(
            f"{scales.part}: {inputs} inputs are no whole groups of {scales.group}, which is the size in {why}"
        )
    expected, shape = scales.expected(outputs, inputs), scales.part.shape
    # A single one, and one a row, may lie in fewer dimensions.
    flat = {1: ((), (1,), (1, 1)), outputs: ((outputs,), (outputs, 1))}.get(expected[0], ()) if expected[1] == 1 else ()
    if shape != expected and shape not in flat:
        raise CheckpointError(
            f"{scales.part} has shape {list(shape)}, and by {why} a matrix [{outputs}, {inputs}] must have "
            f"{list(expected)}"
        )
    if scales.overall is not None and scales.overall.shape not in ((), (1,)):
        raise CheckpointError(f"{scales.overall} has shape {list(scales.overall.shape)}, and must be one number")
