"""Tables that are looked up are read right, and no page of them stays in memory."""

import re
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from redraft.layers.embedding import TokenTable
from redraft.models import checkpoint
from redraft.models.looked_up import LookedUp
from redraft.models.packed_cache import load_packed
from tests.conftest import WriteCheckpoint
from tests.models.driving import denoise, encoded

TABLE = torch.randn(3000, 257, generator=torch.Generator().manual_seed(0)).bfloat16()


def present(table: Tensor) -> int:
    """Bytes of the mapping that a tensor lies in which are in memory, as the kernel tells."""
    if sys.platform != "linux":
        pytest.skip("what is in memory of a mapping is read in /proc")
    found = 0
    for block in re.split(r"(?=^[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text(), flags=re.MULTILINE)[1:]:
        begin, end = (int(one, 16) for one in block.split(maxsplit=1)[0].split("-"))
        if begin < table.data_ptr() + table.nbytes and table.data_ptr() < end:
            size = re.search(r"^Rss:\s+(\d+) kB", block, re.MULTILINE)
            assert size is not None
            found += int(size[1]) * 1024
    return found


@pytest.mark.parametrize("offset", [0, 6, 4096, 70_001 * 2])
def test_rows_are_those_of_the_file_before_and_after_they_were_let_go(tmp_path: Path, offset: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * offset + TABLE.view(torch.uint8).numpy().tobytes() + b"what follows")
    own = LookedUp(path, offset, (3000, 257), torch.bfloat16)
    for _ in range(2):
        assert torch.equal(own.table, TABLE)
        assert present(own.table) > 1_000_000
        own.forget()
        assert present(own.table) == 0
    every = torch.arange(3000)
    look_up = TokenTable(own.table, let_go=own.forget)
    assert torch.equal(look_up(every), TABLE)
    assert present(own.table) == 0


def test_forwards_leave_nothing_of_an_embedding_in_memory(checkpoint_of: WriteCheckpoint, tmp_path: Path) -> None:
    """The whole of it is looked up, by a prompt and a canvas; hidden states are those of weights in memory."""
    found = checkpoint.read(checkpoint_of(vocab_size=2048, hidden_size=64))
    whole = load_packed(found, "int8", pack_folder=None)
    mapped = load_packed(found, "int8", cached_from=1, pack_folder=tmp_path)
    tokens, canvas = torch.arange(300), torch.arange(300, 308)
    embed = mapped.parts.embed
    assert embed.let_go is not None
    expected, hidden = (denoise(model, canvas, encoded(model, tokens)) for model in (whole, mapped))
    assert torch.equal(hidden, expected)
    assert embed.table.shape == (2048, 64)
    assert present(embed.table) == 0
