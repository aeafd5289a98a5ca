"""How a script's main is run: what goes wrong becomes one line and an exit code."""

import builtins
import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib

import pytest
from conftest import REPOSITORY

from rosita.cli import BRINGS, run_script
from rosita.errors import RositaError


def end_of(main, capsys):
    with pytest.raises(SystemExit) as end:
        run_script(main)
    return end.value.code, capsys.readouterr().err


def test_a_mistake_is_one_line_and_exit_code_2(capsys):
    def main():
        raise RositaError("a\nlong  story")

    assert end_of(main, capsys) == (2, "error: a long story\n")


@pytest.mark.parametrize("package, brings", BRINGS.items())
def test_a_package_that_is_not_installed_is_named_with_what_brings_it(
    package, brings, capsys, monkeypatch
):
    imports = builtins.__import__

    def without(name, *more):
        if name.split(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return imports(name, *more)

    monkeypatch.setattr(builtins, "__import__", without)
    code, told = end_of(lambda: __import__(f"{package}.part"), capsys)
    assert code == 2
    assert told == (
        f"error: {package} is not installed, and this needs it: pip install -e {brings}\n"
    )
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extra = brings.strip('".[]')
    listed = project["optional-dependencies"][extra] if extra else project["dependencies"]
    brought = {re.match(r"[\w-]+", line)[0] for line in listed}
    name = {"botocore": "boto3", "sklearn": "scikit-learn"}.get(package, package)
    assert name in brought


def test_a_mistake_of_ours_is_one_line_that_names_a_file_with_the_traceback(
    capsys, monkeypatch, tmp_path
):
    monkeypatch.delenv("ROSITA_TRACEBACK", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def main():
        raise ModuleNotFoundError("No module named 'rosita.gone'", name="rosita.gone")

    code, told = end_of(main, capsys)
    (file,) = tmp_path.iterdir()
    assert code == 1 and told.count("\n") == 1
    assert told.endswith(f"please report it with {file}\n")
    kept = file.read_text()
    assert "in main" in kept and "No module named 'rosita.gone'" in kept
    assert f"torch {importlib.metadata.version('torch')}" in kept
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    code, told = end_of(main, capsys)
    assert code == 1 and "Traceback" in told and told.endswith("with the lines above\n")


@pytest.mark.parametrize(
    "error, told",
    [(PermissionError(13, "Permission denied", "/data/x.tsv"),
      "error: Permission denied: /data/x.tsv\n"),
     (OSError(28, "No space left on device"), "error: No space left on device\n")],
)  # fmt: skip
def test_an_error_of_the_system_is_its_one_line(error, told, capsys):
    def main():
        raise error

    assert end_of(main, capsys) == (2, told)


HELLO = "from rosita.cli import run_script; run_script(lambda: print('schön'))"
OF_MANY = HELLO[:-1] + ", of_many=True)"


@pytest.mark.parametrize(
    "how, code, told",
    [("> out", 0, ""), (">&-", 0, ""), (">&- 2>&-", 0, ""), ("<&-", 0, ""), ("| true", None, ""),
     ("> /dev/full", 2, "error: No space left on device\n"), ("> /dev/full 2> /dev/full", 2, "")],
)  # fmt: skip
def test_output_that_is_closed_full_or_of_another_locale_leaves_no_traceback(
    how, code, told, tmp_path
):
    done = subprocess.run(
        ["bash", "-c", f'"{sys.executable}" -c "{HELLO}" {how}'], cwd=tmp_path, text=True,
        capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
    )  # fmt: skip
    assert done.stderr == told
    if code is not None:
        assert done.returncode == code
    if how == "> out":
        assert (tmp_path / "out").read_text() == "sch\\xf6n\n"


@pytest.mark.parametrize(
    "script, world, told",
    [(OF_MANY, {"RANK": "1", "WORLD_SIZE": "2"}, ""),
     (OF_MANY, {"RANK": "0", "WORLD_SIZE": "2"}, "schön\n"),
     (OF_MANY, {"RANK": "1"}, "schön\n"),  # left by another program: nobody else is there
     (OF_MANY, {"RANK": "1", "WORLD_SIZE": "1"}, "schön\n"),
     (HELLO, {"RANK": "1", "WORLD_SIZE": "2"}, "schön\n"), (HELLO, {"RANK": "1"}, "schön\n")],
)  # fmt: skip
def test_only_a_script_that_runs_as_many_processes_leaves_the_printing_to_the_first(
    script, world, told
):
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, encoding="utf-8",
        env={**os.environ, **world, "PYTHONUTF8": "1"},
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, told, "")


@pytest.mark.parametrize(
    "of_many, told", [(True, "error (process 1): wrong\n"), (False, "error: wrong\n")]
)
def test_of_many_processes_those_after_the_first_complain_by_number(
    of_many, told, capsys, monkeypatch
):
    def main():
        raise RositaError("wrong")

    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit):
        run_script(main, of_many=of_many)
    assert capsys.readouterr().err == told


def test_a_process_that_prints_nothing_needs_no_letters_of_the_locale(tmp_path):
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", OF_MANY.replace("ö", "\\xf6")], capture_output=True, text=True,
        env={**os.environ, **locale, "RANK": "1", "WORLD_SIZE": "2"},
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
