"""``redraft bench`` as a user meets it: tables, JSON and plot of one run, and mistakes before any measuring."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from redraft.cli import bench
from redraft.measure import machine
from tests.conftest import WriteCheckpoint
from tests.random_gemma import random_gemma

QUICK = ["--rounds", 3, "--prompt-tokens", 12, "--max-tokens", 4, "--threads", 1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("out")


@pytest.fixture(scope="module")
def both_load(checkpoint_of: WriteCheckpoint) -> Path:
    """A checkpoint that ``transformers`` reads as well: it wants the sampler's class by name."""
    sampler = {"_cls_name": "EntropyBoundSamplerConfig", "entropy_bound": 3.0}
    return checkpoint_of(generation={"sampler_config": sampler})


@pytest.fixture(scope="module")
def measured(redraft, both_load, folder) -> subprocess.CompletedProcess[str]:
    """One benchmark against transformers, which many tests look at."""
    return redraft(
        "bench", "-m", both_load, "--rounds", 3, "--prompt-tokens", 30, "--prompt-tokens", 12, "--max-tokens", 12,
        "--max-tokens", 4, "--steps", 2, "--dtype", "float32", "--dtype", "bfloat16", "--seed", 5, "--threads", 1,
        "--json", folder / "bench.json", "--plot", folder / "bench.png",
    )  # fmt: skip


@pytest.mark.slow
class TestAgainstTransformers:
    @pytest.fixture(scope="class")
    @staticmethod
    def facts(measured, folder) -> dict:
        assert measured.returncode == 0, measured.stderr
        return json.loads((folder / "bench.json").read_text())

    def test_all_contenders_did_the_same_work(self, facts):
        asked = [(work["prompt_tokens"], work["max_tokens"], work["steps"]) for work in facts["workloads"]]
        assert asked == [(12, 4, 2), (12, 12, 2), (30, 4, 2), (30, 12, 2)]
        for work in facts["workloads"]:
            assert list(work["contenders"]) == [
                "redraft float32", "redraft bfloat16", "transformers float32", "transformers bfloat16"
            ]  # fmt: skip
            for contender in work["contenders"].values():
                canvases = -(-work["max_tokens"] // 8)
                assert contender["tokens"]["rounds"] == [work["max_tokens"]] * 3
                assert contender["canvases"]["rounds"] == [canvases] * 3
                assert contender["steps_per_canvas"]["rounds"] == [2] * 3
                assert [run["denoising_steps"] for run in contender["runs"]] == [2 * canvases] * 3
                assert [len(run["later_step_seconds"]) for run in contender["runs"]] == [canvases] * 3

    def test_ratios_are_those_of_the_rounds(self, facts):
        for work in facts["workloads"]:
            ratios = dict(work["times_as_fast"]["seconds"])
            reference = ratios.pop("reference")
            theirs = work["contenders"][reference]["seconds"]
            medians = {n: c["seconds"]["median"] for n, c in work["contenders"].items() if n.startswith("transformers")}
            assert medians[reference] == min(medians.values())
            for name, ratio in ratios.items():
                own = work["contenders"][name]["seconds"]["rounds"]
                pairs = zip(theirs["rounds"], own, strict=True)
                assert ratio["rounds"] == pytest.approx([other / mine for other, mine in pairs])

    def test_memory_is_each_contenders_own(self, facts):
        for contender in facts["contenders"].values():
            assert contender["threads"] == 1
            if sys.platform in ("linux", "darwin"):
                assert contender["libraries_bytes"] <= contender["loaded_bytes"] <= contender["peak_bytes"]

    def test_tables_header_and_plot(self, measured, facts, folder):
        text = measured.stdout
        assert f"machine: {facts['machine']['processor']}" in text
        assert f"malloc: {facts['settings']['malloc']}" in text
        assert "method: contenders in turn in rotating order, one round to warm up, then 3 rounds" in text
        assert text.count("answer of at most 12, 2 steps a canvas") == 2
        assert "times as fast as" in text
        assert (folder / "bench.png").read_bytes().startswith(b"\x89PNG")
        assert measured.stderr == "", "no bar where there is no terminal, and nothing of the libraries"


@pytest.fixture
def prepared_workers(commands, monkeypatch):
    """Contenders live in processes that have imported torch and transformers already."""
    monkeypatch.setattr(sys, "executable", str(commands / "python"))


@pytest.mark.slow
@pytest.mark.usefixtures("prepared_workers")
class TestAlone:
    def test_a_chat_message_and_own_stopping(self, redraft_here, model, tmp_path):
        done = redraft_here(
            "bench", "-m", model, "--rounds", 3, "--max-tokens", 4, "--prompt", "w20 w21 w22", "--threads", 1,
            "--no-against-transformers", "--malloc", "default", "--json", tmp_path / "a.json",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        [work] = json.loads((tmp_path / "a.json").read_text())["workloads"]
        assert (work["prompt_tokens"], work["steps"]) == (9, None)
        assert list(work["contenders"]) == ["redraft auto (float32)"]
        assert work["times_as_fast"] == {}
        assert work["contenders"]["redraft auto (float32)"]["steps_per_canvas"]["median"] == 4, "the checkpoint's limit"
        assert "the checkpoint's own stopping" in done.stdout
        assert "times as fast" not in done.stdout

    def test_two_dtypes_are_compared_with_the_first_where_there_is_no_transformers(
        self, redraft_here, model, tmp_path, monkeypatch
    ):
        monkeypatch.setattr(machine, "find_spec", lambda _: None)
        done = redraft_here(
            "bench", "-m", model, *QUICK, "--dtype", "float32", "--dtype", "bfloat16", "--json", tmp_path / "a.json"
        )
        assert done.returncode == 0, done.stderr
        assert "not measured against transformers: transformers is not installed; install it" in done.stdout
        [work] = json.loads((tmp_path / "a.json").read_text())["workloads"]
        assert work["times_as_fast"]["seconds"]["reference"] == "redraft float32"

    def test_a_reference_that_cannot_load_the_checkpoint_is_one_line(self, redraft_here, model):
        """It refuses this one for its sampler without a class name."""
        failed = redraft_here("bench", "-m", model, *QUICK)
        assert (failed.returncode, failed.stdout) == (1, "")
        assert failed.stderr.startswith("redraft: transformers float32: TypeError")
        assert failed.stderr.endswith("; --no-against-transformers measures without it\n")
        assert failed.stderr.count("\n") == 1


MISTAKES = [
    pytest.param(["--rounds", 2], "rounds 2 is too few", id="rounds"),
    pytest.param(["--dtype", "float8"], "dtype 'float8' is not supported; choose from auto, float32", id="dtype"),
    pytest.param(["--dtype", "auto", "--dtype", "auto"], "dtype 'auto' is given twice", id="twice"),
    pytest.param(["--prompt", "w20", "--prompt-tokens", 3], "--prompt or --prompt-tokens, not both", id="prompts"),
    pytest.param(["--prompt", "unheard-of"], "no tokens for this text", id="unknown text"),
    pytest.param(["--prompt-tokens", 510], "do not fit the context of 512", id="prompt too long"),
    pytest.param(["--max-tokens", 300], "answer of 300 (canvases: 38 x 8)", id="answer too long"),
    pytest.param(["--json", "no/such/bench.json"], "the folder of no/such/bench.json does not exist", id="json"),
    pytest.param(["--plot", "no/such/bench.png"], "the folder of no/such/bench.png does not exist", id="plot"),
    pytest.param(["--plot", "bench.doc"], "the plot bench.doc must end in", id="plot format"),
    pytest.param(["-m", "no-such-model"], "no checkpoint 'no-such-model'", id="model"),
    pytest.param(["--clients", 2], "--clients is for --modes; leave it out", id="clients"),
    pytest.param(["--mode", "diffusion"], "--mode is for --modes; leave it out", id="mode"),
    pytest.param(["--modes", "--mode", "speculative", "--steps", 2], "--steps is for mode 'diffusion'", id="steps"),
    pytest.param(["--steps", 2, "--steps", 4], "--steps is given 2 times", id="several steps"),
    pytest.param(["--modes", "--rounds", 2], "rounds 2 is too few", id="rounds of modes"),
    pytest.param(
        ["--modes", "--plot", "a.png"], "--plot compares engines, and cannot be given with", id="plot of modes"
    ),
    pytest.param(["--modes", "--max-tokens", 1, "--max-tokens", 2], "--max-tokens is given 2 times", id="lengths"),
    pytest.param(["--modes", "--temperature", -1], "temperature -1.0 must be", id="temperature"),
    pytest.param(["--modes", "--task", "no.jsonl"], "the items no.jsonl cannot be read", id="task"),
    pytest.param(["--modes", "--task", "a", "--prompt", "w20"], "--task, or --prompt or --prompt-tokens", id="both"),
    pytest.param(
        ["--modes", "--json", "no/such/a.json"], "the folder of no/such/a.json does not exist", id="json of modes"
    ),
]


@pytest.mark.slow
class TestModes:
    @pytest.fixture(scope="class")
    @staticmethod
    def task(folder) -> Path:
        asked = {"verb": "generate", "prompt": "w20 w21", "regex": "(w[0-9]+ ?)*"}
        (folder / "task.jsonl").write_text("".join(json.dumps({**asked, "id": str(n)}) + "\n" for n in range(2)))
        return folder / "task.jsonl"

    def test_the_ways_of_one_checkpoint_are_compared(self, redraft_here, model, task, tmp_path):
        done = redraft_here(
            "bench", "-m", model, "--modes", "--task", task, "--rounds", 3, "--clients", 2, "--clients", 1,
            "--steps", 1, "--steps", 2, "--max-tokens", 4, "--seed", 5, "--json", tmp_path / "a.json",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        facts = json.loads((tmp_path / "a.json").read_text())
        names = ["diffusion, 1 step", "diffusion, 2 steps", "autoregressive", "speculative"]
        assert [(one["way"], one["clients"]) for one in facts["figures"]] == [(n, c) for c in (1, 2) for n in names]
        assert list(facts["quality"]) == [way["name"] for way in facts["ways"]] == names
        assert all(own["logprob"] < 0 and 0 <= own["right"] <= 1 for own in facts["quality"].values())
        assert facts["questions"] == 2
        for name in names:
            assert done.stdout.count(name) >= 3, "in the table of each number of clients, and in that of the answers"
        assert all(line in done.stdout for line in facts["crossovers"])
        assert len(facts["crossovers"]) == 3

    def test_a_checkpoint_without_a_canvas_is_measured_by_its_one_way(self, redraft_here, tmp_path):
        gemma = random_gemma(tmp_path / "gemma")
        asked = ["bench", "-m", gemma, "--rounds", 3, "--max-tokens", 3, "--prompt-tokens", 4]
        assert "has no canvas, whose steps are measured; " in redraft_here(*asked).stderr
        assert "--steps is for mode 'diffusion'" in redraft_here(*asked, "--modes", "--steps", 2).stderr
        assert "mode 'diffusion' is none of this" in redraft_here(*asked, "--modes", "--mode", "diffusion").stderr
        done = redraft_here(*asked, "--modes", "--clients", 1)
        assert done.returncode == 0, done.stderr
        assert "autoregressive" in done.stdout


@pytest.fixture
def no_contenders(monkeypatch):
    """Mistakes are found before any process is started."""
    monkeypatch.setattr(bench, "_run", lambda *_: pytest.fail("measured"))


@pytest.mark.usefixtures("no_contenders")
class TestMistakes:
    @pytest.mark.parametrize(("arguments", "words"), MISTAKES)
    def test_is_named_in_one_line(self, redraft_here, model, arguments, words):
        failed = redraft_here("bench", "-m", model, *arguments)
        assert (failed.returncode, failed.stdout) == (1, "")
        assert failed.stderr.startswith("redraft: ")
        assert failed.stderr.count("\n") == 1
        assert words in failed.stderr

    def test_transformers_that_is_not_there(self, redraft_here, model, monkeypatch):
        monkeypatch.setattr(machine, "find_spec", lambda _: None)
        failed = redraft_here("bench", "-m", model, "--against-transformers")
        assert failed.stderr == ("redraft: transformers is not installed; install it with: pip install transformers\n")

    def test_matplotlib_that_is_not_there(self, redraft_here, model, monkeypatch, tmp_path):
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        failed = redraft_here("bench", "-m", model, "--plot", tmp_path / "a.png")
        assert failed.stderr == "redraft: a plot needs matplotlib; install it with: pip install 'redraft[train]'\n"

    def test_malloc_without_glibc(self, redraft_here, model, monkeypatch):
        monkeypatch.setattr("platform.libc_ver", lambda: ("", ""))
        failed = redraft_here("bench", "-m", model, "--malloc", "tuned")
        assert (failed.returncode, failed.stderr.count("\n")) == (1, 1)
        assert "--malloc tuned sets glibc's thresholds" in failed.stderr

    @pytest.mark.parametrize("arguments", [["--steps", 0], ["--prompt-tokens", 0], ["--malloc", "best"]])
    def test_of_usage_exits_with_2(self, redraft_here, arguments):
        failed = redraft_here("bench", *arguments)
        assert (failed.returncode, failed.stdout) == (2, "")
