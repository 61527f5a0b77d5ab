"""What a recording keeps: every step bit for bit, every request that is no code, in few bytes, or an error in words."""

import dataclasses
import json
import os
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import redraft
from redraft import (
    Choice,
    GenerationError,
    Hole,
    JSONSchema,
    Recording,
    RecordingError,
    RecordingFolder,
    Regex,
    Result,
    StepEvent,
    Template,
)
from redraft.api import Engine
from redraft.canvas.corruption import UniformCorruption
from redraft.canvas.draft import Draft
from redraft.canvas.noise import UniformNoise
from redraft.engine.generation import Generate
from redraft.engine.request import Request
from redraft.engine.runtime import run
from redraft.engine.sampling import Sampling
from redraft.engine.scheduler import Scheduler
from redraft.engine.task import Task
from redraft.loading import load
from redraft.record.described import plain, restored
from redraft.record.recorder import Recorder
from redraft.record.steps import Draws, StepPlace, Steps, places, read
from tests.random_checkpoint import LETTERS_SIZE, random_checkpoint
from tests.thorough import some

# Confident enough to accept and change, never converging: every canvas takes all its steps.
RESTLESS = {"max_denoising_steps": 4, "t_max": 0.4, "t_min": 0.2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    return random_checkpoint(folder, letters=True, vocab_size=LETTERS_SIZE, canvas_length=24, generation=RESTLESS)


@pytest.fixture(scope="module")
def engine(folder: Path) -> Engine:
    return load(folder)


@pytest.fixture
def runs(tmp_path: Path) -> RecordingFolder:
    return RecordingFolder(tmp_path / "runs")


def only_file(runs: RecordingFolder) -> Path:
    (path,) = runs.path.iterdir()
    return path


def same(a: StepEvent, b: StepEvent) -> bool:
    for field in dataclasses.fields(StepEvent):
        if not field.compare:
            continue
        one, other = getattr(a, field.name), getattr(b, field.name)
        if isinstance(one, torch.Tensor):
            if one.dtype != other.dtype or one.numpy().tobytes() != other.numpy().tobytes():
                return False
        elif one != other or type(one) is not type(other):
            return False
    return True


def odd_positions(candidate: redraft.Candidate) -> list[int]:
    return [position for position, token in enumerate(candidate.token_ids) if token % 2]


REQUESTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "greedy": {"temperature": 0.0},
    "constrained": {"constraint": JSONSchema({"type": "array", "items": {"type": "integer"}}), "max_tokens": 20},
    "thinking": {"thinking": True},
    "best of": {"best_of": 3},
    "verified": {"verifier": odd_positions, "verify_rounds": 2, "max_tokens": 30},
    "one step": {"max_denoising_steps": 1, "best_of": 2},
    "drafted": {"draft": Draft(torch.arange(20, 70), torch.full((50,), 0.7, dtype=torch.float64))},
    "shaped": {"top_p": 0.8, "logit_bias": {40: 1.5}, "frequency_penalty": 0.5, "min_tokens": 4, "stop_token_ids": [9]},
    "threshold": {"acceptance": redraft.ConfidenceThreshold(0.3), "stopping": redraft.ReproducesCanvas(2.0)},
}


@pytest.mark.parametrize("parameters", REQUESTS.values(), ids=REQUESTS)
def test_recorded_steps_are_the_live_ones_bit_for_bit(
    engine: Engine, runs: RecordingFolder, parameters: dict[str, Any]
) -> None:
    live: list[StepEvent] = []
    result = engine.generate("some", **{"max_tokens": 60, "seed": 7} | parameters, record=runs, on_step=live.append)
    recording = Recording.load(only_file(runs))
    assert len(live) == len(recording.events) > 0
    assert all(map(same, live, recording.events))
    assert recording.result is not None
    assert recording.result["text"] == result.text
    assert tuple(recording.result["token_ids"]) == result.token_ids
    assert recording.result["usage"]["denoising_steps"] == len(live)
    assert recording.request["seed"] == 7


def test_what_follows_from_the_seed_is_not_kept(engine: Engine, runs: RecordingFolder) -> None:
    engine.generate("some", max_tokens=60, seed=7, record=runs, best_of=2)
    arrays = Recording.load(only_file(runs)).arrays
    assert all(len(arrays[name]) == 0 for name in ("tokens_in", "tokens_out"))


def test_pinned_positions_are_kept_where_a_try_begins(engine: Engine, runs: RecordingFolder) -> None:
    engine.generate("some", max_tokens=20, seed=7, record=runs, verifier=odd_positions, verify_rounds=2)
    recording = Recording.load(only_file(runs))
    starts = [index for index, place in enumerate(places(recording.events)) if place.number == 1]
    assert len(starts) > 1
    assert recording.arrays["tokens_in_at"].tolist() == starts[1:]


def test_a_step_of_a_big_canvas_takes_two_kilobytes(tmp_path: Path) -> None:
    """As docs/record.md says, in the worst case: entropies of noise do not get smaller, tokens of one do not repeat."""
    steps, length = 48, 256
    generator = torch.Generator().manual_seed(0)
    vocabulary = 262_144
    draws = Draws(1, UniformCorruption(UniformNoise(vocabulary)), None, length, steps)
    kept = Steps(draws)
    argmax = torch.randint(vocabulary, (length,), generator=generator)
    seen = draws.first(StepPlace(0, 0, 1), length)
    for index in range(steps):
        # Tokens settle one after the other, as they do on a canvas.
        settled = length * index // steps
        argmax = torch.cat((argmax[:settled], torch.randint(vocabulary, (length - settled,), generator=generator)))
        sample = torch.where(torch.rand(length, generator=generator) < 0.9, argmax, argmax.flip(0))
        accepted = torch.arange(length) < settled
        following = draws.following(StepPlace(0, 0, index + 1), index + 1, seen, accepted, sample)
        entropy = torch.rand(length, generator=generator)
        kept.add(StepEvent(0, index + 1, steps, 0.5, seen, argmax, sample, entropy, accepted, following, False))
        seen = following
    arrays: dict[str, Any] = kept.arrays()
    np.savez_compressed(tmp_path / "steps.npz", **arrays)
    size = (tmp_path / "steps.npz").stat().st_size
    assert size / steps < 2048, size / steps


def test_a_sudoku_takes_less_than_a_kilobyte_a_step(runs: RecordingFolder) -> None:
    puzzle = "53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79"
    result = load("sudoku").generate([{"role": "user", "content": puzzle}], seed=7, record=runs)
    assert only_file(runs).stat().st_size < 5_000 + 600 * result.usage.denoising_steps


CONSTRAINTS = [
    JSONSchema({"type": "object", "properties": {"b": {}, "a": {"type": "integer"}}}, whitespace="one-space", depth=2),
    Regex("[a-z]+|é"),
    Choice(["yes", "no"]),
    Template("{a} is {type}", {"a": Hole(choices=("x", "y")), "type": Hole(type="integer", max_length=3)}),
]


@pytest.mark.parametrize("value", [*CONSTRAINTS, redraft.EntropyBound(0.3), UniformNoise(7), ("a", ("b",)), 2**63])
def test_what_is_no_code_comes_back_from_json(value: object) -> None:
    assert restored(json.loads(json.dumps(plain(value)))) == value


def test_every_field_of_a_request_is_kept(engine: Engine, runs: RecordingFolder) -> None:
    engine.generate("some", max_tokens=8, seed=1, record=runs)
    names = {field.name for cls in (Request, Sampling) for field in dataclasses.fields(cls)}
    # Of a deadline it is kept where it cut; pins are vLLM's, where nothing is recorded.
    kept = (names - {"constraint_source", "thought", "sampling", "deadline", "pinned"}) | {"thinking"}
    assert set(Recording.load(only_file(runs)).request) == kept


def test_a_prompt_need_not_be_kept(engine: Engine, tmp_path: Path) -> None:
    runs = RecordingFolder(tmp_path, keep_prompts=False)
    engine.generate("a secret", max_tokens=8, seed=1, record=runs)
    recording = Recording.load(only_file(runs))
    assert set(recording.request["prompt"]) == {"tokens", "sha256"}
    tokens = [token for token in engine.runtime.tokenize("a secret") if token != 2]
    assert ",".join(map(str, tokens)) not in json.dumps(recording.header, separators=(",", ":"))


class TestFiles:
    def test_names_sort_by_time_and_carry_the_id(self, engine: Engine, runs: RecordingFolder) -> None:
        request = engine.request("some", max_tokens=4, seed=1)
        paths = []
        for id in ("b", "a", "chatcmpl-1/../x y", "x" * 500):
            recorder = runs.recorder(request, engine.runtime, id=id)
            run(engine.runtime, Generate(engine.runtime, request).task(None, recorder))
            paths.append(recorder.path)
        assert sorted(runs.path.iterdir()) == paths
        assert [str(path.name)[23:].split(".npz")[0] for path in paths if path][1:3] == ["-a", "-chatcmpl-1-x-y"]

    def test_nothing_is_overwritten(self, engine: Engine, runs: RecordingFolder, monkeypatch: Any) -> None:
        recorder = runs.recorder(engine.request("some", max_tokens=4, seed=1), engine.runtime, id="same")
        recording = recorder.fail(ValueError("no"))
        monkeypatch.setattr(os, "link", _no_links)
        first, *others = recorder.path, recording.save(runs.path), recording.save(runs.path)
        assert first is not None
        assert sorted(runs.path.iterdir()) == sorted([first, *others])
        assert [path.stem.rsplit("-", 1)[1] for path in others] == ["2", "3"]
        assert first.read_bytes() == others[0].read_bytes() == others[1].read_bytes()

    def test_a_file_that_cannot_be_written_whole_is_not_there(
        self, engine: Engine, runs: RecordingFolder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(RecordingError, match=r"cannot be written.*No space left"):
            engine.generate("some", max_tokens=4, seed=1, record=runs)
        assert list(runs.path.iterdir()) == []

    def test_a_generation_that_is_given_up_leaves_no_file(self, engine: Engine, runs: RecordingFolder) -> None:
        generation = engine.stream("some", max_tokens=60, seed=1, record=runs)
        next(generation)
        generation.close()
        assert list(runs.path.iterdir()) == []

    def test_a_request_that_fails_is_kept_as_far_as_it_came(self, engine: Engine, runs: RecordingFolder) -> None:
        def fail(event: StepEvent) -> None:
            if event.canvas_index == 1:
                raise GenerationError("no more")

        with pytest.raises(GenerationError):
            engine.generate("some", max_tokens=60, seed=1, record=runs, on_step=fail)
        recording = Recording.load(only_file(runs))
        assert recording.result is None
        assert recording.error == {"type": "GenerationError", "message": "no more"}
        assert len(recording.events) == 5

    @pytest.mark.parametrize("name", ["runs", "runs/below"])
    def test_a_folder_that_cannot_be_made_is_refused_before_any_work(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "runs").write_text("a file")
        with pytest.raises(RecordingError, match="cannot be written to"):
            RecordingFolder(tmp_path / name)

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
    def test_a_folder_that_cannot_be_written_is_refused_before_any_work(self, tmp_path: Path) -> None:
        (tmp_path / "runs").mkdir(mode=0o500)
        with pytest.raises(RecordingError, match="cannot be written to"):
            RecordingFolder(tmp_path / "runs")

    def test_numpy_opens_it(self, engine: Engine, runs: RecordingFolder) -> None:
        engine.generate("some", max_tokens=24, seed=1, record=runs)
        with np.load(only_file(runs)) as file:
            assert file["entropy"].dtype == np.float32
            assert len(file["argmax"]) == 4 * 24
            assert json.loads(file["header.json"])["request"]["seed"] == 1


class TestDamage:
    @pytest.fixture(scope="class")
    @staticmethod
    def path(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Path:
        runs = RecordingFolder(tmp_path_factory.mktemp("runs"))
        engine.generate("some", max_tokens=10, seed=7, record=runs)
        return only_file(runs)

    @settings(max_examples=some(100), deadline=None)
    @given(data=st.data())
    def test_a_flipped_bit_is_told_or_harmless(self, path: Path, data: st.DataObject) -> None:
        content = bytearray(path.read_bytes())
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        self._told_or_harmless(path, bytes(content))

    @settings(max_examples=some(40), deadline=None)
    @given(data=st.data())
    def test_a_file_that_was_cut_is_told(self, path: Path, data: st.DataObject) -> None:
        content = path.read_bytes()
        copy = path.with_suffix(".copy")
        copy.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
        with pytest.raises(RecordingError, match=r"no recording, or is damaged"):
            Recording.load(copy)

    def _told_or_harmless(self, path: Path, content: bytes) -> None:
        copy = path.with_suffix(".copy")
        copy.write_bytes(content)
        try:
            loaded = Recording.load(copy)
        except RecordingError:
            return
        original = Recording.load(path)
        assert loaded.header == original.header
        assert all(map(same, loaded.events, original.events))

    def rewritten(self, path: Path, header: Callable[[dict[str, Any]], object], drop: str = "") -> Path:
        """The file with another header, as a whole zip."""
        copy = path.with_suffix(".other")
        with zipfile.ZipFile(path) as old, zipfile.ZipFile(copy, "w") as new:
            for name in old.namelist():
                content = old.read(name)
                if name == "header.json":
                    values = json.loads(content)
                    header(values)
                    content = json.dumps(values).encode()
                if name != drop:
                    new.writestr(name, content)
        return copy

    @pytest.mark.parametrize(
        ("header", "message"),
        [
            (lambda h: h.update(version=99), "newer redraft .format 99.*update redraft"),
            (lambda h: h.update(version="1"), "version '1' is unknown"),
            (lambda h: h.update(format="other"), "not that of a recording"),
            (lambda h: h.pop("request"), "is damaged: 'request'"),
            (lambda h: h["request"].update(seed="x"), "is damaged"),
            (lambda h: h["request"].update(draft={"is": "Draft", "tokens": "x", "survival": []}), "is damaged"),
            (lambda h: h.update(noise={"is": "Other"}), "names no noise"),
            (lambda h: h.update(noise={"is": "UniformNoise", "vocab_size": 1}), "vocab_size 1"),
            (lambda h: h.update(model=[]), "model is not an object"),
            (lambda h: h.update(decision={"is": "Reading"}), "is damaged"),
            (lambda h: h.update(decision={"is": "Hole"}), "is damaged: what it says was read is no reading"),
            (
                lambda h: h.update(
                    decision={"is": "Reading", "frame": "", "questions": 1, "temperature": 1, "power": 1}
                ),
                "is damaged: its questions",
            ),
            (lambda h: h.update(result=None), "neither a result nor an error"),
        ],
    )
    def test_a_header_that_is_not_right_is_told(self, path: Path, header: Any, message: str) -> None:
        with pytest.raises(RecordingError, match=message):
            Recording.load(self.rewritten(path, header))

    def test_a_missing_array_is_named(self, path: Path) -> None:
        with pytest.raises(RecordingError, match=r"entropy\.npy"):
            Recording.load(self.rewritten(path, lambda h: None, drop="entropy.npy"))

    @pytest.mark.parametrize("name", ["canvas", "length", "argmax", "entropy", "accepted", "finished", "tokens_in_at"])
    def test_arrays_that_do_not_fit_are_told(self, path: Path, name: str) -> None:
        recording = Recording.load(path)
        values = recording.arrays[name]
        for other in (np.append(values, values.dtype.type(1)), values.astype(np.float16), values[None]):
            arrays = {**recording.arrays, name: other}
            with pytest.raises(ValueError, match=r"fit together|dimensions"):
                read(arrays, Draws(7, UniformCorruption(UniformNoise(100)), None, 24, 4), 4)

    def test_other_files_are_told(self, folder: Path, tmp_path: Path) -> None:
        for path in (folder / "model.safetensors", folder / "config.json", tmp_path):
            with pytest.raises(RecordingError, match="no recording, or is damaged"):
                Recording.load(path)
        with pytest.raises(RecordingError, match="there is no recording"):
            Recording.load(tmp_path / "nothing.npz")
        np.savez(tmp_path / "other.npz", a=np.zeros(3))
        with pytest.raises(RecordingError, match=r"has no header\.json"):
            Recording.load(tmp_path / "other.npz")


@dataclasses.dataclass(frozen=True)
class Recorded:
    """An answer whose file is named by its request (a ``task.Runnable``), as the server's are."""

    engine: Engine
    request: Request
    runs: RecordingFolder
    id: str

    def task(self, on_step: Callable[[StepEvent], None] | None = None) -> Task[Result]:
        recorder = self.runs.recorder(self.request, self.engine.runtime, id=self.id)
        return Generate(self.engine.runtime, self.request).task(on_step, recorder)


class TestMany:
    def test_requests_that_share_forwards_are_recorded_each_for_itself(
        self, engine: Engine, runs: RecordingFolder
    ) -> None:
        live: dict[int, list[StepEvent]] = {seed: [] for seed in range(6)}
        scheduler = Scheduler(engine.runtime, max_concurrency=3)
        try:
            handles = {
                seed: scheduler.submit(
                    Recorded(engine, engine.request("some", max_tokens=60, seed=seed), runs, f"request-{seed}"),
                    on_step=live[seed].append,
                )
                for seed in live
            }
            results = {seed: handle.result(600) for seed, handle in handles.items()}
        finally:
            scheduler.close()
        recordings = [Recording.load(path) for path in sorted(runs.path.iterdir())]
        assert sorted(recording.id for recording in recordings) == [f"request-{seed}" for seed in live]
        for recording in recordings:
            seed = recording.request["seed"]
            assert recording.result is not None
            assert recording.result["text"] == results[seed].text
            assert all(map(same, recording.events, live[seed]))

    def test_a_folder_may_be_used_from_several_threads(self, engine: Engine, runs: RecordingFolder) -> None:
        request = engine.request("some", max_tokens=4, seed=1)

        def record() -> None:
            for _ in range(5):
                runs.recorder(request, engine.runtime, id="same").fail(ValueError("no"))

        threads = [threading.Thread(target=record) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len([Recording.load(path) for path in runs.path.iterdir()]) == 30

    def test_a_request_that_begins_again_is_recorded_once(self, engine: Engine) -> None:
        request = engine.request("some", max_tokens=60, seed=3)
        recorder = Recorder(request, engine.runtime)
        abandoned = engine.begin(request, recorder)
        next(abandoned)
        abandoned.close()
        live: list[StepEvent] = []
        result = engine.begin(request, recorder.begin()).result()
        engine.begin(request, live.append).result()
        assert all(map(same, recorder.finish(result).events, live))
        with pytest.raises(RuntimeError, match="recorded already"):
            recorder.fail(ValueError())


def test_only_a_loaded_engine_can_be_recorded(engine: Engine, runs: RecordingFolder) -> None:
    made = Engine(engine.model, engine.tokenizer)
    with pytest.raises(RecordingError, match=r"only an engine that redraft\.load has made"):
        made.stream("some", max_tokens=4, record=runs)


def _no_links(source: object, target: object) -> None:
    raise OSError(95, "Operation not supported")
