"""A family is found by its architecture, imported when it is asked for, and named by nothing else."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import redraft
from redraft.errors import CheckpointError
from redraft.models import registry
from redraft.models.registry import BASES, FAMILIES, family_of

SOURCES = Path(redraft.__file__).parent


@pytest.mark.parametrize("architecture", list(FAMILIES))
def test_every_line_leads_to_a_family(architecture: str):
    family = family_of(architecture)
    assert family is family_of(architecture)
    assert {"read_config", "build", "matrices", "beside", "packed", "describe", "role"} <= set(dir(family))


@pytest.mark.parametrize("architecture", ["BertModel", None, 3, ["DiffusionGemmaForBlockDiffusion"]])
def test_another_architecture_is_refused_with_those_there_are(architecture: object):
    with pytest.raises(CheckpointError, match=re.escape(f"architecture {architecture!r} is not supported")) as error:
        family_of(architecture)
    assert all(repr(known) in str(error.value) for known in FAMILIES)


@pytest.mark.parametrize("architecture", list(BASES))
def test_an_autoregressive_architecture_is_refused_with_what_can_be_made_of_it(architecture: str):
    with pytest.raises(CheckpointError, match=f"autoregressive.*{BASES[architecture]}.*redraft adapt"):
        family_of(architecture)
    assert BASES[architecture] in FAMILIES


def test_all_families_are_listed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(registry, "FAMILIES", {"First": "nowhere", "Second": "nowhere"})
    with pytest.raises(CheckpointError, match="supported are 'First', 'Second'"):
        family_of("Third")


@pytest.mark.slow
def test_a_family_is_imported_when_it_is_asked_for_and_torchs_compiler_not_even_for_a_whole_model():
    """Whoever asks a model waits for what is imported; that compiler takes seconds."""
    code = """
import sys
from redraft.models import checkpoint, packed_cache, sizing
assert not [name for name in sys.modules if name.startswith(("redraft.models.diffusion_", "redraft.models.llama_"))]
from redraft.models.registry import family_of
family_of("DiffusionGemmaForBlockDiffusion")
assert "redraft.models.diffusion_gemma.family" in sys.modules
assert "redraft.models.llama_diffusion" not in sys.modules
import redraft
redraft.load("sudoku")
assert not {"torch._dynamo", "sympy"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_serves_every_family_imports_none():
    """Training recipes are each for one kind of model; all else asks the registry."""
    rooms = [path for path in SOURCES.rglob("*.py") if path.relative_to(SOURCES).parts[0] not in ("train", "bundled")]
    own = {SOURCES / "models" / "registry.py", SOURCES / "cli" / "train" / "sudoku.py"}
    others = [path for path in rooms if path not in own and "diffusion_gemma" not in path.relative_to(SOURCES).parts]
    assert len(others) > 80
    named = [path.name for path in others if "redraft.models.diffusion_gemma" in path.read_text(encoding="utf-8")]
    assert not named
