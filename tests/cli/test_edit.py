"""``redraft edit``: only what is named is rewritten, where the text went and what changed are told."""

import json
import os
import re
import subprocess

import pytest

from tests.cli.conftest import assert_one_line

BEFORE, OLD, BETWEEN, AGAIN, AFTER = "Dear é,\r\n", "cat", " and ", "dog", "\tare here: dog\n\n"
TEXT = BEFORE + OLD + BETWEEN + AGAIN + AFTER
AT = len(BEFORE)
ABC = ["--hole-regex", "[abc]{3}", "--seed", 7]


@pytest.fixture
def letter(tmp_path):
    path = tmp_path / "letter.txt"
    path.write_bytes(TEXT.encode())
    return path


class TestSpans:
    def test_the_rest_stays_to_the_byte(self, redraft_here, letters, letter):
        done = redraft_here("edit", letter, "--span", f"{AT}:{AT + 3}", *ABC, "-m", letters)
        assert done.returncode == 0, done.stderr
        assert re.fullmatch(re.escape(BEFORE) + "[abc]{3}" + re.escape(BETWEEN + AGAIN + AFTER), done.stdout)
        new = done.stdout[AT : AT + 3]
        assert done.stderr.startswith(f'{AT}:{AT + 3} "cat" -> "{new}"\n')
        assert letter.read_bytes() == TEXT.encode(), "the file itself is not touched"

    def test_found_by_its_text_is_the_same(self, redraft_here, letters, letter):
        spelled = redraft_here("edit", letter, "--span", f"{AT}:{AT + 3}", *ABC, "-m", letters)
        found = redraft_here("edit", letter, "--find", OLD, *ABC, "-m", letters)
        assert found.stdout == spelled.stdout

    def test_several_in_any_order(self, redraft_here, letters, letter):
        at = AT + len(OLD + BETWEEN)
        done = redraft_here("edit", letter, "--span", f"{at}:{at + 3}", "--find", OLD, *ABC, "-m", letters, "--json")
        shown = json.loads(done.stdout)
        first, second = shown["replacements"]
        assert shown["text"] == BEFORE + first + BETWEEN + second + AFTER
        assert shown["spans"] == [[AT, AT + 3], [at, at + 3]]
        assert re.fullmatch("[abc]{6}", first + second)

    def test_a_place_between_characters(self, redraft_here, letters, letter):
        done = redraft_here("edit", letter, "--span", f"{AT}:{AT}", *ABC, "-m", letters)
        assert re.fullmatch(re.escape(BEFORE) + "[abc]{3}" + re.escape(TEXT[AT:]), done.stdout)

    def test_in_place(self, redraft_here, letters, letter):
        expected = redraft_here("edit", letter, "--find", OLD, *ABC, "-m", letters).stdout
        done = redraft_here("edit", letter, "--find", OLD, *ABC, "-m", letters, "--in-place")
        assert (done.returncode, done.stdout) == (0, "")
        assert letter.read_bytes() == expected.encode()

    def test_in_place_keeps_a_link_and_the_permissions(self, redraft_here, letters, letter, tmp_path):
        letter.chmod(0o640)
        link = tmp_path / "link.txt"
        link.symlink_to("letter.txt")
        done = redraft_here("edit", link, "--find", OLD, *ABC, "-m", letters, "--in-place")
        assert done.returncode == 0, done.stderr
        assert (os.readlink(link), letter.stat().st_mode & 0o777) == ("letter.txt", 0o640)
        assert re.fullmatch(re.escape(BEFORE) + "[abc]{3}" + re.escape(TEXT[AT + 3 :]), letter.read_bytes().decode())

    @pytest.mark.slow
    def test_a_disk_that_fills_leaves_the_file_as_it_was(self, commands, letters, letter):
        size = len(TEXT.encode()) - 1
        arguments = ["redraft", "edit", letter, "--find", OLD, "-m", letters, *ABC, "--in-place"]
        code = f"""
import resource, sys
from redraft.cli.main import main
resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))
sys.argv = {[str(part) for part in arguments]}
main()
"""
        done = subprocess.run([commands / "python", "-c", code], capture_output=True, text=True, timeout=600)
        assert_one_line(done, f"the file {letter} cannot be written")
        assert letter.read_bytes() == TEXT.encode()
        assert [path.name for path in letter.parent.iterdir()] == [letter.name]

    @pytest.mark.slow
    def test_bytes_in_a_process(self, commands, letters):
        command = [commands / "redraft", "edit", "-", "--find", OLD, "-m", str(letters), *map(str, ABC)]
        done = subprocess.run(command, input=TEXT.encode(), capture_output=True, timeout=600)
        assert done.returncode == 0, done.stderr
        expected = re.escape(BEFORE.encode()) + b"[abc]{3}" + re.escape((BETWEEN + AGAIN + AFTER).encode())
        assert re.fullmatch(expected, done.stdout)


class TestInstruction:
    def test_alone_rewrites_the_whole(self, redraft_here, letters, letter):
        done = redraft_here("edit", letter, "--instruction", "shorter", "--max-tokens", 5, "-m", letters, "--json")
        shown = json.loads(done.stdout)
        assert shown["usage"]["completion_tokens"] <= 5
        assert (shown["spans"], shown["replacements"]) == ([], [])

    def test_with_a_span_is_told_beside_the_text(self, redraft_here, letters, letter):
        plain, told = (
            json.loads(redraft_here("edit", letter, "--find", OLD, *ABC, *more, "-m", letters, "--json").stdout)
            for more in ([], ["--instruction", "another animal"])
        )
        assert told["usage"]["prompt_tokens"] > plain["usage"]["prompt_tokens"] + len("another animal")


MISTAKES = [
    pytest.param([], "there is nothing to do; give --span or --find", id="nothing"),
    pytest.param(["--find", "cow"], "--find 'cow': the text does not have it", id="not there"),
    pytest.param(["--find", "dog"], "the text has it 2 times; name one with --span, of 17:20, 31:34", id="twice"),
    pytest.param(["--find", ""], "--find is empty", id="empty"),
    pytest.param(["--span", "1-2"], "--span '1-2' is no START:END", id="no span"),
    pytest.param(["--span", "-1:2"], "--span '-1:2' is no START:END", id="negative"),
    pytest.param(["--span", "5:4"], "span 0 is (5, 4)", id="backwards"),
    pytest.param(["--span", "0:999"], "within the 36 characters", id="too far"),
    pytest.param(["--span", "0:3", "--span", "2:5"], "in order and apart", id="overlap"),
    pytest.param(["--find", "cat", "--strength", 2], "strength 2.0 must be from 0", id="strength"),
    pytest.param(["--find", "cat", "--max-tokens", 3], "--max-tokens is for rewriting the whole", id="max tokens"),
    pytest.param(["--instruction", "a", "--hole-type", "word"], "give --span or --find", id="hole without span"),
]


@pytest.mark.parametrize(("arguments", "words"), MISTAKES)
def test_mistake_is_named_in_one_line(redraft_here, letters, letter, arguments, words):
    assert_one_line(redraft_here("edit", letter, *arguments, "-m", letters), words)
    assert letter.read_bytes() == TEXT.encode()


def test_a_pipe_cannot_be_written_in_place(redraft_here, letters):
    assert_one_line(redraft_here("edit", "-", "--in-place", "--find", "a", "-m", letters, stdin=b"a"), "--in-place")


def test_a_file_that_is_not_there(redraft_here, letters):
    assert_one_line(redraft_here("edit", "no/such.txt", "--find", "a", "-m", letters), "no/such.txt cannot be read")
