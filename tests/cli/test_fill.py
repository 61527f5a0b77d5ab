"""``redraft fill``: every byte before and after the gap is what it was, from options, files, a marker, a pipe."""

import json
import re
import subprocess

import pytest

from tests.cli.conftest import assert_one_line

PREFIX, SUFFIX = "a {b}\r\n\té ", "\n\u65e5 {{}} end\r\n"
ABC = ["--hole-regex", "[abc]{3}", "--seed", 7]


def filled(done) -> str:
    """The middle, after a look at what is around it."""
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(PREFIX)
    assert done.stdout.endswith(SUFFIX)
    return done.stdout[len(PREFIX) : -len(SUFFIX)]


class TestSides:
    def test_from_options(self, redraft_here, letters):
        done = redraft_here("fill", "--prefix", PREFIX, "--suffix", SUFFIX, *ABC, "-m", letters)
        assert re.fullmatch("[abc]{3}", filled(done))
        assert re.match(r"\d+ tokens in [123] denoising steps over 1 canvas", done.stderr)

    def test_from_files_a_marker_and_a_pipe_is_the_same(self, redraft_here, letters, tmp_path):
        expected = redraft_here("fill", "--prefix", PREFIX, "--suffix", SUFFIX, *ABC, "-m", letters).stdout
        before, after, both = tmp_path / "before", tmp_path / "after", tmp_path / "both"
        before.write_bytes(PREFIX.encode())
        after.write_bytes(SUFFIX.encode())
        both.write_bytes(f"{PREFIX}<FILL>{SUFFIX}".encode())
        files = redraft_here("fill", "--prefix-file", before, "--suffix-file", after, *ABC, "-m", letters)
        marked = redraft_here("fill", both, *ABC, "-m", letters)
        other = f"{PREFIX}???{SUFFIX}".encode()
        piped = redraft_here("fill", "-", "--marker", "???", *ABC, "-m", letters, stdin=other)
        assert [files.stdout, marked.stdout, piped.stdout] == [expected] * 3

    def test_a_prompt_comes_before(self, redraft_here, letters):
        done = redraft_here("fill", "--prompt", "three letters", "--suffix", "!", *ABC, "-m", letters, "--json")
        shown = json.loads(done.stdout)
        assert shown["text"] == shown["middle"] + "!"
        assert shown["usage"]["prompt_tokens"] > len("three letters")

    @pytest.mark.slow
    def test_bytes_in_a_process(self, commands, letters):
        command = [commands / "redraft", "fill", "-", "-m", str(letters), *map(str, ABC)]
        done = subprocess.run(command, input=f"{PREFIX}<FILL>{SUFFIX}".encode(), capture_output=True, timeout=600)
        assert done.returncode == 0, done.stderr
        assert re.fullmatch(re.escape(PREFIX.encode()) + b"[abc]{3}" + re.escape(SUFFIX.encode()), done.stdout)


class TestHole:
    @pytest.mark.parametrize(
        ("demand", "expected"),
        [
            (["--hole-type", "integer", "--max-length", 3], r"0|-?[1-9][0-9]{0,2}"),
            (["--hole-choice", "yes", "--hole-choice", "no"], "yes|no"),
            (["--hole-type", "word", "--min-length", 2, "--max-length", 4], r"\S{2,4}"),
            (["--min-length", 1, "--max-length", 2], r"(?s).{1,2}"),
        ],
    )
    def test_only_what_is_demanded_is_written(self, redraft_here, letters, demand, expected):
        done = redraft_here("fill", "--prefix", "a ", "--suffix", "!", "--only-middle", *demand, "-m", letters)
        assert done.returncode == 0, done.stderr
        assert re.fullmatch(expected, done.stdout), "nothing besides, not even a line end"

    def test_json_has_the_middle_and_its_cost(self, redraft_here, letters):
        done = redraft_here("fill", "--prefix", "a ", *ABC, "-m", letters, "--json")
        shown = json.loads(done.stdout)
        assert shown["text"] == "a " + shown["middle"]
        assert shown["usage"]["denoising_steps"] <= 3
        assert len(shown["log_valid"]) == 1

    def test_max_tokens_is_that_of_the_middle(self, redraft_here, letters):
        done = redraft_here(
            "fill", "--prefix", "a", "--suffix", "Z" * 20, "--max-tokens", 2, "--only-middle", "-m", letters,
            "--hole-regex", "[0-9]*",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert len(done.stdout) <= 4, "the longest tokens of digits have four"


MISTAKES = [
    pytest.param([], "nothing says what to fill", id="nothing"),
    pytest.param(["--prefix", "a", "--prefix-file", "b"], "--prefix and --prefix-file exclude", id="two prefixes"),
    pytest.param(["FILE", "--suffix", "a"], "--suffix and a file with a marker exclude", id="file and suffix"),
    pytest.param(["FILE"], "the marker '<FILL>' stands 2 times", id="two markers"),
    pytest.param(["FILE", "--marker", "|"], "the marker '|' stands 0 times", id="no marker"),
    pytest.param(["--prefix", "a", "--marker", "|"], "--marker says where FILE", id="marker without file"),
    pytest.param(["no/such.txt"], "the file no/such.txt cannot be read", id="no file"),
    pytest.param(["--suffix-file", "no/such", "--prefix", "a"], "--suffix-file no/such cannot be read", id="no suffix"),
    pytest.param(
        ["--prefix", "a", "--hole-regex", "a", "--hole-type", "word"], "--hole-regex and --hole-type exclude", id="hole"
    ),
    pytest.param(["--prefix", "a", "--min-length", 3, "--max-length", 2], "min_length 3 is above", id="lengths"),
    pytest.param(["--prefix", "a", "--hole-regex", "(a"], "regular expression, position 0", id="regex"),
    pytest.param(["--prefix", "a", "--max-tokens", 0, "--hole-regex", "a"], "max_tokens 0", id="max tokens"),
]


@pytest.mark.parametrize(("arguments", "words"), MISTAKES)
def test_mistake_is_named_in_one_line(redraft_here, letters, tmp_path, arguments, words):
    (tmp_path / "two.txt").write_text("a<FILL>b<FILL>c")
    arguments = [tmp_path / "two.txt" if argument == "FILE" else argument for argument in arguments]
    assert_one_line(redraft_here("fill", *arguments, "-m", letters), words)


def test_a_file_that_is_no_text(redraft_here, letters, tmp_path):
    (tmp_path / "image").write_bytes(b"\xff<FILL>")
    assert_one_line(redraft_here("fill", tmp_path / "image", "-m", letters), "is not UTF-8 text: 'utf-8' codec")
    assert_one_line(redraft_here("fill", "-", "-m", letters, stdin=b"\xff"), "standard input is not UTF-8")
