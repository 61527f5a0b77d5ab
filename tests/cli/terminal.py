"""What is left on a terminal's screen after a program wrote to it: enough of one for Rich's live display."""

import os
import pty
import re
from collections.abc import Mapping, Sequence

# An escape sequence, a control character, or text.
_PIECE = re.compile(r"\x1b\[([?\d;]*)([A-Za-z])|([\r\n])|([^\x1b\r\n]+)")


def run_in_terminal(command: Sequence[str], environment: Mapping[str, str]) -> tuple[int, str]:
    """Run ``command`` with a terminal for input, output and errors; returns its exit code and all that it wrote."""
    process, terminal = pty.fork()
    if process == 0:
        os.execvpe(command[0], list(command), environment)
    written = b""
    while True:
        try:
            part = os.read(terminal, 65536)
        except OSError:  # how Linux tells that the program has closed the terminal
            part = b""
        if not part:
            break
        written += part
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), written.decode()


def screen(written: str) -> list[str]:
    """The lines that remain visible; colours are dropped, and lines are taken to be wide enough."""
    lines, row, column = [""], 0, 0
    for argument, letter, control, text in _PIECE.findall(written):
        if text:
            before = lines[row].ljust(column)
            lines[row] = before[:column] + text + before[column + len(text) :]
            column += len(text)
        elif control == "\r":
            column = 0
        elif control == "\n":
            row += 1
            lines += [""] * (row - len(lines) + 1)
        elif letter == "A":
            row = max(0, row - int(argument or 1))
        elif letter == "K":
            assert argument == "2", "only the erasing of whole lines is known"
            lines[row] = ""
        else:
            assert letter in "mhl", f"unknown escape sequence {argument}{letter}"
    return [line.rstrip() for line in lines]
