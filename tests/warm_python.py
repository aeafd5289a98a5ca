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
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

SPINCOUNT = {"GOMP_SPINCOUNT": "2000"}  # as rosita/__init__.py, read when torch is loaded


def start(folder: Path) -> Path:
    """Start a server that ends with this process; the stand-in for its interpreter."""
    path = folder / "socket"
    server = subprocess.Popen(
        [sys.executable, __file__, "serve", str(path)], stdin=subprocess.PIPE,
        env={**os.environ, **SPINCOUNT},
    )  # fmt: skip
    atexit.register(server.kill)
    while not path.exists():
        if server.poll() is not None:
            raise RuntimeError("the server of warm_python.py did not start")
        time.sleep(0.05)
    stand_in = folder / "python"
    stand_in.write_text(
        f'#!/bin/sh\nexec "{sys.executable}" -S -E "{__file__}" call "{path}" "$@"\n'
    )
    stand_in.chmod(0o755)
    return stand_in


def call(path: str, arguments: list[str]) -> int:
    """Have the server run a script; its exit code."""
    if not arguments or not arguments[0].endswith(".py"):
        os.execv(sys.executable, [sys.executable, *arguments])
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(path)
        request = {"arguments": arguments, "cwd": os.getcwd(), "environment": dict(os.environ)}
        data = json.dumps(request).encode()
        socket.send_fds(connection, [len(data).to_bytes(8, "big")], [0, 1, 2])
        connection.sendall(data)
        answer = connection.recv(1)
    return answer[0] if answer else 1


def serve(path: str) -> None:
    """Load the libraries, then fork for each call, until the one who started this is gone."""
    load()
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
            continue
        listener.close()
        script = os.fork()
        if not script:
            end(run(connection))
        _, status = os.waitpid(script, 0)
        code = os.waitstatus_to_exitcode(status)
        try:
            connection.sendall(bytes([code if code >= 0 else 128 - code]))
        except BrokenPipeError:
            pass  # the caller is gone
        os._exit(0)


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


def run(connection: socket.socket) -> int:
    """In the fork: become the caller's python, run the script; its exit code."""
    import runpy

    size, files, _, _ = socket.recv_fds(connection, 8, 3)
    data, wanted = b"", int.from_bytes(size, "big")
    while len(data) < wanted:
        data += connection.recv(1 << 16)
    request = json.loads(data)
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
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
