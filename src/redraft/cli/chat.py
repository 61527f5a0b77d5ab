"""``redraft chat``: a conversation in the terminal, with history, several lines, and commands."""

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from redraft.cli import options, reading, talk
from redraft.cli.answering import Answer, Writer, answer, tell
from redraft.errors import RedraftError, RequestError

if TYPE_CHECKING:
    from redraft.api import Engine

HELP = """\
Enter sends; Alt-Enter, or a backslash at the end of a line, begins another line. Ctrl-C ends an answer and keeps what
was written of it; Ctrl-D or /quit ends the conversation. A message that begins with a slash begins with two.
  /system TEXT   what the system says first; without TEXT nothing. Begins the conversation anew.
  /seed N        the seed of the answers that follow; without N a random one for each
  /watch         draw each canvas as it resolves, or no longer
  /new           begin the conversation anew
  /quit          end it"""


@dataclass
class Conversation:
    """A conversation so far, and how the answers that follow are made."""

    system: str | None = None
    seed: int | None = None
    watch: bool = False
    messages: list[dict[str, str]] = field(default_factory=list)
    ended: bool = False

    @property
    def whole(self) -> list[dict[str, str]]:
        """All messages, the system's first."""
        return [*reading.system_message(self.system), *self.messages]

    def command(self, line: str) -> str:
        """Do what a line that begins with a slash asks for, and return what there is to say of it."""
        name, _, rest = line.partition(" ")
        rest = rest.strip()
        match name:
            case "/system":
                self.system, self.messages = rest or None, []
                return "the system says nothing" if self.system is None else "the system says so from now on"
            case "/seed":
                return self._seed(rest)
            case "/watch":
                self.watch = not self.watch
                return "canvases are drawn" if self.watch else "canvases are not drawn"
            case "/new":
                self.messages = []
                return "a new conversation"
            case "/quit" | "/exit":
                self.ended = True
                return ""
            case "/help" | "/?":
                return HELP
        return f"there is no command {name}; /help lists those there are"

    def _seed(self, given: str) -> str:
        from redraft.engine.request import check_seed

        if not given:
            self.seed = None
            return "each answer has a random seed"
        try:
            self.seed = check_seed(int(given))
        except ValueError as error:
            reason = error if isinstance(error, RequestError) else f"seed {given!r} must be a whole number, 0 or more"
            return str(reason)
        return f"seed {self.seed}"


@options.grouped
def chat(
    *,
    system: reading.System = None,
    thoughts: options.Thinking,
    max_tokens: Annotated[int | None, typer.Option(help="At most so many tokens an answer.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="Text at which an answer ends; may be repeated.")] = None,
    sampling: options.Sampling,
    watch: Annotated[bool, typer.Option("--watch", help="Draw each canvas as it resolves (in a terminal).")] = False,
    loading: options.Loading,
    recordings: options.Recordings,
) -> None:
    """Talk with a model. /help in the conversation lists its commands; a pipe has a message a line.

    Example: redraft chat --model MODEL --system "You answer in one sentence."
    """
    options.check_answer(sampling, max_tokens, stop, watch=watch, recordings=recordings)
    parameters: dict[str, Any] = {"max_tokens": max_tokens, "stop": stop, **thoughts.parameters()}
    record = recordings.folder()
    engine = loading.engine()
    if engine.tokenizer.template is None:
        raise RequestError("this checkpoint has no chat template to talk by; continue raw text: redraft generate --raw")
    conversation = Conversation(system, sampling.seed, watch)

    def reply() -> Answer:
        given = {**sampling.parameters(engine), **parameters, "seed": conversation.seed}
        if conversation.watch and sys.stdout.isatty():
            from redraft.cli.watch import watch_answer

            return watch_answer(engine, conversation.whole, given, record)[0]
        writer = Writer()
        written = answer(engine, conversation.whole, given, on_chunk=writer, record=record)
        writer.end()
        return written

    terminal = sys.stdin is not None and sys.stdin.isatty()
    if terminal:
        talk.note(f"{_model(engine)}; /help lists commands, Ctrl-D ends")
    converse(conversation, _typed() if terminal else _piped(), reply)


def converse(conversation: Conversation, lines: Iterator[str], reply: Callable[[], Answer]) -> None:
    """Answer line after line until there are no more, or one says that it was the last."""
    for line in lines:
        if line.startswith("/") and not line.startswith("//"):
            said = conversation.command(line)
            if said:
                talk.note(said)
        elif line.strip():
            _take_turn(conversation, line.removeprefix("/") if line.startswith("//") else line, reply)
        if conversation.ended:
            return


def _take_turn(conversation: Conversation, text: str, reply: Callable[[], Answer]) -> None:
    """Answer one message; what was written stays in the conversation, and a message that fails does not."""
    conversation.messages.append(reading.message(text))
    try:
        written = reply()
    except RedraftError as error:
        conversation.messages.pop()
        typer.echo(f"redraft: {error}", err=True)
        return
    said = written.text if written.result is None else written.result.text
    conversation.messages.append({"role": "assistant", "content": said})
    tell(written)


def _model(engine: "Engine") -> str:
    origin = engine.origin
    return "a model" if origin is None else f"{origin.source}, {origin.dtype} on {origin.device}"


def _piped() -> Iterator[str]:
    """Yield what comes through a pipe, a message a line."""
    yield from reading.standard_input("the conversation").splitlines()


def _typed() -> Iterator[str]:
    """Yield what is typed, with history and several lines."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import FileHistory, InMemoryHistory
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()

    @keys.add("escape", "enter")
    def begin_line(event: Any) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("enter")
    def send(event: Any) -> None:
        buffer = event.current_buffer
        if buffer.document.current_line_before_cursor.endswith("\\"):
            buffer.delete_before_cursor()
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    path = history_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # What one says to a model is nobody else's.
        path.touch(0o600)
        history: Any = FileHistory(str(path))
    except OSError as error:
        talk.note(f"what you type is not kept: {path}: {error.strerror}")
        history = InMemoryHistory()
    session: PromptSession[str] = PromptSession(history=history, key_bindings=keys, multiline=True)
    while True:
        try:
            yield session.prompt("> ", prompt_continuation="  ")
        except KeyboardInterrupt:
            talk.note("(Ctrl-D or /quit ends the conversation)")
        except EOFError:
            return


def history_file() -> Path:
    """Return where what was typed is kept: $XDG_STATE_HOME/redraft/chat_history."""
    home = os.environ.get("XDG_STATE_HOME", "")
    return (Path(home) if home.strip() else Path.home() / ".local" / "state") / "redraft" / "chat_history"
