"""``redraft plan``: what fits and what does not, of folders, of the hub by headers, and of the table that ships."""

import json
from pathlib import Path

import pytest

from redraft.cli.plan import DOES_NOT_FIT, seconds
from redraft.measure.plan import Plan
from redraft.models import checkpoint
from redraft.models.footprint import Use, footprint
from tests.cli.conftest import Run, assert_one_line
from tests.cli.hub import COMMIT, Hub, publish

NAME, PUBLISHED = "someone/small", "google/diffusiongemma-26B-A4B-it"
ARCHITECTURE = {"architectures": ["DiffusionGemmaForBlockDiffusion"]}


@pytest.fixture
def offline() -> bool:
    return False


def test_json_has_what_was_counted_and_measured(redraft_here: Run, model: Path) -> None:
    shown = redraft_here("plan", model, "--context", 200, "--concurrency", 2, "--answer", 16, "--steps", 3, "--json")
    assert shown.returncode == 0, shown.stderr
    plan = json.loads(shown.stdout)
    own = footprint(checkpoint.read(model), "float32", Use(200, 2))
    assert plan["footprint"]["weights"] == own.weights
    assert plan["footprint"]["keys_values"] == own.keys_values
    assert plan["footprint"]["needed"] == own.needed
    assert (plan["fits"], plan["estimate"], plan["not_timed"], plan["fetched"]) == (True, True, "", 0)
    diffusion, causal = plan["times"]["diffusion"], plan["times"]["autoregressive"]
    # Two canvases of 8 positions, and what comes before them.
    assert diffusion["answer"] > diffusion["prompt"] + 2 * 3 * diffusion["forward"]
    assert causal["answer"] == pytest.approx(causal["prompt"] + 16 * causal["forward"])
    assert plan["faster"] == min(plan["times"], key=lambda mode: plan["times"][mode]["answer"])


def test_text_is_80_columns_and_says_that_times_are_estimates(redraft_here: Run) -> None:
    shown = redraft_here("plan", "sudoku")
    assert shown.returncode == 0, shown.stderr
    assert all(len(line) <= 80 for line in shown.stdout.splitlines())
    rows = " ".join(shown.stdout.split())
    for word in ("time, estimated", "faster here", "weights 5.9 MB", "tokens a second", "of the experts"):
        assert word in rows


def test_what_does_not_fit_has_an_exit_code_of_its_own_and_says_what_would(redraft_here: Run, model: Path) -> None:
    shown = redraft_here("plan", model, "--memory", "1MB", "--no-time", "--json")
    assert shown.returncode == DOES_NOT_FIT
    assert json.loads(shown.stdout)["fits_memory"] is False
    assert "what fits" in redraft_here("plan", model, "--memory", "1MB", "--no-time").stdout
    assert redraft_here("plan", model, "--memory", "none", "--no-time").returncode == 0


def test_a_full_disk_does_not_fit_either(
    redraft_here: Run, hub: Hub, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.folders[NAME] = model
    monkeypatch.setattr("redraft.measure.plan.disk", lambda place: 1000)
    shown = redraft_here("plan", NAME, "--no-time", "--json")
    assert shown.returncode == DOES_NOT_FIT
    assert [json.loads(shown.stdout)[key] for key in ("fits_memory", "fits_disk")] == [True, False]


def test_of_the_hub_headers_alone_are_read(redraft_here: Run, hub: Hub, model: Path) -> None:
    hub.folders[NAME] = model
    shown = redraft_here("plan", NAME, "--no-time", "--json")
    assert shown.returncode == 0, shown.stderr
    plan = json.loads(shown.stdout)
    size = (model / "model.safetensors").stat().st_size
    assert COMMIT[:12] in plan["origin"]
    assert plan["fetched"] > size
    assert plan["footprint"]["weights"] == footprint(checkpoint.read(model), "float32").weights
    assert hub.bytes_of("model.safetensors") < size
    assert hub.bytes_of("tokenizer.json") == 0


def test_what_does_not_fit_the_memory_is_refused_before_it_is_fetched(redraft_here: Run, hub: Hub, model: Path) -> None:
    hub.folders[NAME] = model
    failed = redraft_here("generate", "hi", "-m", NAME, "--memory", "1MB")
    assert_one_line(failed, f"{NAME} as float32 takes")
    assert "--memory none" in failed.stderr
    assert hub.bytes_of("model.safetensors") < (model / "model.safetensors").stat().st_size


def test_a_published_model_needs_no_network(redraft_here: Run, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the table says so; it names the copy to fetch for a memory."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    # A disk is what there is; the copies' memory is what is asked for.
    monkeypatch.setattr("redraft.measure.plan.disk", lambda place: 10**12)
    chosen = {}
    for memory in ("64GB", "32GB", "20GB", "12GB"):
        shown = redraft_here("plan", PUBLISHED, "--memory", memory, "--no-time", "--json")
        plan = json.loads(shown.stdout)
        chosen[memory] = plan["best_copy"], plan["dtype"], shown.returncode
        assert "table that ships" in plan["origin"]
        assert not hub.sent
    int8 = "aidendle94/diffusiongemma-26B-A4B-it-INT8-dynamic"
    int4 = "cyankiwi/diffusiongemma-26B-A4B-it-AWQ-INT4"
    assert chosen == {
        "64GB": (PUBLISHED, "bfloat16", 0),
        "32GB": (int8, "int8", 0),
        "20GB": (int4, "int4", 0),
        "12GB": (None, "int4", DOES_NOT_FIT),
    }


def test_another_name_without_a_network_is_an_error(
    redraft_here: Run, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert_one_line(redraft_here("plan", NAME, "--no-time"), "could not be fetched from the hub")


def test_what_the_hub_does_not_show_is_one_line(redraft_here: Run, hub: Hub, tmp_path: Path, model: Path) -> None:
    hub.folders["someone/closed"] = model
    hub.gated.add("someone/closed")
    assert_one_line(redraft_here("plan", "someone/else"), "the hub has no such model")
    assert_one_line(redraft_here("plan", "someone/closed"), "is gated")
    index = {"weight_map": {"model.decoder.norm.weight": "missing.safetensors"}}
    files: dict[str, object] = {"config.json": ARCHITECTURE, "model.safetensors.index.json": index}
    publish(hub, NAME, tmp_path / "published", files)
    assert_one_line(redraft_here("plan", NAME), "'missing.safetensors', which the repository does not have")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("--context", 100_000), "more than the 512"),
        (("--answer", 2000), "does not fit a context"),
        (("--memory", "much"), "is no size"),
        (("--dtype", "int3"), "dtype 'int3' is not supported"),
    ],
)
def test_a_use_that_cannot_be_is_one_line(
    redraft_here: Run, model: Path, given: tuple[object, ...], words: str
) -> None:
    assert_one_line(redraft_here("plan", model, *given), words)


@pytest.mark.parametrize(
    ("value", "text"), [(0.0032, "3.2 ms"), (0.85, "0.85 s"), (12.3, "12 s"), (270, "4.5 min"), (7300, "2 h")]
)
def test_times_in_words(value: float, text: str) -> None:
    assert seconds(value) == text


def test_the_public_face_has_it(model: Path) -> None:
    import redraft

    found = redraft.plan(model, timed=False, memory=10**6)
    assert isinstance(found, Plan)
    assert not found.fits_memory
    assert found.times == {}
