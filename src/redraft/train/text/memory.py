"""The memory that training takes at least, known before a weight is read: weights, gradients, optimizer."""

from math import prod

from redraft.errors import RoomError
from redraft.models.checkpoint import Checkpoint
from redraft.room import MemoryLimit, allowed, size_text
from redraft.train.text.adapters import Adaptation, Full, LastLayers, Lora
from redraft.train.text.optimizer import OptimizerConfig

_FLOAT = 4


def training_bytes(found: Checkpoint, adaptation: Adaptation, optimizer: OptimizerConfig, item: int) -> int:
    """Return the bytes of the weights, ``item`` each, and of what training keeps for those that it changes; what a
    batch takes is left out, which depends on the texts."""
    total = sum(prod(tensor.shape) for tensor in found.tensors.values())
    trained = trained_numbers(found, adaptation)
    # A trained weight is a copy, which may be written; the file's stays mapped. Beside it stand its gradient, a master
    # where it is computed in bfloat16, the optimizer's moments, and the average.
    moments = 2 if optimizer.name == "adamw" else 1
    kept = item + item + (_FLOAT if item < _FLOAT else 0) + _FLOAT * (moments + (optimizer.ema_decay is not None))
    return total * item + trained * kept


def trained_numbers(found: Checkpoint, adaptation: Adaptation) -> int:
    """Return how many numbers are trained, the mask's row left out."""
    shapes = {name: tensor.shape for name, tensor in found.without_weights().state_dict().items()}
    tables = ("embed_tokens.", "lm_head.")
    match adaptation:
        case Full(embeddings):
            return sum(prod(shape) for name, shape in shapes.items() if embeddings or not name.startswith(tables))
        case LastLayers(count):
            layers = {int(name.split(".")[1]) for name in shapes if name.startswith("layers.")}
            names = tuple(f"layers.{layer}." for layer in sorted(layers)[-count:])
            return sum(prod(shape) for name, shape in shapes.items() if name.startswith((*names, "norm.")))
        case Lora(rank):
            matrices = [shape for name, shape in shapes.items() if len(shape) == 2 and not name.startswith(tables)]
            return sum(rank * sum(shape) for shape in matrices)


def check_memory(
    found: Checkpoint,
    adaptation: Adaptation,
    optimizer: OptimizerConfig,
    item: int,
    device: str,
    memory: MemoryLimit = "auto",
) -> None:
    """Raise RoomError where that is more than there is."""
    there = allowed(memory, device)
    needed = training_bytes(found, adaptation, optimizer, item)
    if there is not None and needed > there.free:
        smaller = training_bytes(found, Lora(rank=8), optimizer, item)
        advice = (
            f"an adapter (--lora 8) takes {size_text(smaller)}" if smaller <= there.free else "take a smaller model"
        )
        raise RoomError(
            f"training {found.path} takes {size_text(needed)} of memory for weights, gradients and the optimizer "
            f"alone, and {there.limit} has {size_text(there.free)} left; {advice}. To begin all the same, set "
            "REDRAFT_MEMORY to none"
        )
