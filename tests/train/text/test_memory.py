"""What training takes at least, against the numbers that a model under training has."""

from pathlib import Path

import pytest

from redraft.errors import RoomError
from redraft.models import checkpoint
from redraft.train.text.adapters import Adaptation, Full, LastLayers, Lora, TrainedModel
from redraft.train.text.memory import check_memory, trained_numbers, training_bytes
from redraft.train.text.optimizer import Optimizer, OptimizerConfig
from tests.models.llama_diffusion.conftest import write


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("model") / "llama")


@pytest.mark.parametrize("adaptation", [Full(), Full(embeddings=True), LastLayers(1), Lora(rank=2)], ids=str)
def test_what_is_trained_is_counted_from_headers(folder: Path, adaptation: Adaptation) -> None:
    found = checkpoint.read(folder)
    model = TrainedModel("small", found, found.load("float32"), adaptation)
    row = 0 if model.mask_row is None else model.mask_row.numel()
    assert trained_numbers(found, adaptation) == model.count - row


def test_bytes_are_those_of_weights_gradients_and_moments(folder: Path) -> None:
    found, config = checkpoint.read(folder), OptimizerConfig(ema_decay=0.9)
    plain = found.load("float32")
    model = TrainedModel("small", found, plain, Full(embeddings=True))
    optimizer = Optimizer(model.parameters, config)
    for parameter in model.parameters.values():
        parameter.grad = parameter.detach().clone()
    optimizer.update(0, 0.0)
    state = optimizer.state()
    moments = 2 * 4 * model.count
    kept = sum(value.nbytes for value in optimizer.values.values()) + moments
    assert state
    # The weights in the file, a copy that is trained, its gradient, the average and the moments.
    assert training_bytes(found, Full(embeddings=True), config, 4) == 3 * 4 * model.count + kept


def test_what_does_not_fit_is_refused_with_what_would(folder: Path) -> None:
    found, config = checkpoint.read(folder), OptimizerConfig()
    needed = training_bytes(found, Full(), config, 4)
    check_memory(found, Full(), config, 4, "cpu", needed)
    with pytest.raises(RoomError, match=r"--lora 8.*REDRAFT_MEMORY"):
        check_memory(found, Full(), config, 4, "cpu", needed - 1)
    check_memory(found, Full(), config, 4, "cpu", None)
