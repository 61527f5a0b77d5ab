"""Commands in processes of their own that need not import torch: one process imports it, and forks for each command.

A client named ``redraft``, and one named ``python`` for ``-c``, files and ``-m`` of ours, hand that process their
arguments, folder, environment, input and outputs, hand on what asks them to end, and end with the command's exit code.
A command whose client is killed is killed. The processes that tests are shared out among are such commands too.
"""

import contextlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.imports import import_cheaply, imported

ROOT = Path(__file__).parents[1]
# What most commands import. Kernels are loaded by the commands: an environment variable may choose them.
IMPORTED = (
    "redraft.cli.main",
    "redraft.record.replay",
    "redraft.train.recipes.sudoku.recipe",
    "transformers.models.diffusion_gemma.modeling_diffusion_gemma",
    # What optimizers and curves import when they are first used.
    "torch._dynamo",
    "matplotlib.pyplot",
    # Compiles how puzzles are made.
    "numba",
    "jsonschema",
)
# What tests themselves import, for processes that run many of them.
IMPORTED_BY_TESTS = (
    "anthropic",
    "hypothesis",
    "openai.types.responses",
    "playwright.sync_api",
    "redraft.serve.server",
    "transformers.models.diffusion_gemma.generation_diffusion_gemma",
    "transformers.models.llama.modeling_llama",
    "typesafe_sdk",
)
# What goes back to the client: the number of the process, and then its exit code.
DIGITS = 16
CLIENT = """\
#!{python} -IS
import json, os, signal, socket, sys
name = os.path.basename(sys.argv[0])
arguments = [name, *sys.argv[1:]]
if name == "python":
    arguments = sys.argv[1:]
    while arguments[0] in ("-P", "-u"):
        del arguments[0]
    ours = arguments[0] == "-m" and arguments[1].startswith(("bench.", "redraft."))
    if not (ours or arguments[0] == "-c" or arguments[0].endswith(".py")):
        os.execv("{python}", ["{python}", *sys.argv[1:]])
with socket.socket(socket.AF_UNIX) as line:
    line.connect("{address}")
    socket.send_fds(line, [b"."], [0, 1, 2])
    line.sendall(json.dumps([arguments, os.getcwd(), dict(os.environ)]).encode() + b"\\n")
    process = int(line.recv({digits}, socket.MSG_WAITALL))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: os.kill(process, number))
    code = line.recv({digits})
sys.exit(int(code) if code else "the command ended without an exit code")
"""


@contextlib.contextmanager
def prepared(*more: str) -> Iterator[Path]:
    """The folder of the clients, for as long as this lasts. To be put first on the PATH.

    more: modules that commands import besides.
    """
    # A short name: that of a socket may have some hundred bytes.
    with TemporaryDirectory(prefix="redraft-") as name:
        folder = Path(name)
        address = folder / "socket"
        for client in ("redraft", "python"):
            (folder / client).write_text(CLIENT.format(python=sys.executable, address=address, digits=DIGITS))
            (folder / client).chmod(0o755)
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(address))
            listening.listen(16)
            modules = (*IMPORTED, *more)
            code = f"from {__name__} import listen; listen({listening.fileno()}, {str(folder / 'python')!r}, {modules})"
            command = [sys.executable, "-c", code]
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            process = subprocess.Popen(command, cwd=ROOT, env=environment, pass_fds=[listening.fileno()])
        try:
            yield folder
        finally:
            process.kill()
            process.wait()


def listen(number: int, python: str, modules: Sequence[str]) -> None:
    """Import modules, and fork for every client that comes to the socket of this file descriptor.

    python: the client that takes Python's place where a command starts a process of its own.
    """
    import_cheaply()
    for name in modules:
        import_module(name)
    import typer.main

    from redraft.cli.main import app
    from redraft.models import checkpoint
    from redraft.train.recipes.sudoku import puzzles

    # Lets torch import what it needs for models without memory.
    checkpoint.read(checkpoint.find("sudoku"))
    # All verbs with their options, which are made anew for each command.
    typer.main.get_command = cache(typer.main.get_command)
    typer.main.get_command(app)
    # Reads what numba has compiled.
    puzzles.singles_suffice(puzzles.generate(1, (40, 45), seed=1).boards)
    # What commands do not look through for garbage they go on sharing.
    imported()
    sys.executable = python
    listening = socket.socket(fileno=number)
    signal.signal(signal.SIGCHLD, reap)
    while True:
        line, _ = listening.accept()
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            listening.close()
            code = 1
            try:
                code = run(line)
            except BaseException:
                traceback.print_exc()
            finally:
                line.sendall(str(code).encode())
                # What Python does at its end was set up by the process that forked.
                os._exit(code)
        line.close()


def reap(*_: object) -> None:
    """Wait for the commands that have ended, whose processor time is then this process's."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def end_with(line: socket.socket) -> None:
    """Kill this process when the client has ended, which sends nothing more."""
    line.recv(1)
    os.kill(os.getpid(), signal.SIGKILL)


def run(line: socket.socket) -> int:
    """Run the command that the client names, and return its exit code."""
    _, streams, _, _ = socket.recv_fds(line, 1, 3)
    arguments, folder, environment = json.loads(line.makefile().readline())
    line.sendall(f"{os.getpid():{DIGITS}}".encode())
    threading.Thread(target=end_with, args=(line,), daemon=True).start()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    # Code is no argument of its own, and a module's name becomes its file's.
    sys.argv = {"-m": arguments[1:], "-c": ["-c", *arguments[2:]]}.get(arguments[0], arguments)
    sys.stdin, sys.stdout, sys.stderr = (open(number, mode) for number, mode in enumerate("rww"))  # noqa: SIM115
    try:
        if arguments[0] == "redraft":
            from redraft.cli.main import main

            main()
        elif arguments[0] == "-c":
            exec(compile(arguments[1], "<string>", "exec"), {"__name__": "__main__"})
        elif arguments[0].endswith(".py"):
            runpy.run_path(arguments[0], run_name="__main__")
        else:
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        code: object = 0
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 1
    if isinstance(code, str):
        print(code, file=sys.stderr)
    # As at the end of Python: a reader that went away is told by the exit code.
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:
        return 120
    return code if isinstance(code, int) else int(code is not None)
