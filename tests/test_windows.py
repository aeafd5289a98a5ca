"""What Windows has not, or refuses, is taken from a process on Linux: all of it works still."""

from __future__ import annotations

import ast
import subprocess
import sys

from conftest import REPOSITORY, WORDS, make_bert, write_cola

POSIX = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}

# For rosita's modules: no POSIX modules and names. For all: no /proc, no folder opens like a file,
# and what is open or mapped is not moved, replaced or removed.
WINDOWS = """
import builtins, importlib, io, os, pkgutil, shutil, signal, sys, traceback

GONE = {
    "os": "fork forkpty getuid geteuid getgid getpgid killpg setsid sched_getaffinity uname chown"
          " sysconf getloadavg statvfs mkfifo posix_fallocate pread pwrite nice wait4 WNOHANG"
          " O_DIRECTORY O_NOFOLLOW O_NONBLOCK",
    "signal": "SIGKILL SIGHUP SIGUSR1 SIGUSR2 SIGCHLD SIGPIPE SIGALRM alarm setitimer",
    "sys": "",
}
real_import = builtins.__import__

def imports(name, names=None, *more, **named):
    who = (names or {}).get("__name__", "")
    if who.startswith("rosita") and name in POSIX:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return real_import(name, names, *more, **named)

class Without:
    def __init__(self, module):
        self.module, self.gone = module, GONE[module.__name__].split()
        self.platform, self.name = "win32", "nt"

    def __getattr__(self, name):
        if name in self.gone:
            raise AttributeError(f"module {self.module.__name__!r} has no attribute {name!r}")
        return getattr(self.module, name)

builtins.__import__ = imports
import rosita
for one in pkgutil.walk_packages(rosita.__path__, "rosita."):
    module = importlib.import_module(one.name)
    for name in GONE.keys() & vars(module).keys():
        setattr(module, name, Without(vars(module)[name]))

real = {name: getattr(os, name) for name in "open stat replace rename unlink remove".split()}
listdir, io_open, shutil._use_fd_functions = os.listdir, io.open, False

def opened():
    for one in listdir("/proc/self/fd"):
        yield os.path.realpath(f"/proc/self/fd/{one}")
    with io_open("/proc/self/maps") as file:
        yield from [line.split(None, 5)[5].rstrip("\\n") for line in file if " /" in line]

def no_folder(path, *more, **named):
    if os.path.isdir(path):
        raise PermissionError(13, "Permission denied", str(path))
    return real["open"](path, *more, **named)

def no_proc(path, *more, **named):
    if not isinstance(path, int) and os.fspath(path).startswith("/proc"):
        raise FileNotFoundError(2, "No such file", os.fspath(path))
    return real["stat"](path, *more, **named)

def refusing(name):
    def call(*paths, **named):
        files = [frame.f_code.co_filename for frame, _ in traceback.walk_stack(None)]
        if any("filelock" in file for file in files):  # that has other code for Windows
            return real[name](*paths, **named)
        for path in map(os.path.realpath, paths):
            if any(other == path or other.startswith(path + "/") for other in opened()):
                raise PermissionError(13, "The process cannot access the file [WinError 32]", path)
        return real[name](*paths, **named)
    return call

os.open, os.stat = no_folder, no_proc
for name in ("replace", "rename", "unlink", "remove"):
    setattr(os, name, refusing(name))
"""

WORK = """
import runpy
from pathlib import Path
from rosita import api
root = Path(sys.argv[1])
data = root / "CoLA"
once = {"num_train_epochs": 1, "seed": 3}
bert = api.load(root / "bert", "CoLA", new_classifier=True)
tuned = api.fine_tune(bert, data, root / "tuned", evaluate_during_training=True, **once)
assert api.fine_tune(bert, data, root / "tuned", evaluate_during_training=True, **once).path
small = api.prune(tuned, "a2_l2_f24_e8", api.score(tuned, data), root / "cut")
student = api.distil(tuned, small, data, root / "kd", pred_distill=True, teacher_cache_gb=1,
                     repr_distill=True, eval_step=1, save_state_steps=1, num_train_epochs=2)
print(api.evaluate(student, data).metric)
api.export(student, root / "export", data, max_drop=2)
def run(script, *words):
    sys.argv = [script, *map(str, words)]
    runpy.run_path(script, run_name="__main__")

for form in ("pytorch", "onnx", "int8"):
    run("Deploy/predict.py", "--model", root / "export", "--format", form, "--input",
        root / "texts.txt", "--output", root / f"{form}.tsv")
api.fine_tune(small, data, root / "tuned", overwrite_output_dir=True, **once)
for _ in range(2):  # the second replaces the first
    run("data_augmentation.py", "--task_name", "CoLA", "--glue_dir", root, "--glove_embs",
        root / "glove.txt", "--pretrained_bert_model", root / "bert", "--N", 1, "--overwrite")
api.distil(tuned, small, data, pred_distill=True, aug_train=True, num_train_epochs=1)
run("KD/test.py", "--student_model", root / "kd", "--task_name", "CoLA", "--data_dir", data,
    "--do_eval", "--do_predict", "--submission_dir", root / "submission")
run("report.py", root)
"""


def test_no_file_needs_a_module_of_posix_to_be_imported():
    """But this project's engine behind RESULTS.md, and its tests, which run on Linux."""
    for folder in ("rosita", "Pruning", "KD", "Deploy", "data", "benchmarks", "scripts"):
        for path in [*(REPOSITORY / folder).rglob("*.py"), *REPOSITORY.glob("*.py")]:
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.Import | ast.ImportFrom):
                    names = {name.name for name in node.names} | {getattr(node, "module", None)}
                    assert not names & POSIX, path


def test_the_stages_and_predict_work_without_what_windows_has_not(tmp_path):
    make_bert(tmp_path / "bert")
    write_cola(tmp_path / "CoLA")
    vectors = [f"{word} {number} 1 {number % 7}" for number, word in enumerate(WORDS)]
    (tmp_path / "glove.txt").write_text("\n".join(vectors) + "\n", encoding="utf-8")
    (tmp_path / "texts.txt").write_text("the dog ran\nMüsste — 日本語?\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", f"POSIX = {POSIX}" + WINDOWS + WORK, tmp_path],
        capture_output=True, text=True, cwd=REPOSITORY,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    for form in ("pytorch", "onnx", "int8"):
        assert len((tmp_path / f"{form}.tsv").read_text().splitlines()) == 2
