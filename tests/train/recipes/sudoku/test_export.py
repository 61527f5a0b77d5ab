"""An exported model is a checkpoint like any other: ours and transformers' read it, and its template takes puzzles."""

from pathlib import Path

import numpy as np
import pytest
import torch

from redraft import RequestError, StepEvent
from redraft.loading import load
from redraft.models.tokenizer import ChatTokenizer
from redraft.train.recipes.sudoku import layout
from redraft.train.recipes.sudoku.evaluate import as_text, from_text
from redraft.train.recipes.sudoku.export import DEFAULTS, export
from redraft.train.recipes.sudoku.model import SudokuShape, build, materialise
from redraft.train.recipes.sudoku.puzzles import generate
from tests.random_checkpoint import reference_model

PUZZLES = generate(3, (30, 35), seed=3)
FLAT = "".join(as_text(PUZZLES.boards[0]).split())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sudoku")
    export(materialise(build(SudokuShape(layers=2), seed=0)), path, DEFAULTS, torch.bfloat16)
    return path


def chat(folder: Path, content: object, role: str = "user") -> list[int]:
    return ChatTokenizer.from_folder(folder).encode_chat([{"role": role, "content": content}])


@pytest.mark.parametrize(
    "written",
    [
        FLAT,
        FLAT.replace(".", "0"),
        as_text(PUZZLES.boards[0]),
        " | ".join(FLAT[i : i + 3] for i in range(0, 81, 3)) + "\n------+-------+------\r\n",
        [{"type": "text", "text": FLAT[:40]}, {"type": "text", "text": FLAT[40:]}],
    ],
    ids=["81 characters", "zeros", "nine lines", "a drawn grid", "parts"],
)
def test_a_pasted_puzzle_becomes_the_cell_tokens_of_training(folder: Path, written: object) -> None:
    assert chat(folder, written) == layout.prompt_tokens(PUZZLES.boards[:1])[0].tolist()


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (FLAT[:80], "has 81 cells; this text has 80"),
        (FLAT + "1", "this text has 82"),
        ("", "this text has 0"),
        (FLAT[:80] + "x", "found 'x'"),
        pytest.param("." * 100_000, "this text has 100000 characters", id="refused without reading it"),
    ],
)
def test_what_is_no_puzzle_is_refused_in_words(folder: Path, written: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        chat(folder, written)


def test_a_system_message_is_refused_not_ignored(folder: Path) -> None:
    with pytest.raises(RequestError, match="a system message has no effect"):
        chat(folder, "be nice", role="system")


def test_answers_decode_to_nine_lines_and_back(folder: Path) -> None:
    tokenizer = ChatTokenizer.from_folder(folder)
    answer = layout.answer_tokens(PUZZLES.solutions[:1])[0].tolist()
    text = tokenizer.decode(answer[:-1])
    assert text == as_text(PUZZLES.solutions[0])
    assert np.array_equal(from_text(text), PUZZLES.solutions[0])
    assert tokenizer.encode(text) == [layout.BOS, *answer[:-1]]


@pytest.mark.parametrize("text", ["", "123", "1" * 81, "\n".join(["12345678x"] * 9), "\n".join(["123456789"] * 8)])
def test_what_is_no_board_reads_as_blank(text: str) -> None:
    assert not from_text(text).any()


def test_transformers_reads_the_folder_and_agrees(folder: Path) -> None:
    """Every weight is found (the vision tower aside, which it makes up), logits and token ids are the same."""
    from transformers import AutoTokenizer

    reference, engine = reference_model(folder), load(folder)
    prompt = layout.prompt_tokens(PUZZLES.boards[:1])
    seen: list[StepEvent] = []
    engine.generate(prompt[0].tolist(), max_tokens=1, seed=1, max_denoising_steps=1, on_step=seen.append)
    with torch.no_grad():
        theirs = reference(input_ids=prompt, decoder_input_ids=seen[0].tokens_in[None]).logits[0]
    entropy = torch.distributions.Categorical(logits=theirs / seen[0].temperature).entropy()
    torch.testing.assert_close(seen[0].entropy, entropy, atol=1e-4, rtol=0)
    words = AutoTokenizer.from_pretrained(folder)
    rendered = words.apply_chat_template([{"role": "user", "content": FLAT}], tokenize=False)
    assert words.encode(rendered, add_special_tokens=False) == prompt[0].tolist()
