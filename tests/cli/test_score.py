"""``redraft score``: tables for people, JSON for programs, texts from arguments, files and pipes."""

import json

from tests.cli.conftest import assert_one_line


def test_a_text_is_shown_token_by_token(redraft_here, letters):
    done = redraft_here("score", "--raw", "hello", "--text", " there", "--top", 2, "-m", letters)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["token", "nats", "greedy", "likeliest"]
    shown = json.loads(redraft_here("score", "--raw", "hello", "--text", " there", "--json", "-m", letters).stdout)
    (score,) = shown["scores"]
    rows = [line.split() for line in lines[1 : 1 + len(score["token_ids"])]]
    assert [int(row[0]) for row in rows] == score["token_ids"]
    assert f"{score['log_likelihood']:.4f}" in lines[-1]
    assert "logprobs" not in score, "what was not asked for is left out"


def test_several_texts_from_arguments_files_and_a_pipe_are_compared(redraft_here, letters, tmp_path):
    (tmp_path / "text").write_text(" rat\n")
    arguments = ("--raw", "hello", "--text", " cat", "--text-file", tmp_path / "text", "--text-file", "-")
    done = redraft_here("score", *arguments, "--json", "-m", letters, stdin=b" dog")
    scores = json.loads(done.stdout)["scores"]
    assert [one["text"] for one in scores] == [" cat", " rat\n", " dog"]
    alone = redraft_here("score", "--raw", "hello", "--text", " dog", "--json", "-m", letters)
    assert json.loads(alone.stdout)["scores"][0]["log_likelihood"] == scores[2]["log_likelihood"]
    table = redraft_here("score", *arguments, "-m", letters, stdin=b" dog").stdout.splitlines()
    assert len(table) == 4, "a head, and a row a text"
    assert r"' rat\n'" in table[2]


def test_what_is_wrong_is_one_line(redraft_here, letters):
    for arguments, said in (
        (("hello",), "there is no text to score"),
        (("hello", "--text", ""), "text 1 is empty"),
        (("hello", "--text", "a", "--samples", 3), "samples is for bound='monte_carlo'"),
        (("hello", "--text", "a", "--bound", "exact"), "bound 'exact' must be 'monte_carlo'"),
        (("--raw", "th", "--text", "e"), "make the token 'the' together"),
    ):
        done = redraft_here("score", *arguments, "-m", letters)
        assert_one_line(done, said)
