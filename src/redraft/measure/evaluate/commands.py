"""Commands that judge a text: it goes to standard input, and exit code 0 says that it is right."""

import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from tempfile import TemporaryFile

_SHOWN = 200


def run_command(command: Sequence[str], text: str, seconds: float) -> str | None:
    """Run a command on a text, and say why it did not pass; None where it did.

    It runs in the working directory, without a shell, and is ended with all that it started after ``seconds``.
    """
    # A file and no pipe: what a command leaves running would hold a pipe open, and be waited for.
    with TemporaryFile() as errors:
        try:
            process = subprocess.Popen(
                [*command], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors, start_new_session=True
            )
        except OSError as error:
            return f"the command cannot be run: {error}"
        try:
            process.communicate(text.encode(errors="replace"), timeout=seconds)
        except subprocess.TimeoutExpired:
            return f"the command took more than {seconds:g} s"
        finally:
            # What it started is in its session.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process.returncode == 0:
            return None
        errors.seek(0)
        said = errors.read().decode(errors="replace").strip().splitlines()
    return f"exit code {process.returncode}{': ' + said[-1][:_SHOWN] if said else ''}"
