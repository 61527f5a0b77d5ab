"""A recorded request gives the same again, in every format, and what is not the same is found and named."""

import dataclasses
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import redraft
from redraft import GenerationError, Recording, RecordingError, RecordingFolder, StepEvent, replay
from redraft.api import Engine
from redraft.canvas.acceptance import AcceptanceView
from redraft.engine.generation import Generate
from redraft.engine.runtime import advance, start
from redraft.engine.task import Progress
from redraft.kernels.packed import FORMATS, Format
from redraft.loading import load
from redraft.models import checkpoint, digest
from redraft.record.compare import compare
from redraft.record.compare import parameters as parameters_of
from redraft.record.recorder import Recorder
from redraft.record.steps import places
from redraft.tasks.slots import asked
from tests.models.llama_diffusion.conftest import write
from tests.random_checkpoint import LETTERS_SIZE, THOUGHT_IDS, random_checkpoint
from tests.record.test_recording import REQUESTS, RESTLESS, odd_positions, only_file

PROMPT = "some text"
# Run in a process of its own: whether there are kernels is decided once in each.
WITHOUT_KERNELS = """
import sys, redraft
from redraft.kernels.library import status
folder, source, dtype = sys.argv[1:]
assert status().tier == "torch"
engine, runs = redraft.load(source, dtype=dtype), redraft.RecordingFolder(folder)
schema = redraft.JSONSchema({"type": "array", "items": {"type": "integer"}})
for parameters in ({}, {"constraint": schema, "thinking": True, "best_of": 2}):
    generation = engine.stream("some text", max_tokens=30, seed=7, record=runs, **parameters)
    generation.result()
    again = redraft.replay(redraft.Recording.load(generation.recorder.path), engine)
    assert again.identical, again.comparison
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    return random_checkpoint(folder, letters=True, vocab_size=LETTERS_SIZE, canvas_length=24, generation=RESTLESS)


@pytest.fixture(scope="module")
def engine(folder: Path) -> Engine:
    return load(folder)


def recorded(engine: Engine, path: Path, prompt: Any = PROMPT, **parameters: Any) -> Recording:
    generation = engine.stream(prompt, **{"max_tokens": 60, "seed": 7} | parameters, record=RecordingFolder(path))
    generation.result()
    return Recording.load(generation.recorder.path)


@pytest.mark.parametrize(
    ("dtype", "name"),
    # Every kind of request, and in every format what reads probabilities and what chooses among candidates.
    [("float32", name) for name in REQUESTS if name != "verified"]
    + [(dtype, name) for dtype in FORMATS if dtype != "float32" for name in ("plain", "constrained", "best of")],
)
def test_a_replay_by_another_engine_is_identical(folder: Path, tmp_path: Path, dtype: Format, name: str) -> None:
    recording = recorded(load(folder, dtype=dtype), tmp_path, **REQUESTS[name])
    again = replay(recording, load(folder, dtype=dtype))
    assert again.identical
    assert again.comparison.entropy_difference == 0.0
    assert parameters_of(recording, again.recording) == {}


# In torch what is packed is exact, or it is rounded: one of each is enough.
@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_a_replay_without_kernels_is_identical_and_told_from_one_with(
    folder: Path, engine: Engine, commands: Path, tmp_path: Path, dtype: Format
) -> None:
    done = subprocess.run(
        [commands / "python", "-c", WITHOUT_KERNELS, tmp_path, folder, dtype],
        env={**os.environ, "REDRAFT_KERNELS": "none"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    for path in tmp_path.iterdir():
        recording = Recording.load(path)
        assert recording.computed["kernels"] == "torch"
        again = replay(recording, load(folder, dtype=dtype))
        differing = parameters_of(recording, again.recording)
        assert set(differing) <= {"kernels"}
        if differing:
            assert not again.identical, "rounding shows in an entropy"


def test_a_thought_that_its_budget_ended_is_replayed(folder: Path, engine: Engine, tmp_path: Path) -> None:
    opens = {"logit_bias": {THOUGHT_IDS[0]: 4.0}, "max_denoising_steps": 3}
    recording = recorded(engine, tmp_path, thinking_budget=5, **opens)
    assert any(place.number for place in places(recording.events)), "a canvas is denoised again where the budget ends"
    assert replay(recording, load(folder)).identical


def test_a_replay_after_others_with_a_cached_prompt_is_identical(folder: Path, tmp_path: Path) -> None:
    engine = load(folder, prefill_chunk=4)
    recording = recorded(engine, tmp_path, prompt=list(range(20, 50)))
    for seed in range(3):
        engine.generate(list(range(20, 45)), max_tokens=30, seed=seed)
    assert replay(recording, engine).identical


def test_a_checkpoint_whose_defaults_changed_replays_by_the_recorded_ones(folder: Path, tmp_path: Path) -> None:
    engine = load(folder)
    schema = redraft.JSONSchema({"type": "array", "items": {"type": "integer"}})
    recording = recorded(engine, tmp_path, constraint=schema, max_tokens=30)
    engine.model.defaults = dataclasses.replace(
        engine.model.defaults, max_denoising_steps=9, t_max=0.9, entropy_bound=3.0, end_token_ids=(5,)
    )
    assert replay(recording, engine).identical


class TestOtherVerbs:
    def test_a_fill_replays(self, engine: Engine, tmp_path: Path) -> None:
        runs = RecordingFolder(tmp_path)
        filled = engine.fill("in the ", " and on", seed=3, record=runs)
        recording = Recording.load(only_file(runs))
        assert recording.result is not None
        assert recording.result["text"] == filled.text.removeprefix("in the ")
        assert replay(recording, engine).identical

    def test_an_edit_leaves_a_file_for_each_canvas_and_each_replays(self, engine: Engine, tmp_path: Path) -> None:
        text = "the one " + "and the other " * 4 + "in the end"
        engine.edit(text, [(4, 7), (len(text) - 3, len(text))], seed=3, record=RecordingFolder(tmp_path))
        recordings = [Recording.load(path) for path in sorted(tmp_path.iterdir())]
        assert len(recordings) == 2
        assert all(recording.request["draft"] is not None for recording in recordings)
        assert all(replay(recording, engine).identical for recording in recordings)

    def test_an_extraction_replays_but_for_how_sure_it_is(self, engine: Engine, tmp_path: Path) -> None:
        runs = RecordingFolder(tmp_path)
        schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
        found = engine.extract("some", schema, max_tokens=30, seed=3, record=runs)
        recording = Recording.load(only_file(runs))
        assert recording.result is not None
        assert recording.result["text"] == found.text
        assert len(recording.events) == found.usage.denoising_steps
        assert replay(recording, engine).identical

    def test_what_keeps_no_recordings_is_refused_by_every_verb(self, engine: Engine) -> None:
        verbs: list[Callable[..., Any]] = [
            lambda **given: engine.generate(PROMPT, **given),
            lambda **given: engine.stream(PROMPT, **given),
            lambda **given: engine.generate_many([PROMPT], **given),
            lambda **given: engine.fill("a", "b", **given),
            lambda **given: engine.edit("abc", [(0, 1)], **given),
            lambda **given: engine.choose("is it?", ["yes", "no"], **given),
            lambda **given: engine.extract("a", {"type": "integer"}, **given),
        ]
        for verb in verbs:
            with pytest.raises(redraft.RequestError, match="record 'runs' must be a RecordingFolder"):
                verb(record="runs")


QUESTIONS = {"is": ["yes", "no"], "code": ["red", "green", "blue"]}


class TestDecisions:
    @pytest.mark.parametrize(
        "parameters",
        [
            {},
            {"temperature": 1.7, "normalize": "length"},
            {"frame": "it is {is}, and {code}."},
            {"max_denoising_steps": 2},
            {"max_denoising_steps": 12, "stopping": redraft.StableAndConfident(0, 100.0)},
            {"max_denoising_steps": 3, "canvas_length": 20, "entropy_bound": 1.0},
            {"layout": "slots", "frame": "{is}|{code}", "max_denoising_steps": 2},
        ],
    )
    @pytest.mark.parametrize("dtype", ["float32", "int8"])
    def test_decisions_replay(self, folder: Path, tmp_path: Path, parameters: Any, dtype: Format) -> None:
        runs = RecordingFolder(tmp_path)
        decided = load(folder, dtype=dtype).choose("is it?", QUESTIONS, seed=3, record=runs, **parameters)
        assert decided.usage.denoising_steps == 1 or "stopping" not in parameters, "it converged at once"
        recording = Recording.load(only_file(runs))
        assert recording.result is not None
        assert recording.result["answers"] == {name: one.probabilities for name, one in decided.answers.items()}
        assert recording.result["log_valid"] == decided.log_valid
        assert len(recording.events) == decided.usage.denoising_steps
        other = load(folder, dtype=dtype)
        again = replay(recording, other)
        assert again.identical
        assert parameters_of(recording, again.recording) == {}
        plain = other.choose("is it?", QUESTIONS, seed=3, **parameters)
        assert plain.answers == decided.answers, "to be recorded changes nothing"

    def test_what_is_not_the_same_is_found(self, engine: Engine, tmp_path: Path) -> None:
        engine.choose("is it?", QUESTIONS, seed=3, record=RecordingFolder(tmp_path / "a"))
        engine.choose("is it?", QUESTIONS, seed=3, temperature=2.0, record=RecordingFolder(tmp_path / "b"))
        a, b = (Recording.load(next((tmp_path / name).iterdir())) for name in "ab")
        assert parameters_of(a, b) == {"reading.temperature": (1.0, 2.0)}
        assert set(compare(a, b).answer) == {"answers", "log_valid"}
        again = replay(a, engine, seed=4)
        assert not again.identical
        assert "answers" in again.comparison.answer
        assert again.comparison.first is not None
        assert "tokens_in" in again.comparison.first.fields

    def test_a_decision_that_fails_is_kept_and_fails_again(
        self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        engine = load(folder)
        forward = engine.model.forward
        monkeypatch.setattr(
            engine.model, "forward", lambda spans: [None if own is None else own * torch.nan for own in forward(spans)]
        )
        with pytest.raises(GenerationError, match="not a number"):
            engine.choose("is it?", QUESTIONS, seed=3, record=RecordingFolder(tmp_path))
        recording = Recording.load(next(tmp_path.iterdir()))
        assert recording.error is not None
        assert replay(recording, engine).identical

    def test_files_of_generations_are_readable_by_those_who_know_no_decisions(
        self, engine: Engine, tmp_path: Path
    ) -> None:
        engine.choose("is it?", QUESTIONS, seed=3, record=RecordingFolder(tmp_path / "a"))
        decision = Recording.load(next((tmp_path / "a").iterdir()))
        assert (decision.header["version"], decision.header["decision"]["is"]) == (2, "Reading")
        engine.choose("is it?", ["yes", "no"], layout="slots", seed=3, record=RecordingFolder(tmp_path / "c"))
        in_slots = Recording.load(next((tmp_path / "c").iterdir()))
        assert (in_slots.header["version"], in_slots.header["decision"]["layout"]) == (3, "slots")
        header = recorded(engine, tmp_path / "b").header
        assert header["version"] == 1
        assert "decision" not in header


SLOTS = {
    "type": "object",
    "properties": {"who": {"enum": ["Ada", "Bo"]}, "fit": {"type": "boolean"}, "n": {"enum": [1, 22]}},
    "required": ["who", "fit"],
}
VERBATIM = {"type": "object", "properties": {"who": {"type": "string"}}, "required": ["who"]}


@pytest.fixture(scope="module")
def absorbing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("absorbing"))


class TestSlots:
    """Values that were read into slots are replayed to the last bit, whatever they started from."""

    @pytest.mark.parametrize("family", ["uniform", "absorbing"])
    @pytest.mark.parametrize(
        "parameters",
        [
            {"schema": SLOTS},
            {"schema": SLOTS, "canvas_length": 18, "temperature": 0.5, "max_denoising_steps": 3},
            {"schema": SLOTS, "draft": {"who": "Bo", "fit": True}},
            {"schema": VERBATIM, "verbatim": True, "draft": '{"who": "Ada"}'},
        ],
        ids=["plain", "several canvases", "drafted", "verbatim"],
    )
    def test_slots_replay(
        self, folder: Path, absorbing: Path, tmp_path: Path, family: str, parameters: dict[str, Any]
    ) -> None:
        source = {"uniform": folder, "absorbing": absorbing}[family]
        given: dict[str, Any] = {"layout": "slots", "seed": 3, **parameters}
        schema = given.pop("schema")
        read = load(source).extract("Ada, not Bo", schema, record=RecordingFolder(tmp_path), **given)
        assert (read.layout, read.fallback) == ("slots", None)
        recording = Recording.load(only_file(RecordingFolder(tmp_path)))
        assert recording.header["version"] == 3
        assert recording.result is not None
        assert (recording.result["text"], len(recording.events)) == (read.text, read.usage.denoising_steps)
        assert min(recording.result["confidence"].values()) == min(read.confidence.values())
        other = load(source)
        again = replay(recording, other)
        assert again.identical
        assert parameters_of(recording, again.recording) == {}
        plain = other.extract("Ada, not Bo", schema, **given)
        assert (plain.text, plain.confidence) == (read.text, read.confidence), "to be recorded changes nothing"
        changed = replay(recording, other, seed=4)
        assert changed.comparison.first is not None or family == "absorbing"

    def test_a_value_longer_than_its_slot_leaves_a_file_for_each_try(self, engine: Engine, tmp_path: Path) -> None:
        """Slots of free text on a canvas of random weights are mostly full: then JSON was written, too."""
        runs = RecordingFolder(tmp_path)
        for seed in range(8):
            read = engine.extract("Ada", VERBATIM, layout="slots", seed=seed, record=runs, max_tokens=40)
            kept = [Recording.load(path) for path in sorted(tmp_path.iterdir())]
            assert all(replay(recording, engine).identical for recording in kept)
            assert len(kept) == (1 if read.layout == "slots" else 2)
            if read.layout == "text":
                assert kept[-1].result is not None
                assert kept[-1].result["text"] == read.text
                return
            for path in tmp_path.iterdir():
                path.unlink()
        raise AssertionError("no slot was full; try other seeds")

    def test_without_the_prompt_the_text_that_strings_are_held_to_is_not_kept(
        self, engine: Engine, tmp_path: Path
    ) -> None:
        text = "Ada, not Bo"
        runs = RecordingFolder(tmp_path, keep_prompts=False)
        engine.extract(text, VERBATIM, layout="slots", verbatim=True, seed=3, record=runs)
        path = only_file(runs)
        recording = Recording.load(path)
        assert recording.header["slots"]["quoted"] is None
        assert text not in json.dumps(recording.header["request"])
        with pytest.raises(RecordingError, match="made without its prompt"):
            replay(recording, engine)
        prompt = engine.runtime.question(text, asked(VERBATIM))
        if not isinstance(prompt, str) and isinstance(prompt[0], int):
            prompt = f"{text}\n\n{asked(VERBATIM)}\n\n"
        assert replay(recording, engine, prompt=prompt).identical
        tokens = engine.runtime.tokenize(prompt)
        with pytest.raises(RecordingError, match="strings are held to it: give it as text"):
            replay(recording, engine, prompt=tokens)


class TestWhatDiffers:
    def test_a_seed(self, engine: Engine, tmp_path: Path) -> None:
        recording = recorded(engine, tmp_path)
        again = replay(recording, engine, seed=8)
        assert parameters_of(recording, again.recording) == {"seed": (7, 8)}
        first = again.comparison.first
        assert first is not None
        assert first is again.comparison.in_tokens
        assert (first.index, first.place.canvas, first.place.number) == (0, 0, 1)
        assert "tokens_in" in first.fields
        assert not again.identical

    def test_a_prompt(self, engine: Engine, tmp_path: Path) -> None:
        a, b = recorded(engine, tmp_path), recorded(engine, tmp_path, prompt="other text")
        assert list(parameters_of(a, b)) == ["prompt"]
        first = compare(a, b).first
        assert first is not None
        assert first.index == 0
        assert "tokens_in" not in first.fields
        assert "entropy" in first.fields

    def test_a_format(self, folder: Path, engine: Engine, tmp_path: Path) -> None:
        recording = recorded(engine, tmp_path)
        again = replay(recording, load(folder, dtype="bfloat16"))
        assert parameters_of(recording, again.recording) == {"dtype": ("float32", "bfloat16")}
        assert not again.identical
        assert again.comparison.entropy_difference > 0

    @pytest.mark.parametrize("changed", [{"max_tokens": 24}, {"max_denoising_steps": 3}, {"canvas_length": 12}])
    def test_a_parameter(self, engine: Engine, tmp_path: Path, changed: dict[str, Any]) -> None:
        recording = recorded(engine, tmp_path)
        again = replay(recording, engine, **changed)
        (name,) = parameters_of(recording, again.recording)
        assert name == next(iter(changed))
        assert not again.identical

    def test_a_run_that_ends_earlier(self, engine: Engine, tmp_path: Path) -> None:
        recording = recorded(engine, tmp_path)
        comparison = replay(recording, engine, max_tokens=24).comparison
        assert comparison.first is comparison.in_tokens is not None
        assert (comparison.in_tokens.place.canvas, comparison.in_tokens.b) == (1, None)
        assert "text" in comparison.answer

    def test_the_last_bit_of_one_entropy(self, engine: Engine, tmp_path: Path) -> None:
        recording = recorded(engine, tmp_path)
        arrays = {name: values.copy() for name, values in recording.arrays.items()}
        at = 24 * 5 + 3  # the sixth step, which is the second of the second canvas
        arrays["entropy"].view("int32")[at] ^= 1
        comparison = compare(recording, dataclasses.replace(recording, arrays=arrays))
        first = comparison.first
        assert first is not None
        assert (first.index, first.place.canvas, first.place.number) == (5, 1, 2)
        assert first.positions == (3,)
        assert first.only_entropy
        assert comparison.in_tokens is None
        assert 0 < comparison.entropy_difference < 1e-6

    @pytest.mark.parametrize("name", ["argmax", "sample"])
    def test_one_token(self, engine: Engine, tmp_path: Path, name: str) -> None:
        recording = recorded(engine, tmp_path)
        arrays = {key: values.copy() for key, values in recording.arrays.items()}
        arrays[name][24 * 2 + 7] += 1
        comparison = compare(recording, dataclasses.replace(recording, arrays=arrays))
        parting = comparison.in_tokens
        assert parting is comparison.first is not None
        assert (parting.index, parting.positions) == (2, (7,))
        assert name in parting.fields


class TestAnotherModel:
    @pytest.fixture(scope="class")
    @staticmethod
    def other(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """The same but for one bit of one weight."""
        other = Path(shutil.copytree(folder, tmp_path_factory.mktemp("other") / "model"))
        weights = load_file(other / "model.safetensors")
        weights["model.decoder.norm.weight"].view(torch.int32)[0] ^= 1 << 20
        save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
        return other

    def test_other_weights_are_refused_unless_asked_for(self, engine: Engine, other: Path, tmp_path: Path) -> None:
        recording = recorded(engine, tmp_path)
        with pytest.raises(RecordingError, match="is not the model of the recording: its weights"):
            replay(recording, load(other))
        again = replay(recording, load(other), any_model=True)
        assert not again.identical
        assert "model.weights" in parameters_of(recording, again.recording)

    def test_another_tokenizer_is_refused(self, engine: Engine, folder: Path, tmp_path: Path) -> None:
        recording = recorded(engine, tmp_path / "runs")
        other = Path(shutil.copytree(folder, tmp_path / "model"))
        with (other / "tokenizer.json").open("a") as file:
            file.write("\n")
        with pytest.raises(RecordingError, match="its tokenizer"):
            replay(recording, load(other))

    def test_the_same_files_elsewhere_are_the_same_model(self, engine: Engine, folder: Path, tmp_path: Path) -> None:
        recording = recorded(engine, tmp_path / "runs")
        copy = Path(shutil.copytree(folder, tmp_path / "copy"))
        assert replay(recording, load(copy)).identical


def ticks() -> Callable[[], float]:
    """A clock that goes ten milliseconds whenever somebody looks at it."""
    glances = count()
    return lambda: next(glances) * 0.01


class TestDeadlines:
    """The clock of the recorded run goes on at every look; that of the replay stands, and decides nothing."""

    @pytest.fixture
    def ticking(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Engine:
        monkeypatch.setattr(engine.runtime, "clock", ticks())
        return engine

    @pytest.mark.parametrize(
        "asked",
        [
            {},
            {"constraint": redraft.Regex("[ -~]{3,50}")},
            {"best_of": 2},
            {"verifier": odd_positions, "verify_rounds": 2},
        ],
        ids=["plain", "constrained", "candidates", "verified"],
    )
    def test_an_answer_is_cut_where_it_was(self, ticking: Engine, tmp_path: Path, asked: dict[str, Any]) -> None:
        cut = 0
        for number, milliseconds in enumerate((60, 110, 170, 240, 60_000)):
            recording = recorded(ticking, tmp_path / str(number), deadline_ms=milliseconds, **asked)
            assert recording.result is not None
            ticking.runtime.clock = lambda: 0.0
            given = {name: asked[name] for name in asked if name == "verifier"}
            again = replay(recording, ticking, **given)
            assert again.recording.result is not None
            assert again.identical, (milliseconds, again.comparison)
            assert again.recording.request["deadline"] == recording.request["deadline"]
            assert again.recording.result["deadline_reached"] == recording.result["deadline_reached"]
            cut += recording.result["deadline_reached"]
            ticking.runtime.clock = ticks()
        assert 0 < cut < 5

    def test_a_decision_is_read_where_it_was(self, ticking: Engine, tmp_path: Path) -> None:
        folder = RecordingFolder(tmp_path)
        late = ticking.choose(PROMPT, ["a", "b"], max_denoising_steps=6, seed=1, deadline_ms=60, record=folder)
        assert late.deadline_reached
        ticking.runtime.clock = lambda: 0.0
        assert replay(Recording.load(only_file(folder)), ticking).identical

    def test_what_could_not_be_whole_fails_in_the_same_words(self, ticking: Engine, tmp_path: Path) -> None:
        folder, never = RecordingFolder(tmp_path), redraft.Regex("[a-c]{90}")
        with pytest.raises(redraft.DeadlineError):
            ticking.generate(PROMPT, max_tokens=120, seed=1, constraint=never, deadline_ms=60, record=folder)
        recording = Recording.load(only_file(folder))
        assert recording.error is not None
        ticking.runtime.clock = lambda: 0.0
        again = replay(recording, ticking)
        assert again.identical
        assert again.recording.error == recording.error

    def test_another_deadline_may_be_given(self, ticking: Engine, tmp_path: Path) -> None:
        recording = recorded(ticking, tmp_path, deadline_ms=60)
        ticking.runtime.clock = lambda: 0.0
        whole = replay(recording, ticking, deadline_ms=60_000)
        assert not whole.identical
        assert len(whole.recording.events) > len(recording.events)


class TestDigest:
    def test_every_shard_and_the_configuration_count(self, tmp_path: Path) -> None:
        folder = random_checkpoint(tmp_path, shard_bytes=20_000)
        found = checkpoint.read(folder)
        digests = {digest.weights_digest(found)}
        paths = [folder / "config.json", *sorted({tensor.file for tensor in found.tensors.values()})]
        assert len(paths) > 3
        for path in paths:
            content = path.read_bytes()
            path.write_bytes(content + b" " if path.suffix == ".json" else content[:-1] + b"x")
            digests.add(digest.weights_digest(checkpoint.read(folder)))
            path.write_bytes(content)
        assert len(digests) == len(paths) + 1

    def test_large_files_are_read_once_until_they_change(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        found = checkpoint.read(random_checkpoint(tmp_path))
        read: list[str] = []
        original = digest._digest

        def counted(path: Path) -> str:
            read.append(path.name)
            return original(path)

        monkeypatch.setattr(digest, "_digest", counted)
        weights = tmp_path / "model.safetensors"
        first = digest.weights_digest(found, kept_from=10_000)
        assert digest.weights_digest(found, kept_from=10_000) == first
        assert read.count(weights.name) == 1
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
        os.utime(weights, ns=(1, 1))
        assert digest.weights_digest(found, kept_from=10_000) != first
        assert digest.weights_digest(found) != first

    def test_a_damaged_or_missing_store_is_made_again(self, tmp_path: Path) -> None:
        found = checkpoint.read(random_checkpoint(tmp_path))
        first = digest.weights_digest(found, kept_from=0)
        (tmp_path / ".redraft" / "digests.json").write_text('{"model.safetensors": [1]}')
        assert digest.weights_digest(found, kept_from=0) == first
        (tmp_path / ".redraft" / "digests.json").write_text("{")
        assert digest.weights_digest(found, kept_from=0) == first


class TestWhatIsNotKept:
    def test_a_verifier_is_named_and_taken(self, engine: Engine, tmp_path: Path) -> None:
        recording = recorded(engine, tmp_path, verifier=odd_positions, verify_rounds=1)
        with pytest.raises(RecordingError, match=r"its verifier is .*odd_positions, which is code.*verifier=\.\.\."):
            replay(recording, engine)
        assert replay(recording, engine, verifier=odd_positions).identical

    def test_a_rule_of_ones_own_is_named_and_taken(self, engine: Engine, tmp_path: Path) -> None:
        class Everything:
            def accept(self, view: AcceptanceView) -> torch.Tensor:
                return torch.ones_like(view.open)

        recording = recorded(engine, tmp_path, acceptance=Everything())
        with pytest.raises(RecordingError, match=r"its acceptance is .*Everything"):
            replay(recording, engine)
        assert replay(recording, engine, acceptance=Everything()).identical

    def test_a_prompt_that_was_not_kept_has_to_be_given(self, engine: Engine, tmp_path: Path) -> None:
        runs = RecordingFolder(tmp_path, keep_prompts=False)
        engine.generate(PROMPT, max_tokens=8, seed=7, record=runs)
        recording = Recording.load(only_file(runs))
        with pytest.raises(RecordingError, match="without its prompt of"):
            replay(recording, engine)
        with pytest.raises(RecordingError, match="the prompt is not the recorded one"):
            replay(recording, engine, prompt="other text")
        again = replay(recording, engine, prompt=PROMPT)
        assert again.identical
        assert parameters_of(recording, again.recording) == {}

    def test_so_has_what_its_chat_template_read_besides(self, engine: Engine, folder: Path, tmp_path: Path) -> None:
        copy = Path(shutil.copytree(folder, tmp_path / "model"))
        with (copy / "chat_template.jinja").open("a") as template:
            template.write("{{ tone }}")
        engine, runs = load(copy), RecordingFolder(tmp_path / "runs", keep_prompts=False)
        asked, tone = [{"role": "user", "content": "a"}], {"tone": "short"}
        engine.generate(asked, max_tokens=8, seed=7, record=runs, chat_template_kwargs=tone)
        recording = Recording.load(only_file(runs))
        with pytest.raises(RecordingError, match="the prompt is not the recorded one"):
            replay(recording, engine, prompt=asked)
        assert replay(recording, engine, prompt=asked, chat_template_kwargs=tone).identical


class TestFailures:
    def test_a_request_that_was_cancelled_is_repeated_as_far_as_it_came(self, engine: Engine) -> None:
        request = engine.request(PROMPT, max_tokens=60, seed=7)
        recorder = Recorder(request, engine.runtime)
        cancelled = Progress(Generate(engine.runtime, request).task(recorder))
        start(cancelled)
        for _ in range(7):
            advance(engine.runtime, [cancelled])
        cancelled.close()
        recording = recorder.fail(redraft.RedraftError("gone"))
        seen: list[StepEvent] = []
        again = replay(recording, engine, on_step=seen.append)
        assert again.identical
        assert len(seen) == len(recording.events) > 0

    def test_a_model_that_fails_fails_again(self, folder: Path, tmp_path: Path) -> None:
        copy = Path(shutil.copytree(folder, tmp_path / "model"))
        weights = load_file(copy / "model.safetensors")
        weights["model.decoder.norm.weight"][-1] = torch.nan
        save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
        engine, runs = load(copy), RecordingFolder(tmp_path / "runs")
        with pytest.raises(GenerationError):
            engine.generate(PROMPT, max_tokens=8, seed=7, record=runs)
        recording = Recording.load(only_file(runs))
        again = replay(recording, engine)
        assert again.identical
        assert again.recording.error == recording.error
        well = replay(recording, load(folder), any_model=True)
        assert not well.identical
