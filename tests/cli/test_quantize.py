"""``redraft quantize``: a folder in fewer bits, which ``redraft info`` tells from its original."""

import json
from pathlib import Path

from redraft.cli import printing


def test_info_says_that_it_is_packed(redraft_here, tmp_path: Path):
    made = redraft_here("quantize", "sudoku", tmp_path / "q", "--dtype", "int4")
    size = (tmp_path / "q" / "model.safetensors").stat().st_size
    assert (made.returncode, made.stderr) == (0, "")
    assert f"weights {printing.size(size)}" in made.stdout
    facts, original = (json.loads(redraft_here("info", name, "--json").stdout) for name in (tmp_path / "q", "sudoku"))
    assert (facts["model"]["stored as"], facts["model"]["computed as (auto)"]) == (
        "int4, packed for the kernels",
        "int4",
    )
    assert facts["model"]["parameters"] == original["model"]["parameters"]
    assert facts["sampling defaults"] == original["sampling defaults"]
    assert "all weights by dtype" in original
    assert "all weights by dtype" not in facts
    assert redraft_here("info", tmp_path / "q").returncode == 0


def test_an_unknown_format_is_one_line(redraft_here, tmp_path: Path):
    failed = redraft_here("quantize", "sudoku", tmp_path / "q", "--dtype", "int3")
    assert (failed.returncode, failed.stderr.count("\n")) == (1, 1)
    assert "choose one of int4, int8, bfloat16" in failed.stderr
    assert not (tmp_path / "q").exists()
