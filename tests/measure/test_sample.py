"""A sample is the model in shape and in work; what a deep model takes is worked out from its layers."""

from pathlib import Path

import pytest
import torch

from redraft.kernels import bindings
from redraft.kernels.packed import FORMATS, Format
from redraft.measure import sample
from redraft.measure.peak import step_multiply_adds
from redraft.measure.sample import Sample
from redraft.models import checkpoint
from redraft.models.base import Span
from redraft.models.outline import outline
from tests.conftest import WriteCheckpoint
from tests.models.llama_diffusion.conftest import write

pytestmark = pytest.mark.skipif(bindings.kernels() is None, reason="no compiled kernels are in use")


@pytest.mark.parametrize("format", FORMATS)
def test_a_sample_does_the_work_of_the_model(checkpoint_of: WriteCheckpoint, format: Format) -> None:
    shapes = outline(checkpoint.read(checkpoint_of(num_experts=6)), format)
    own = Sample(shapes)
    whole = own._model(own._order)
    assert step_multiply_adds(whole, 20, 8) == step_multiply_adds(shapes, 20, 8)
    tokens = torch.arange(8)
    with torch.inference_mode():
        (hidden,) = whole.forward([Span(tokens, sample._filled_cache(whole, 20), "denoise", torch.zeros(8, 32))])
    assert hidden is not None
    assert hidden.isfinite().all()
    assert hidden.std(0).min() > 0, "rows differ, so that they choose different experts"


def test_a_layer_is_counted_as_often_as_the_model_has_it(
    checkpoint_of: WriteCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a clock of its own, by which every call takes a second: two sliding layers and a full one, and the readout."""
    calls = []

    def second(once: object) -> float:
        calls.append(once)
        return 1.0

    monkeypatch.setattr(sample, "_median", second)
    shapes = outline(checkpoint.read(checkpoint_of()), "float32")
    deep = Sample(shapes, whole=0).step(20, 1)
    assert (deep.forward, deep.readout, len(calls)) == (3.0, 1.0, 3)
    # A shallow one is run as it is; half of the vocabulary stands for all of it.
    shallow = Sample(shapes, vocabulary=32, whole=10).step(20, 1)
    assert (shallow.forward, shallow.readout) == (1.0, 2.0)


def test_every_way_of_a_forward_is_timed(tmp_path: Path, checkpoint_of: WriteCheckpoint) -> None:
    for folder in (checkpoint_of(), write(tmp_path / "llama")):
        shapes = outline(checkpoint.read(folder), "float32")
        own = Sample(shapes)
        assert Sample.nbytes(shapes) <= shapes.nbytes
        assert own.step(20, 2).seconds > own.encode(20, 4).readout == 0.0
        assert own.encode(20, 1, 3, read=True).readout > 0
        assert own.step(0, 1).forward > 0, "without a context"
