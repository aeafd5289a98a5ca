"""How a script's main is run: what goes wrong becomes one line and an exit code."""

import builtins
import tomllib

import pytest
from conftest import REPOSITORY

from rosita.cli import EXTRAS, run_script
from rosita.errors import RositaError


def end_of(main, capsys):
    with pytest.raises(SystemExit) as end:
        run_script(main)
    return end.value.code, capsys.readouterr().err


def test_a_mistake_is_one_line_and_exit_code_2(capsys):
    def main():
        raise RositaError("a\nlong  story")

    assert end_of(main, capsys) == (2, "error: a long story\n")


@pytest.mark.parametrize("package, extra", EXTRAS.items())
def test_a_package_that_is_not_installed_is_named_with_the_extra_that_brings_it(
    package, extra, capsys, monkeypatch
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
        f'error: {package} is not installed, and this needs it: pip install -e ".[{extra}]"\n'
    )
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    brought = [name.split("=")[0] for name in project["optional-dependencies"][extra]]
    assert package in brought or package == "botocore"  # which boto3 brings


def test_a_missing_module_of_anything_else_is_not_hidden():
    def main():
        raise ModuleNotFoundError("No module named 'rosita.gone'", name="rosita.gone")

    with pytest.raises(ModuleNotFoundError):
        run_script(main)
