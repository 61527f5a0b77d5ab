"""What is counted from headers against what is loaded: bytes of matrices and of caches, and the memory of a process."""

import json
import subprocess
from pathlib import Path

import pytest

from redraft.engine.memory import KVPool
from redraft.engine.scheduler import MAX_BATCH_ROWS as OF_THE_SCHEDULER
from redraft.kernels import bindings
from redraft.kernels.packed import FORMATS, Format
from redraft.measure.allowed import weight_bytes
from redraft.measure.peak import step_multiply_adds
from redraft.models import checkpoint
from redraft.models.footprint import MAX_BATCH_ROWS, Use, footprint
from redraft.models.outline import outline
from redraft.models.packed_cache import load_packed
from redraft.models.sizing import kv_bytes
from tests.conftest import WriteCheckpoint
from tests.models.llama_diffusion.conftest import write

# In a process of its own: what it takes before a model, and after answers of two requests.
MEASURE = """
import json, sys
import redraft, redraft.api, redraft.loading
from redraft.measure.memory import peak_bytes, resident_bytes
before = resident_bytes()
engine = redraft.load(sys.argv[1], dtype=sys.argv[2], pack_folder=None)
for seed in (0, 1):
    engine.generate(list(range(20, 120)), seed=seed, max_tokens=64)
print(json.dumps([before, resident_bytes(), peak_bytes()]))
"""


@pytest.mark.parametrize("format", FORMATS)
def test_an_outline_counts_what_the_loaded_model_does(
    checkpoint_of: WriteCheckpoint, tmp_path: Path, format: Format
) -> None:
    for folder in (checkpoint_of(num_experts=6), write(tmp_path / "llama")):
        found = checkpoint.read(folder)
        shapes, model = outline(found, format), load_packed(found, format)
        assert shapes.nbytes == model.nbytes
        assert step_multiply_adds(shapes, 20, 8) == step_multiply_adds(model, 20, 8)
        assert weight_bytes(shapes, 3) == weight_bytes(model, 3)


def test_keys_and_values_are_what_a_pool_hands_out(checkpoint_of: WriteCheckpoint) -> None:
    found = checkpoint.read(checkpoint_of())
    pool = KVPool.of(found.load("float32"))
    for positions in (1, 100, 128, 129, 400, 512):
        assert kv_bytes(found, "float32", positions) == pool.bytes_for(positions)
        assert footprint(found, "float32", Use(positions, 3)).keys_values == 3 * pool.bytes_for(positions)


def test_a_batch_has_the_schedulers_rows() -> None:
    assert MAX_BATCH_ROWS == OF_THE_SCHEDULER


def test_without_kernels_torch_keeps_what_is_packed_and_no_more(
    checkpoint_of: WriteCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = checkpoint.read(checkpoint_of())
    packed = {format: footprint(found, format).weights for format in FORMATS}
    monkeypatch.setattr(bindings, "kernels", lambda: None)
    plain = sum(value.numel() for value in found.load("float32").state_dict().values())
    assert [footprint(found, format).weights for format in ("int8", "int4")] == [packed["int8"], packed["int4"]]
    # These are computed as they are stored.
    assert [footprint(found, format).weights for format in ("float32", "bfloat16")] == [4 * plain, 2 * plain]


@pytest.mark.slow
@pytest.mark.parametrize("format", ["float32", "int8"])
def test_a_process_takes_about_as_much(checkpoint_of: WriteCheckpoint, commands: Path, format: Format) -> None:
    """About 40 million parameters. What nobody counts, above all what libraries take when they first compute, is
    allowed 150 MB, and what was counted may be half as much again as is there."""
    folder = checkpoint_of(
        vocab_size=8192, hidden_size=512, intermediate_size=1024, num_experts=8, moe_intermediate_size=512,
        num_attention_heads=8, head_dim=64, global_head_dim=64, canvas_length=64,
    )  # fmt: skip
    done = subprocess.run(
        [commands / "python", "-c", MEASURE, folder, format], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    before, after, peak = json.loads(done.stdout)
    own = footprint(checkpoint.read(folder), format, Use(164))
    assert own.running + own.looked_up < 1.5 * (after - before) + 30_000_000
    assert after - before < own.running + own.looked_up + 150_000_000
    assert peak - before < own.needed + own.looked_up + 300_000_000, "packing in memory included"
