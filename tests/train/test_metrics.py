"""The log of a run goes on after whatever ended it."""

import json
from pathlib import Path

import pytest

from redraft.train.metrics import Metrics


@pytest.mark.parametrize("torn", ["", '{"step": 3, "lo', '{"step": 3}'])
def test_a_line_that_a_kill_cut_off_is_left_out(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}\n' + torn)
    metrics = Metrics(tmp_path, resumed_at=2)
    metrics.add(3, {"loss": 0.5})
    metrics.close()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3]


def test_a_line_that_is_broken_in_the_middle_is_no_log(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "lo\n{"step": 2}\n')
    with pytest.raises(ValueError, match="Unterminated"):
        Metrics(tmp_path, resumed_at=2)
