"""``redraft chat``: turns see those before them, commands change what follows, and nothing ends it but its end."""

from pathlib import Path

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.history import FileHistory
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from redraft.cli.answering import Answer
from redraft.cli.chat import Conversation, _typed, converse, history_file
from redraft.errors import RequestError
from redraft.loading import load
from tests.cli.conftest import Run, assert_one_line


def test_a_turn_sees_the_turns_before_it(redraft_here: Run, letters: Path) -> None:
    done = redraft_here("chat", "-m", letters, "--max-tokens", 8, stdin=b"/seed 7\nwho?\n\n//why\n/quit\nnever\n")
    assert done.returncode == 0, done.stderr
    engine, messages, said = load(letters), [], ""
    for text in ("who?", "/why"):
        messages.append({"role": "user", "content": text})
        answer = engine.generate(messages, max_tokens=8, seed=7).text
        messages.append({"role": "assistant", "content": answer})
        said += answer + "\n"
    assert done.stdout == said
    assert done.stderr.count("seed 7") == 3, "the command's, and one of each answer's cost"


def replies(*texts: str, interrupted: bool = False):
    """What answers with ``texts``; told of every conversation it was asked in."""
    left, heard = list(texts), []

    def reply_in(conversation: Conversation):
        def reply() -> Answer:
            heard.append([(one["role"], one["content"]) for one in conversation.whole])
            if not left:
                raise RequestError("the context is full")
            return Answer(seed=1, text=left.pop(0))

        return reply

    return reply_in, heard


def test_commands_change_what_follows(capsys: pytest.CaptureFixture[str]) -> None:
    conversation = Conversation(system="Be brief.")
    reply_in, heard = replies("a", "b", "c")
    lines = [
        "one",
        "/seed 5",
        "/watch",
        "two",
        "/system Be long.",
        "three",
        "/seed",
        "/seed x",
        "/new",
        "/nope",
        "/help",
    ]
    converse(conversation, iter(lines), reply_in(conversation))
    assert heard[1] == [("system", "Be brief."), ("user", "one"), ("assistant", "a"), ("user", "two")]
    assert heard[2] == [("system", "Be long."), ("user", "three")]
    assert (conversation.seed, conversation.watch, conversation.messages) == (None, True, [])
    said = capsys.readouterr().err
    assert "seed 'x' must be a whole number" in said
    assert "there is no command /nope" in said
    assert "Alt-Enter" in said


def test_what_was_interrupted_stays_and_what_failed_does_not(capsys: pytest.CaptureFixture[str]) -> None:
    conversation = Conversation()
    reply_in, heard = replies("half an ans")
    converse(conversation, iter(["one", "two", "three"]), reply_in(conversation))
    # An answer without a result is one that Ctrl-C ended.
    assert conversation.messages == [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "half an ans"},
    ]
    assert len(heard[2]) == 3
    assert capsys.readouterr().err.count("redraft: the context is full") == 2


def test_mistakes_come_before_the_model(redraft_here: Run) -> None:
    assert_one_line(redraft_here("chat", "-m", "no-such-model", "--seed", -1), "seed -1")
    assert_one_line(redraft_here("chat", "-m", "no-such-model", "--stop", ""), "stop")


def test_what_is_typed_has_several_lines_and_is_kept_for_its_user_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    keys = ["abandoned\x03", "first\x1b\rsecond\r", "a\\\rb\r", "\x04"]
    with create_pipe_input() as terminal, create_app_session(input=terminal, output=DummyOutput()):
        # Ctrl-C ends no conversation; Alt-Enter and a backslash begin a line; Ctrl-D ends.
        for key in keys:
            terminal.send_text(key)
        assert list(_typed()) == ["first\nsecond", "a\nb"]
    assert "Ctrl-D or /quit ends" in capsys.readouterr().err
    # Newest first: what the arrow brings back.
    assert list(FileHistory(str(history_file())).load_history_strings()) == ["a\nb", "first\nsecond"]
    assert history_file().stat().st_mode & 0o077 == 0


def test_the_history_lies_with_the_users_state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert history_file() == tmp_path / "redraft" / "chat_history"
