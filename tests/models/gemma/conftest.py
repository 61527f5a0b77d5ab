from pathlib import Path
from typing import Any

import pytest

from tests.random_gemma import KINDS, random_gemma, reference


@pytest.fixture(scope="package")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint of each kind. Tests that change one work on a copy."""
    return {kind: random_gemma(tmp_path_factory.mktemp("gemma") / "model", kind) for kind in KINDS}


@pytest.fixture(scope="package")
def references(folders: dict[str, Path]) -> dict[str, Any]:
    """The same in ``transformers``."""
    return {kind: reference(folder) for kind, folder in folders.items()}
