"""A model that says what is scripted on canvases of 16 tokens, and what its answers look like on the way."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from redraft.api import Engine
from redraft.engine.runtime import run
from redraft.engine.task import Runnable
from tests.engine.scripted import Logits, random_logits, scripted_engine
from tests.random_checkpoint import END_TOKEN_IDS

CANVAS = 16
LONG = "the end of it is a long way off and ü 日本 "


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors this small take longer to share out than to compute."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return scripted_engine(tmp_path_factory.mktemp("engine"), random_logits(0), canvas_length=CANVAS)


def without_end(logits: Logits) -> Logits:
    def endless(canvas: Tensor, context: int) -> Tensor:
        out = logits(canvas, context)
        out[:, list(END_TOKEN_IDS)] -= 1000.0
        return out

    return endless


def told(engine: Engine, request: Runnable[Any]) -> tuple[list[str], Any]:
    """The texts of all chunks, and the result."""
    texts: list[str] = []
    result = run(engine.runtime, request.task(), lambda chunk: texts.append(chunk.text))
    return texts, result
