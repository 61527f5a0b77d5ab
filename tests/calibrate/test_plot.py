"""Reliability diagrams: what is written, what is said in them, and what is refused before."""

import sys
from pathlib import Path

import pytest

from redraft.calibrate.calibration import ReliabilityTable, calibration
from redraft.calibrate.plot import check_plot, reliability_plot
from redraft.errors import RedraftError
from tests.calibrate.test_calibration import exactly_calibrated


class TestCheckPlot:
    @pytest.mark.parametrize("name", ["a.png", "a.svg", "a.pdf", "a.PNG"])
    def test_a_picture_is_accepted(self, tmp_path: Path, name: str) -> None:
        check_plot(tmp_path / name)

    def test_another_ending_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(RedraftError, match=r"must end in \.png, \.svg or \.pdf"):
            check_plot(tmp_path / "a.xls")

    def test_without_matplotlib_it_says_what_to_install(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        with pytest.raises(RedraftError, match=r"pip install 'redraft\[train\]'"):
            check_plot(tmp_path / "a.png")


class TestReliabilityPlot:
    @pytest.fixture
    def table(self) -> ReliabilityTable:
        return calibration(*exactly_calibrated(), bins=5).table

    @pytest.mark.parametrize("name", ["a.png", "a.svg", "a.pdf"])
    def test_is_written(self, table, tmp_path, name):
        reliability_plot(table, tmp_path / name)
        assert (tmp_path / name).stat().st_size > 1000

    def test_says_how_many_answers_and_bins(self, table, tmp_path):
        import matplotlib

        with matplotlib.rc_context({"svg.fonttype": "none"}):
            reliability_plot(table, tmp_path / "a.svg")
        assert "40 answers, expected calibration error 0.0% (5 bins)" in (tmp_path / "a.svg").read_text()

    def test_another_ending_is_refused(self, table, tmp_path):
        with pytest.raises(RedraftError, match=r"must end in \.png, \.svg or \.pdf"):
            reliability_plot(table, tmp_path / "a.txt")
