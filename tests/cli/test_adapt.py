"""``redraft adapt``: from an autoregressive checkpoint to one that ``redraft info`` describes as a diffusion model."""

import json
from pathlib import Path

from tests.gguf_files import llama_gguf
from tests.random_llama import random_llama


def test_info_says_what_to_do_and_adapt_does_it(redraft_here, tmp_path: Path):
    base = random_llama(tmp_path / "base")
    facts = json.loads(redraft_here("info", base, "--json").stdout)
    assert "autoregressive" in facts["checkpoint"]["architecture"]
    assert facts["checkpoint"]["to use it"].startswith(f"redraft adapt {base} --out DIR")
    assert (facts["model"]["layers"], facts["model"]["stored as"]) == (2, "float32")
    out = tmp_path / "out"
    made = redraft_here(
        "adapt", base, "--out", out, "--mask-token", "<m>", "--canvas-length", 12, "--dtype", "bfloat16"
    )
    assert (made.returncode, made.stderr) == (0, "")
    assert made.stdout == f"checkpoint: {out}\nmask: <m> (id {facts['model']['vocabulary']}, added)\n"
    shown = json.loads(redraft_here("info", out, "--json").stdout)
    assert shown["checkpoint"]["architecture"] == "LlamaForBlockDiffusion"
    assert (shown["model"]["canvas"], shown["model"]["stored as"]) == (12, "bfloat16")
    assert shown["model"]["parameters"] == facts["model"]["parameters"] + 32


def test_a_template_and_a_file_in_one_piece(redraft_here, tmp_path: Path):
    path = llama_gguf(tmp_path / "llama.gguf", random_llama(tmp_path / "base"))
    assert "llama.gguf" in json.loads(redraft_here("info", path, "--json").stdout)["checkpoint"]["file"]
    (tmp_path / "own.jinja").write_text("{{ messages[0].content }}")
    out = tmp_path / "out"
    assert redraft_here("adapt", path, "--out", out, "--chat-template", tmp_path / "own.jinja").returncode == 0
    assert (out / "chat_template.jinja").read_text() == "{{ messages[0].content }}"


def test_mistakes_are_one_line(redraft_here, tmp_path: Path):
    base = random_llama(tmp_path / "base")
    (tmp_path / "file").write_text("a")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "other.safetensors").write_text("a")
    (tmp_path / "broken.jinja").write_text("{% for")
    for arguments, words in [
        (["sudoku", "--out", tmp_path / "x"], "cannot be adapted"),
        ([base, "--out", base], "where the base lies"),
        ([base, "--out", tmp_path / "x", "--dtype", "int8"], "dtype 'int8' is not supported"),
        ([base, "--out", tmp_path / "x", "--chat-template", tmp_path / "none"], "cannot be read"),
        ([base, "--out", tmp_path / "x", "--chat-template", tmp_path / "broken.jinja"], "does not take"),
        ([base, "--out", tmp_path / "x", "--canvas-length", 10**20], "leaves no room for a prompt"),
        ([base, "--out", tmp_path / "file"], "file cannot be a folder: it is a file"),
        ([base, "--out", tmp_path / "full"], "is not empty; give a new one"),
    ]:
        failed = redraft_here("adapt", *arguments)
        assert failed.returncode == 1
        assert words in failed.stderr
        assert failed.stderr.count("\n") == 1
    failed = redraft_here("generate", "hi", "--model", base)
    assert failed.returncode == 1
    assert "redraft adapt" in failed.stderr
