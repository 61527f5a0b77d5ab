"""Commands in processes of their own that need not import torch: one process imports it, and forks for each command.

A client named ``redraft``, and one named ``python`` for ``-c`` and ``-m bench.*``, hand that process their arguments,
folder, environment, input and outputs, and end with the command's exit code. A signal reaches the client alone.
"""

import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[1]
# What most commands import. Kernels are loaded by the commands: an environment variable may choose them.
IMPORTED = ("redraft.cli.main", "redraft.record.replay", "redraft.train.recipes.sudoku.recipe")
CLIENT = """\
#!{python} -IS
import json, os, socket, sys
name = os.path.basename(sys.argv[0])
arguments = [name, *sys.argv[1:]]
if name == "python":
    if sys.argv[1] != "-c" and not (sys.argv[1] == "-m" and sys.argv[2].startswith("bench.")):
        os.execv("{python}", ["{python}", *sys.argv[1:]])
    arguments = sys.argv[1:]
with socket.socket(socket.AF_UNIX) as line:
    line.connect("{address}")
    socket.send_fds(line, [b"."], [0, 1, 2])
    line.sendall(json.dumps([arguments, os.getcwd(), dict(os.environ)]).encode())
    line.shutdown(socket.SHUT_WR)
    code = line.recv(16)
sys.exit(int(code) if code else "the command ended without an exit code")
"""


@contextmanager
def prepared(*modules: str) -> Iterator[Path]:
    """The folder of the clients, for as long as this lasts. To be put first on the PATH.

    modules: more than redraft's own to import once.
    """
    # A short name: that of a socket may have some hundred bytes.
    with TemporaryDirectory(prefix="redraft-") as name:
        folder = Path(name)
        address = folder / "socket"
        for client in ("redraft", "python"):
            (folder / client).write_text(CLIENT.format(python=sys.executable, address=address))
            (folder / client).chmod(0o755)
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(address))
            listening.listen(16)
            code = f"from {__name__} import listen; listen({listening.fileno()}, {modules!r})"
            command = [sys.executable, "-c", code]
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            process = subprocess.Popen(command, cwd=ROOT, env=environment, pass_fds=[listening.fileno()])
        try:
            yield folder
        finally:
            process.kill()
            process.wait()


def listen(number: int, modules: tuple[str, ...]) -> None:
    """Fork for every client that comes to the socket of this file descriptor."""
    for name in (*IMPORTED, *modules):
        import_module(name)
    from redraft.models import checkpoint

    # Lets torch import what it needs for models without memory: most of all that a command would wait for.
    checkpoint.read(checkpoint.find("sudoku"))
    listening = socket.socket(fileno=number)
    # Nobody waits for the commands' processes.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
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


def run(line: socket.socket) -> int:
    """Run the command that the client names, and return its exit code."""
    _, streams, _, _ = socket.recv_fds(line, 1, 3)
    received = b"".join(iter(lambda: line.recv(65536), b""))
    arguments, folder, environment = json.loads(received)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = arguments[arguments[0] == "-m" :]
    sys.stdin, sys.stdout, sys.stderr = (open(number, mode) for number, mode in enumerate("rww"))  # noqa: SIM115
    try:
        if arguments[0] == "redraft":
            from redraft.cli.main import main

            main()
        elif arguments[0] == "-c":
            exec(compile(arguments[1], "<string>", "exec"), {"__name__": "__main__"})
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
