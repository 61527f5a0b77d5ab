"""``redraft generate`` as a user meets it: prompts from three places, JSON, seeds, and mistakes in one line."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import get_args

import jsonschema
import pytest
import torch
from safetensors.torch import load_file, save_file

import redraft
from redraft.api import Generation
from redraft.cli.constraints import HoleTypeOption, WhitespaceOption
from redraft.cli.options import Effort, Mode, Verify
from redraft.constrain.language.json.text import Whitespace
from redraft.constrain.language.template import HoleType
from redraft.engine.request import Verify as EngineVerify
from redraft.engine.result import Chunk, Result
from redraft.engine.thinking import ReasoningEffort
from redraft.loading import load
from redraft.models.base import GenerationMode
from tests.cli.conftest import assert_one_line
from tests.cli.terminal import run_in_terminal, screen
from tests.random_checkpoint import random_checkpoint

PROMPT = "w20 w21 w22"
ROOM = 512
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
    },
    "required": ["name", "age"],
}


@pytest.fixture(scope="module")
def answer(redraft, model) -> subprocess.CompletedProcess[str]:
    """One answer as JSON, which many tests look at."""
    return redraft("generate", PROMPT, "-m", model, "--max-tokens", 20, "--seed", 7, "--json")


@pytest.fixture(scope="module")
def expected(model) -> Result:
    """The same answer in Python."""
    return load(model).generate([{"role": "user", "content": PROMPT}], max_tokens=20, seed=7)


@pytest.mark.slow
class TestInAProcess:
    def test_json_has_the_answer_and_its_cost(self, answer, model):
        assert answer.returncode == 0, answer.stderr
        result = json.loads(answer.stdout)
        assert len(result["token_ids"]) == result["usage"]["completion_tokens"] == 20
        named = json.loads((model / "tokenizer.json").read_text())["added_tokens"]
        special = {token["id"] for token in named if token["special"]}
        assert result["text"] == " ".join(f"w{i}" for i in result["token_ids"] if i not in special)
        assert (result["finish_reason"], result["seed"]) == ("length", 7)
        usage = result["usage"]
        assert (usage["prompt_tokens"], usage["canvases"], usage["denoising_steps"]) == (9, 3, 12)
        assert 0 < usage["time_to_first_token"] <= usage["seconds"]
        assert usage["tokens_per_step"] == pytest.approx(20 / 12)

    def test_cost_and_canvases_that_did_not_converge_are_told(self, answer):
        assert not json.loads(answer.stdout)["converged"]
        assert "20 tokens in 12 denoising steps over 3 canvases" in answer.stderr
        assert "warning: canvases 0, 1, 2 hit the step limit" in answer.stderr
        assert "--max-denoising-steps" in answer.stderr

    def test_pipe_and_seed_give_the_same_answer_in_another_process(self, redraft, model, answer):
        # --watch draws nothing where there is no terminal.
        piped = redraft("generate", "-m", model, "--max-tokens", 20, "--seed", 7, "--watch", stdin=PROMPT)
        assert piped.returncode == 0, piped.stderr
        assert piped.stdout == json.loads(answer.stdout)["text"] + "\n"
        assert "\x1b" not in piped.stdout + piped.stderr

    def test_a_mistake_is_one_line_and_no_traceback(self, redraft, model):
        failed = redraft("generate", PROMPT, "-m", model, "--max-tokens", 0)
        assert (failed.returncode, failed.stdout) == (1, "")
        assert failed.stderr == "redraft: max_tokens 0 is out of range; it must be 1 or more\n"

    def test_a_reader_that_went_away_meets_no_traceback(self, commands, model):
        command = [commands / "redraft", "generate", PROMPT, "-m", model, "--max-tokens", "8"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        with process.stderr as errors:
            assert "Traceback" not in errors.read()
        process.wait(600)

    @pytest.fixture(scope="class")
    @staticmethod
    def watched(commands, model) -> tuple[int, str]:
        environment = {**os.environ, "CI": "1", "TERM": "xterm-256color", "COLUMNS": "200", "LINES": "50"}
        for name in ("NO_COLOR", "FORCE_COLOR"):
            environment.pop(name, None)
        command = [commands / "redraft", "generate", PROMPT, "-m", model, "--max-tokens", 20, "--seed", 7, "--watch"]
        return run_in_terminal(list(map(str, command)), environment)

    def test_watching_draws_colours(self, watched):
        code, written = watched
        assert code == 0
        assert "\x1b[32m" in written, "accepted positions are green"
        assert "\x1b[2m" in written, "unsettled positions are dim"
        assert "canvas 0, step 1 of at most 4," in written
        assert "canvas 2, step 4 of at most 4," in written

    def test_watching_leaves_the_answer_on_the_screen(self, watched, answer):
        lines = screen(watched[1])
        assert json.loads(answer.stdout)["text"] in lines
        assert not any("mean entropy" in line for line in lines), "the drawing is gone at the end"


class TestPrompt:
    def test_from_a_file(self, redraft_here, model, tmp_path, expected):
        path = tmp_path / "prompt.txt"
        path.write_text(PROMPT)
        read = redraft_here("generate", "--file", path, "-m", model, "--max-tokens", 20, "--seed", 7, "--json")
        assert tuple(json.loads(read.stdout)["token_ids"]) == expected.token_ids

    def test_raw_is_not_a_chat_message(self, redraft_here, model):
        raw = redraft_here("generate", PROMPT, "--raw", "-m", model, "--max-tokens", 4, "--json")
        assert json.loads(raw.stdout)["usage"]["prompt_tokens"] == 4

    def test_another_seed_gives_another_answer(self, redraft_here, model, expected):
        other = redraft_here("generate", PROMPT, "-m", model, "--max-tokens", 20, "--seed", 8, "--json")
        assert tuple(json.loads(other.stdout)["token_ids"]) != expected.token_ids

    def test_stop_ends_the_answer(self, redraft_here, model, expected):
        words = expected.text.split()
        stopped = redraft_here(
            "generate", PROMPT, "-m", model, "--max-tokens", 20, "--seed", 7, "--json", "--stop", words[2] + " "
        )
        result = json.loads(stopped.stdout)
        assert result["finish_reason"] == "stop"
        assert result["text"].split() == words[: words.index(words[2])]


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("schema") / "person.json"
    path.write_text(json.dumps(SCHEMA))
    return path


def constrained(redraft_here, letters, *arguments):
    done = redraft_here("generate", "who?", "-m", letters, "--max-tokens", 60, "--seed", 7, *arguments)
    assert done.returncode == 0, done.stderr
    return done


class TestConstraint:
    def test_schema(self, redraft_here, letters, schema):
        done = constrained(redraft_here, letters, "--schema", schema)
        jsonschema.validate(json.loads(done.stdout), SCHEMA)
        assert ", log P(valid) -" in done.stderr
        assert done.stderr.splitlines()[0].endswith("finish: stop")

    def test_white_space_of_json(self, redraft_here, letters, schema):
        done = constrained(redraft_here, letters, "--schema", schema, "--whitespace", "one-space", "--depth", 2)
        assert done.stdout == json.dumps(json.loads(done.stdout), ensure_ascii=False) + "\n"
        assert '": ' in done.stdout

    def test_regex(self, redraft_here, letters):
        done = constrained(redraft_here, letters, "--regex", r"[a-f]{3}-\d+")
        assert re.fullmatch(r"[a-f]{3}-[0-9]+\n", done.stdout)

    def test_choice(self, redraft_here, letters):
        done = constrained(redraft_here, letters, "--choice", "the one", "--choice", "-2")
        assert done.stdout in ("the one\n", "-2\n")

    def test_json_says_how_likely_a_valid_answer_was(self, redraft_here, letters):
        shown = json.loads(constrained(redraft_here, letters, "--choice", "yes", "--choice", "no", "--json").stdout)
        assert shown["text"] in ("yes", "no")
        assert len(shown["log_valid"]) == 1
        assert shown["log_valid"][0] < 0
        assert not {"thought", "verified"} & set(shown), "what was not asked for is not there"

    def test_json_without_a_constraint_has_nothing_to_say_of_validity(self, redraft_here, model):
        done = redraft_here("generate", PROMPT, "-m", model, "--max-tokens", 4, "--json")
        assert "log_valid" not in json.loads(done.stdout)
        assert "P(valid)" not in done.stderr

    def test_candidates_cost_their_steps(self, redraft_here, letters):
        counts = [
            json.loads(
                constrained(
                    redraft_here,
                    letters,
                    "--regex",
                    "[a-z]{9}",
                    "--best-of",
                    best,
                    "--max-denoising-steps",
                    1,
                    "--json",
                ).stdout
            )["usage"]["denoising_steps"]
            for best in (1, 3)
        ]
        assert counts == [1, 3]

    def test_a_thought_is_not_part_of_the_answer(self, redraft_here, letters):
        # With this seed the random model begins with a thought.
        asked = ["generate", "who?", "-m", letters, "--seed", 1, "--max-tokens", 60, "--thinking"]
        asked += ["--choice", "yes", "--choice", "no"]
        done, shown = redraft_here(*asked), json.loads(redraft_here(*asked, "--json").stdout)
        assert done.stdout == shown["text"] + "\n"
        assert shown["text"] in ("yes", "no")
        assert shown["thought"]
        thought, cost = done.stderr[: len(shown["thought"])], done.stderr[len(shown["thought"]) :]
        assert thought == shown["thought"]
        assert re.match(r"\n\d+ tokens in", cost)

    @pytest.mark.slow
    def test_watching_works_too(self, commands, letters):
        environment = {**os.environ, "CI": "1", "TERM": "xterm-256color", "COLUMNS": "200", "LINES": "50"}
        command = [commands / "redraft", "generate", "who?", "-m", letters, "--seed", 7, "--watch", "--best-of", 2]
        command += ["--choice", "yes", "--choice", "no"]
        code, written = run_in_terminal(list(map(str, command)), environment)
        assert code == 0, written
        assert {"yes", "no"} & set(screen(written))


CONSTRAINT_MISTAKES = [
    (["--regex", "a", "--choice", "b"], "--regex and --choice exclude each other"),
    (["--schema", "SCHEMA", "--regex", "a", "--choice", "b"], "--schema and --regex and --choice exclude each other"),
    (["--schema", "no/such.json"], "the file of --schema no/such.json cannot be read"),
    (["--whitespace", "free"], "--whitespace says how JSON is written"),
    (["--depth", 3, "--regex", "a"], "--depth says how JSON is written"),
    (["--schema", "SCHEMA", "--depth", 99], "depth 99 must be"),
    (["--regex", "(a"], "regular expression, position 0"),
    (["--regex", "a{9}", "--max-tokens", 8], "max_tokens 8 is too small for the constraint"),
    (["--best-of", 0], "best_of 0"),
]


@pytest.mark.parametrize(("arguments", "words"), CONSTRAINT_MISTAKES)
def test_mistake_in_a_constraint_is_named_in_one_line(redraft_here, letters, schema, arguments, words):
    arguments = [schema if argument == "SCHEMA" else argument for argument in arguments]
    assert_one_line(redraft_here("generate", "who?", "-m", letters, *arguments), words)


@pytest.mark.parametrize(("written", "words"), [("{", "schema: not JSON at line 1"), ('{"type": "date"}', "'type'")])
def test_mistake_in_a_schema(redraft_here, letters, tmp_path, written, words):
    (tmp_path / "schema.json").write_text(written)
    assert_one_line(redraft_here("generate", "who?", "-m", letters, "--schema", tmp_path / "schema.json"), words)


def test_a_model_that_has_no_markers_cannot_think(redraft_here, model):
    assert_one_line(redraft_here("generate", PROMPT, "-m", model, "--thinking"), "cannot think")


def test_what_contradicts_itself_about_thinking_is_refused_before_a_model_is_loaded(redraft_here):
    for verb in ("generate", "chat"):
        asked = [verb, *(["who?"] if verb == "generate" else []), "-m", "no/such/model", "--thinking-budget", 5]
        assert_one_line(redraft_here(*asked, "--reasoning-effort", "none"), "thinking_budget asks for a thought")


def test_efforts_are_those_that_there_are():
    assert [effort.value for effort in Effort] == list(get_args(ReasoningEffort))


def test_hole_types_are_those_that_there_are():
    assert [kind.value for kind in HoleTypeOption] == list(get_args(HoleType))
    assert [kind.value for kind in WhitespaceOption] == list(get_args(Whitespace))


# What no model could honour is said before one is looked for.
BEFORE_LOADING = [
    ["--seed", -1],
    ["--max-tokens", 0],
    ["--temperature", "nan"],
    ["--max-denoising-steps", 0],
    ["--canvas-length", 0],
    ["--best-of", 0],
    ["--entropy-bound", -1],
    ["--confidence-threshold", 2],
    ["--stop", ""],
    ["--regex", "("],
    ["--record", "/dev/null/runs"],
    ["--out", "answers.jsonl"],
    ["--system", "Be brief.", "--raw"],
]


@pytest.mark.parametrize("arguments", BEFORE_LOADING)
def test_a_mistake_comes_before_the_model(redraft_here, arguments):
    failed = redraft_here("generate", PROMPT, *arguments, "-m", "no-such-model")
    assert (failed.returncode, failed.stdout) == (1, "")
    assert "no-such-model" not in failed.stderr


class TestStandardInput:
    def ids(self, done):
        assert done.returncode == 0, done.stderr
        return tuple(json.loads(done.stdout)["token_ids"])

    @pytest.mark.parametrize("given", [[], ["-"], ["--file", "-"]])
    def test_is_the_prompt(self, redraft_here, model, expected, given):
        arguments = [*given, "-m", model, "--max-tokens", 20, "--seed", 7, "--json"]
        assert self.ids(redraft_here("generate", *arguments, stdin=PROMPT.encode())) == expected.token_ids

    def test_is_read_once(self, redraft_here):
        failed = redraft_here("generate", "-", "--schema", "-", "-m", "no-such-model", stdin=b"{}")
        assert_one_line(failed, "standard input was read as the file of --schema already; give the prompt by a file")

    def test_that_is_no_text_is_one_line(self, redraft_here):
        for verb in (["generate"], ["choose", "--option", "a", "--option", "b"], ["edit", "-", "--span", "0:1"]):
            failed = redraft_here(*verb, "-m", "no-such-model", stdin=b"\xff\xfe\x00")
            assert_one_line(failed, "standard input is not UTF-8 text")

    @pytest.mark.slow
    def test_a_pipe_beside_a_prompt_comes_behind_it(self, redraft, model):
        asked = ["-m", model, "--max-tokens", 20, "--seed", 7, "--json"]
        both = redraft("generate", "w20 w21", *asked, stdin="w22")
        whole = load(model).generate([{"role": "user", "content": "w20 w21\n\nw22"}], max_tokens=20, seed=7)
        assert self.ids(both) == whole.token_ids


def test_a_system_message_comes_first(redraft_here, model):
    done = redraft_here("generate", PROMPT, "--system", "w30", "-m", model, "--max-tokens", 4, "--seed", 7, "--json")
    messages = [{"role": "system", "content": "w30"}, {"role": "user", "content": PROMPT}]
    assert tuple(json.loads(done.stdout)["token_ids"]) == load(model).generate(messages, max_tokens=4, seed=7).token_ids


def test_quiet_says_nothing_beside_the_answer_and_verbose_what_was_loaded(redraft_here, letters):
    asked = ["generate", "who?", "-m", letters, "--choice", "a", "--seed", 1, "--max-denoising-steps", 30]
    quiet, verbose = redraft_here(*asked, "-q"), redraft_here(*asked, "--verbose")
    assert quiet.stdout == "a\n"
    assert all(line.startswith("warning: ") for line in quiet.stderr.splitlines())
    assert f"loaded {letters} ({letters}) as float32 on cpu" in verbose.stderr
    assert_one_line(redraft_here(*asked, "-q", "-v"), "--verbose and --quiet exclude each other")


@pytest.mark.parametrize("as_json", [False, True])
def test_ctrl_c_keeps_what_was_written(redraft_here, model, expected, monkeypatch, as_json):
    """Pressed after the second of three canvases."""
    real = Generation.__next__
    seen: list[Chunk] = []

    def interrupted(generation):
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(real(generation))
        return seen[-1]

    monkeypatch.setattr(Generation, "__next__", interrupted)
    asked = ["generate", PROMPT, "-m", model, "--max-tokens", 20, "--seed", 7, *(["--json"] if as_json else [])]
    done = redraft_here(*asked)
    assert done.returncode == 130
    written = "".join(chunk.text for chunk in seen)
    assert expected.text.startswith(written)
    assert written
    if as_json:
        shown = json.loads(done.stdout)
        assert (shown["text"], shown["finish_reason"], shown["seed"]) == (written, "interrupted", 7)
        assert shown["usage"] == {"completion_tokens": 16, "canvases": 2, "denoising_steps": 8}
    else:
        assert done.stdout == written + "\n"
    assert "interrupted: 16 tokens in 8 denoising steps over 2 finished canvases, seed 7" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that Linux has")
def test_an_output_without_room_is_one_line(commands, model):
    command = [commands / "redraft", "generate", PROMPT, "-m", model, "--max-tokens", "8", "-q"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "redraft: what was to be written could not be: No space left on device"
    assert "Traceback" not in done.stderr


MISTAKES = [
    pytest.param([PROMPT, "--device", "cuda:99"], "device 'cuda:99' cannot be used", id="no such device"),
    pytest.param([PROMPT, "--device", "warp"], "device 'warp' is unknown; choose one of auto", id="unknown device"),
    pytest.param(["w20 \udcff"], "has half a character at", id="half a character"),
    pytest.param([PROMPT, "--max-tokens", 0], "max_tokens 0", id="no tokens"),
    pytest.param([PROMPT, "--max-tokens", 10**9], f"at most {ROOM - 9} would fit", id="huge max_tokens"),
    pytest.param(["w20 " * ROOM], f"the context holds {ROOM}; shorten", id="prompt longer than the context"),
    pytest.param(["", "--raw"], "the prompt is empty", id="empty raw prompt"),
    pytest.param(
        [""],
        "the prompt is empty",
        id="empty prompt",
    ),
    pytest.param(["unheard-of"], "no tokens for this text", id="unknown text"),
    pytest.param(["w20 <image>", "--raw"], "stands for an image", id="image"),
    pytest.param([PROMPT, "--temperature", -1], "temperature -1.0 must be", id="negative temperature"),
    pytest.param([PROMPT, "--temperature", "nan"], "temperature nan must be", id="temperature nan"),
    pytest.param([PROMPT, "--seed", -1], "seed -1", id="seed"),
    pytest.param([PROMPT, "--canvas-length", 9], "canvas_length 9", id="canvas length"),
    pytest.param([PROMPT, "--stop", ""], "stop", id="empty stop"),
    pytest.param([PROMPT, "--dtype", "int3"], "dtype 'int3' is not supported", id="dtype"),
    pytest.param([PROMPT, "--file", "prompt.txt"], "not both", id="two prompts"),
    pytest.param(["--file", "no/such/prompt.txt"], "no/such/prompt.txt cannot be read", id="no such file"),
]


@pytest.mark.parametrize(("arguments", "words"), MISTAKES)
def test_mistake_is_named_in_one_line(redraft_here, model, arguments, words):
    assert_one_line(redraft_here("generate", *arguments, "-m", model), words)


@pytest.mark.parametrize("name", ["no-such-model", "owner/no-such-model", "no/such/folder"])
def test_missing_model(redraft_here, name):
    assert_one_line(redraft_here("generate", PROMPT, "-m", name), name)


def test_missing_shard(redraft_here, tmp_path):
    folder = random_checkpoint(tmp_path, shard_bytes=20_000)
    shard = sorted(folder.glob("model-*.safetensors"))[-1]
    shard.unlink()
    assert_one_line(redraft_here("generate", PROMPT, "-m", folder), shard.name)


@pytest.mark.parametrize(
    "name", ["model.decoder.norm.weight", "model.decoder.embed_tokens.weight", "model.decoder.layers.0.layer_scalar"]
)
def test_a_weight_that_is_not_a_number_yields_no_answer(redraft_here, model, tmp_path, name):
    folder = Path(shutil.copytree(model, tmp_path / "damaged"))
    tensors = load_file(folder / "model.safetensors")
    tensors[name].view(-1)[-1] = torch.nan
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert_one_line(redraft_here("generate", PROMPT, "-m", folder, "--max-tokens", 8), "not a number")


@pytest.mark.parametrize(
    "arguments", [["--no-such-option"], ["--max-tokens", "many"], ["--temperature", "hot"], ["a", "b"]]
)
def test_a_mistake_of_usage_exits_with_2(redraft_here, arguments):
    failed = redraft_here("generate", *arguments)
    assert (failed.returncode, failed.stdout) == (2, "")
    assert "Usage: " in failed.stderr
    assert "generate --help" in failed.stderr


def test_sampling_parameters_are_the_engines(redraft_here, model):
    given: tuple[object, ...] = (
        "--top-p",
        0.9,
        "--top-k",
        9,
        "--min-p",
        0.01,
        "--logit-bias",
        "40=3",
        "--logit-bias",
        "41=-2",
    )
    given += ("--presence-penalty", 0.5, "--frequency-penalty", 0.25, "--repetition-penalty", 1.2)
    given += ("--min-tokens", 3, "--ignore-eos", "--stop-token-id", 50, "--max-tokens", 20, "--seed", 7)
    answer = redraft_here("generate", PROMPT, "-m", model, "--json", *given)
    assert answer.returncode == 0, answer.stderr
    expected = load(model).generate(
        [{"role": "user", "content": PROMPT}], max_tokens=20, seed=7, top_p=0.9, top_k=9, min_p=0.01,
        logit_bias={40: 3.0, 41: -2.0}, presence_penalty=0.5, frequency_penalty=0.25, repetition_penalty=1.2,
        min_tokens=3, ignore_eos=True, stop_token_ids=[50],
    )  # fmt: skip
    assert json.loads(answer.stdout)["token_ids"] == list(expected.token_ids)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--top-p", 2], "top_p 2.0 must be a number from 0 to 1"),
        (["--logit-bias", "a=b"], "--logit-bias 'a=b' is no ID=BIAS"),
        (["--logit-bias", "4=101"], "logit_bias of token 4 101.0 must be"),
        (["--frequency-penalty", 3], "frequency_penalty 3.0 must be"),
        (["--min-tokens", -1], "min_tokens -1 must be"),
    ],
)
def test_a_sampling_parameter_out_of_range_is_named_before_a_model_is_loaded(redraft_here, arguments, words):
    assert_one_line(redraft_here("generate", PROMPT, "-m", "no/such-folder", *arguments), words)


class TestDraft:
    """``--draft``: the canvas starts from a text."""

    @pytest.fixture
    def draft(self, tmp_path):
        path = tmp_path / "draft.txt"
        path.write_text("some text\n")
        return path

    def test_the_answer_is_that_of_python(self, redraft_here, letters, draft):
        options = ["generate", "abc", "-m", letters, "--seed", 3, "--max-tokens", 12, "--max-denoising-steps", 2]
        shown = json.loads(redraft_here(*options, "--draft", draft, "--survival", 0.5, "--json").stdout)
        with load(letters) as engine:
            tokens = torch.tensor(
                [*engine.tokenizer.encode_text("some text"), *engine.model.defaults.end_token_ids[:1]]
            )
            given = redraft.Draft(tokens, torch.full((len(tokens),), 0.5, dtype=torch.float64))
            asked = [{"role": "user", "content": "abc"}]
            expected = engine.generate(asked, draft=given, seed=3, max_tokens=12, max_denoising_steps=2)
        assert shown["token_ids"] == list(expected.token_ids)
        assert shown["token_ids"] != json.loads(redraft_here(*options, "--json").stdout)["token_ids"]

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (["--survival", 0.5], "--survival is of a draft"),
            (["--draft", "no/such"], "the draft no/such cannot be read"),
            (["--draft", "/dev/null"], "the draft is empty"),
            (["--draft", "/dev/null", "--survival", 2], "--survival 2.0 must be a probability"),
        ],
    )
    def test_what_is_no_draft_is_refused_before_a_model_is_looked_for(self, redraft_here, options, words):
        assert_one_line(redraft_here("generate", "abc", "-m", "no/such", *options), words)


@pytest.mark.slow
class TestModes:
    def test_a_mode_writes_as_it_does_in_python_and_says_what_it_cost(self, redraft, model):
        engine = load(model)
        question = [{"role": "user", "content": PROMPT}]
        expected = engine.generate(question, mode="autoregressive", max_tokens=9, seed=7)
        asked = ("generate", PROMPT, "-m", model, "--max-tokens", 9, "--seed", 7, "--mode")
        done = redraft(*asked, "autoregressive")
        assert done.returncode == 0, done.stderr
        assert done.stdout == expected.text + "\n"
        assert re.match(rf"{len(expected.token_ids)} tokens? in {expected.usage.forwards} forwards", done.stderr)
        shown = json.loads(redraft(*asked, "speculative", "--json").stdout)
        assert shown["token_ids"] == list(expected.token_ids)
        assert shown["usage"]["forwards"] > shown["usage"]["denoising_steps"] > 0

    def test_what_a_mode_cannot_honour_is_refused_before_a_model_is_loaded(self, redraft, tmp_path):
        for more, named in (
            (("--max-denoising-steps", 3), "max_denoising_steps"),
            (("--best-of", 2), "best_of"),
            (("--confidence-threshold", 0.9), "acceptance"),
            (("--verify", "causal"), "verify"),
            (("--watch",), "--watch"),
            (("--record", tmp_path / "kept"), "--record"),
        ):
            done = redraft("generate", PROMPT, "-m", tmp_path / "none", "--mode", "autoregressive", *more)
            assert_one_line(done, named)
            assert "autoregressive" in done.stderr

    def test_verify_denoises_again_what_the_causal_rows_find_unlikely(self, redraft, model):
        expected = load(model).generate(
            [{"role": "user", "content": PROMPT}], max_tokens=9, seed=7, verify="causal", verify_threshold=0.02
        )
        more = ("--verify", "causal", "--verify-threshold", 0.02, "--json")
        done = redraft("generate", PROMPT, "-m", model, "--max-tokens", 9, "--seed", 7, *more)
        shown = json.loads(done.stdout)
        assert shown["token_ids"] == list(expected.token_ids)
        assert shown["verified"] == expected.verified


def test_the_words_of_modes_and_verifiers_are_the_engines() -> None:
    assert [one.value for one in Mode] == list(get_args(GenerationMode))
    assert [one.value for one in Verify] == list(get_args(EngineVerify))
