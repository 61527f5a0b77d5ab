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


def lines(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_file_is_scored_line_by_line_and_gone_on_with(redraft_here, letters, tmp_path):
    """Each line has the score that it has alone; what is there already is not computed again."""
    asked = [
        {"prompt": "hello", "text": " there"},
        {"id": "b", "prompt": "hello", "text": " cat"},
        {"id": "c", "prompt": "th", "text": "e"},
    ]
    batch, out = tmp_path / "texts.jsonl", tmp_path / "scores.jsonl"
    batch.write_text("".join(json.dumps(line) + "\n" for line in asked))
    command = ("score", "--raw", "--batch", batch, "--top", 2, "-m", letters, "--out", out)
    done = redraft_here(*command)
    assert done.returncode == 1, done.stderr
    assert "1 line of" in done.stderr
    first, second, third = found = lines(out.read_text())
    assert [one["id"] for one in found] == ["1", "b", "c"]
    assert "make the token 'the' together" in third["error"]["message"]
    for one, line in ((first, asked[0]), (second, asked[1])):
        alone = redraft_here("score", "--raw", line["prompt"], "--text", line["text"], "--json", "-m", letters)
        (score,) = json.loads(alone.stdout)["scores"]
        assert (one["text"], one["log_likelihood"]) == (line["text"], score["log_likelihood"])
        assert one["token_logprobs"] == score["token_logprobs"]
        assert [len(place["top"]) for place in one["logprobs"]] == [2] * len(one["token_ids"])
    written = out.read_text().splitlines(keepends=True)
    out.write_text(written[0] + written[1][:30])
    again = redraft_here(*command)
    assert "1 score in" in again.stderr
    assert [one["id"] for one in lines(out.read_text())] == ["1", "b", "c"]
    batch.write_text(json.dumps({"prompt": "hello", "text": " dog"}) + "\n")
    assert_one_line(redraft_here(*command), "scores.jsonl:1 answers another prompt than line '1'")


def test_a_bound_is_estimated_line_by_line(redraft_here, letters):
    """A model without a mask has none, and says so for every line."""
    text = json.dumps({"prompt": "hello", "text": " cat"}).encode()
    done = redraft_here("score", "--raw", "--batch", "-", "--bound", "monte_carlo", "-m", letters, stdin=text)
    assert done.returncode == 1
    assert "is for families whose noise is a mask" in lines(done.stdout)[0]["error"]["message"]


def test_what_is_wrong_with_a_file_is_told_before_a_model_is_looked_for(redraft_here, tmp_path):
    batch = tmp_path / "texts.jsonl"
    for written, more, said in (
        ('{"prompt": "a"}', (), ":1: a line has 'text'"),
        ('{"prompt": "a", "text": ""}', (), ":1: text '' must be some text"),
        ('{"prompt": "a", "text": [1, "b"]}', (), "must be some text, or a list of token ids"),
        ('{"prompt": "a", "text": "b", "seed": 1}', (), "'seed' is not read here"),
        ('{"prompt": "a", "text": "b"}', ("--text", "c"), "--batch takes prompts and texts from its file"),
        ('{"prompt": "a", "text": "b"}', ("--samples", 3), "samples is for bound='monte_carlo'"),
    ):
        batch.write_text(written)
        assert_one_line(redraft_here("score", "--batch", batch, "-m", "no-such-model", *more), said)
    assert_one_line(redraft_here("score", "a", "--text", "b", "--out", batch), "--out is for --batch")
