"""The model, device and place for packed weights that a user chose once: which of several says it, and its mistakes."""

import json
from inspect import signature
from pathlib import Path

import pytest

import redraft
from redraft.cli.settings import setting
from redraft.models.names import DEFAULT_MODEL
from tests.cli.conftest import Run, assert_one_line


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "redraft").mkdir()
    return tmp_path / "redraft" / "config.toml"


def test_an_option_comes_before_the_environment_before_the_file(
    redraft_here: Run, file: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert setting("model").value == DEFAULT_MODEL == signature(redraft.load).parameters["source"].default
    file.write_text(f'model = "{model}"\ndevice = "cpu"\n')
    facts = json.loads(redraft_here("info", "--json").stdout)
    assert facts["checkpoint"]["folder"] == str(model)
    assert facts["defaults of commands"]["model"] == f"{model} ({file})"
    assert facts["defaults of commands"]["device"] == f"cpu ({file})"
    monkeypatch.setenv("REDRAFT_MODEL", "sudoku")
    facts = json.loads(redraft_here("info", "--json").stdout)
    assert facts["checkpoint"]["folder"].endswith("sudoku")
    assert facts["defaults of commands"]["model"] == "sudoku (REDRAFT_MODEL)"
    given = json.loads(redraft_here("info", model, "--json").stdout)
    assert given["checkpoint"]["folder"] == str(model)


def test_the_default_device_is_what_a_verb_computes_on(
    redraft_here: Run, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDRAFT_DEVICE", "warp-drive")
    assert_one_line(redraft_here("generate", "w20", "-m", model), "device 'warp-drive' is unknown")
    done = redraft_here("generate", "w20", "-m", model, "--max-tokens", 2, "--device", "cpu")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("written", "words"),
    [("modle = 'a'", "name 'modle'; known are"), ("model = 3", "must be a text"), ("model = ", "cannot be read")],
)
def test_a_mistake_in_the_file_is_named(redraft_here: Run, file: Path, written: str, words: str) -> None:
    file.write_text(written)
    failed = redraft_here("generate", "w20")
    assert_one_line(failed, words)
    assert str(file) in failed.stderr


def test_a_file_that_is_named_must_be_there(redraft_here: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDRAFT_CONFIG", "/no/such/file.toml")
    assert_one_line(redraft_here("generate", "w20"), "REDRAFT_CONFIG names /no/such/file.toml")
