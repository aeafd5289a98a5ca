"""A `python` for tests whose heavy imports are done: a server that forks, and its client.

A stage script spends seconds on importing torch and transformers and, on the tests' tiny models,
hardly any on its work. `start` gives the path of a stand-in for the interpreter: called with
script.py ARGUMENTS it runs the script in a fork of a process that has those libraries loaded, with
the caller's files, folder and environment; any other call goes to the real interpreter.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

SPINCOUNT = {"GOMP_SPINCOUNT": "2000"}  # as rosita/__init__.py, read when torch is loaded


def start(folder: Path) -> Path:
    """Start a server that ends with this process; the stand-in for its interpreter.

    `wait` tells when it can be used.
    """
    path = folder / "socket"
    server = subprocess.Popen(
        [sys.executable, __file__, "serve", str(path)],
        stdin=subprocess.PIPE,
        env={**os.environ, **SPINCOUNT},
    )
    atexit.register(server.kill)
    stand_in = folder / "python"
    stand_in.write_text(
        f'#!/bin/sh\nexec "{sys.executable}" -S -E "{__file__}" call "{path}" "$@"\n'
    )
    stand_in.chmod(0o755)
    return stand_in


def wait(stand_in: Path) -> None:
    """Return once the server of a stand-in listens."""
    while not stand_in.with_name("socket").exists():
        if stand_in.with_name("failed").exists():
            raise RuntimeError("the server of warm_python.py did not start")
        time.sleep(0.05)


def call(path: str, arguments: list[str]) -> int:
    """Have the server run a script; its exit code. Signals to this process reach the script."""
    if not arguments or not arguments[0].endswith(".py"):
        os.execv(sys.executable, [sys.executable, *arguments])
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(path)
        request = {"arguments": arguments, "cwd": os.getcwd(), "environment": dict(os.environ)}
        data = json.dumps(request).encode()
        socket.send_fds(connection, [len(data).to_bytes(8, "big")], [0, 1, 2])
        connection.sendall(data)
        script = int.from_bytes(connection.recv(4), "big")
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, _: os.kill(script, number))
        answer = connection.recv(1)
    return answer[0] if answer else 1


def serve(path: str) -> None:
    """Load the libraries, then fork for each call, until the one who started this is gone."""
    try:
        load()
    except BaseException:
        Path(path).with_name("failed").touch()
        raise
    gc.freeze()  # a fork that collected what it shares with this process would copy it all
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    listener.listen(64)
    while True:
        ready, _, _ = select.select([listener, sys.stdin], [], [])
        if listener not in ready:
            return
        connection, _ = listener.accept()
        if os.fork():
            connection.close()
            while reaped():
                pass
        else:
            listener.close()
            attend(connection)


def attend(connection: socket.socket) -> None:
    """In a fork: run the script of a call in another, and answer with its exit code."""
    request, files = receive(connection)
    script = os.fork()
    if not script:
        connection.close()
        end(run(request, files))
    for file in files:
        os.close(file)
    connection.sendall(script.to_bytes(4, "big"))
    ended = threading.Event()
    watch = threading.Thread(target=kill_with_caller, args=(connection, script, ended), daemon=True)
    watch.start()
    _, status = os.waitpid(script, 0)
    ended.set()
    code = os.waitstatus_to_exitcode(status)
    try:
        connection.sendall(bytes([code if code >= 0 else 128 - code]))
    except BrokenPipeError:
        pass  # the caller is gone
    os._exit(0)


def receive(connection: socket.socket) -> tuple[dict, list[int]]:
    """What a caller asks for, and its stdin, stdout and stderr."""
    size, files, _, _ = socket.recv_fds(connection, 8, 3)
    data, wanted = b"", int.from_bytes(size, "big")
    while len(data) < wanted:
        data += connection.recv(1 << 16)
    return json.loads(data), files


def kill_with_caller(connection: socket.socket, script: int, ended: threading.Event) -> None:
    """Wait until the caller ends: a SIGKILL to it is meant for the script, if that still runs."""
    connection.recv(1)
    if not ended.is_set():
        os.kill(script, signal.SIGKILL)


def end(code: int) -> None:
    """End this fork as an interpreter does, but for tearing down modules: that takes a second."""
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def reaped() -> bool:
    try:
        return os.waitpid(-1, os.WNOHANG)[0] > 0
    except ChildProcessError:
        return False


def load() -> None:
    """The imports; none of them starts a thread, so that forking is safe."""
    import accelerate  # noqa: F401
    import boto3  # noqa: F401
    import matplotlib  # noqa: F401
    import pydantic  # noqa: F401
    import safetensors.torch  # noqa: F401
    import scipy.optimize  # noqa: F401
    import scipy.stats  # noqa: F401
    import sklearn.metrics  # noqa: F401
    import torch.utils.tensorboard
    from transformers import (  # noqa: F401
        AutoConfig,
        AutoModel,
        AutoModelForSequenceClassification,
        BertForMaskedLM,
        BertTokenizer,
        PretrainedConfig,
        PreTrainedModel,
    )

    assert torch.utils.tensorboard


def run(request: dict, files: list[int]) -> int:
    """In the fork: become the caller's python, run the script; its exit code."""
    import runpy

    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    # streams on these files: those on the server's took them to be as its own
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = open(
        2, "w", encoding="utf-8", errors="backslashreplace", closefd=False, buffering=1
    )
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["cwd"])
    if "OMP_NUM_THREADS" in os.environ:
        import torch

        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    script = request["arguments"][0]
    folders = [str(Path(script).resolve().parent)]
    folders += [part for part in os.environ.get("PYTHONPATH", "").split(":") if part]
    sys.path[:1] = folders  # instead of the folder of this file
    sys.argv = request["arguments"]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    else:
        sys.exit(call(sys.argv[2], sys.argv[3:]))
