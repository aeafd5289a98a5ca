"""The command line: parsers whose complaint is one line, and how a script's main is run."""

from __future__ import annotations

import argparse
import gc
import os
import re
import sys
from collections.abc import Callable, Iterable
from contextlib import nullcontext, redirect_stdout
from typing import Any, NoReturn

from pydantic import BaseModel

from rosita.errors import RositaError, nearest

# Packages that a part of the scripts needs -> the extra of pyproject.toml that brings them.
EXTRAS = {"matplotlib": "report", "boto3": "s3", "botocore": "s3", "onnx": "export",
          "onnxruntime": "export"}  # fmt: skip
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kKmMgG]?)([bB]?)")
_CLASS = re.compile(r"(?!\^)(?:[^][\\]|\\.)+")  # what may stand between the brackets of a class
_SCALE = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}


class ArgumentParser(argparse.ArgumentParser):
    """A parser whose complaint is one line too, and offers the nearest flag.

    `retired`: flags of the published script that this one does without -> what to do instead.
    """

    def __init__(self, *args: Any, retired: dict[str, str] | None = None, **more: Any) -> None:
        super().__init__(*args, **more)
        self.retired = retired or {}

    def parse_known_args(
        self, args: Iterable[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """As argparse; a retired flag raises `RositaError` with its hint.

        Looked for by name before argparse parses: as options they would make abbreviations of
        other flags ambiguous (--data, by --data_url), and left to it, abbreviate others themselves.
        """
        words = sys.argv[1:] if args is None else list(args)
        for word in words:
            flag = word.split("=")[0]
            if flag in self.retired:
                raise RositaError(f"{flag} is not a flag of this script: {self.retired[flag]}")
        return super().parse_known_args(words, namespace)

    def error(self, message: str) -> NoReturn:
        flags = [flag for action in self._actions for flag in action.option_strings]
        hint = ""
        if message.startswith("unrecognized arguments: "):
            hint = nearest(message.split(": ")[1].split()[0].split("=")[0], flags)
        raise RositaError(f"{message}{hint} (--help lists all flags)")


def is_first_process() -> bool:
    """Of many processes (torchrun, accelerate launch) one prints and writes."""
    return os.environ.get("RANK", "0") == "0"


def run_script(main: Callable[[], None]) -> None:
    """Call a stage script's `main`; a `RositaError` becomes one line on stderr and exit code 2.

    Of many processes only the first prints. All can complain; the others say which one they are.
    """
    first = is_first_process()
    try:
        with open(os.devnull, "w") as nowhere, nullcontext() if first else redirect_stdout(nowhere):
            main()
            sys.stdout.flush()
    except BrokenPipeError:  # `| head` has enough; what is left to flush goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except RositaError as error:
        who = "" if first else f" (process {os.environ['RANK']})"
        print(f"error{who}: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package not in EXTRAS:
            raise
        print(
            f"error: {package} is not installed, and this needs it:"
            f' pip install -e ".[{EXTRAS[package]}]"',
            file=sys.stderr,
        )
        sys.exit(2)
    except KeyboardInterrupt:
        print(
            "interrupted; the same command again goes on from the last saved state", file=sys.stderr
        )
        sys.exit(130)
    finally:
        # An interpreter that ends looks through all that torch and transformers ever made for
        # circles of garbage, for a second; the system takes it back anyway.
        gc.freeze()


def add_flags(parser: argparse.ArgumentParser, kind: type[BaseModel]) -> None:
    """Give `parser` one flag per setting; a switch takes True or False, or nothing for True."""
    for name, field in kind.model_fields.items():
        is_switch = bool in (field.annotation, *getattr(field.annotation, "__args__", ()))
        default = "" if field.is_required() else f" (default: {field.default})"
        text = f"{field.description}{default}".replace("%", "%%")
        more: dict[str, Any] = {"nargs": "?", "const": "True"} if is_switch else {}
        parser.add_argument(
            f"--{name}", default=argparse.SUPPRESS, help=text, metavar=name.upper(), **more
        )


def positive(text: str) -> int:
    """A whole number from 1 on, from a command line."""
    if not text.strip().isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def parse_size(text: str, flag: str, unit: str = "") -> int:
    """The number that `15M`, `14.5M`, `500k` or, with `unit` "B", `14MB` means; decimal prefixes.

    Raises `RositaError` that names `flag` for anything else, and for 0.
    """
    match = _SIZE.fullmatch(text.strip())
    if match and (unit or not match[3]) and (value := float(match[1]) * _SCALE[match[2].lower()]):
        return round(value)
    raise RositaError(f"{flag} {text!r} is no size; write it like 500k{unit} or 14.5M{unit}")


def character_class(text: str) -> re.Pattern[str]:
    """The words that consist of a class of characters: `letters` for the letters of all scripts,
    or what stands between the brackets of a regular expression.

    Raises `ValueError` that says what is wrong with the text, and how to write a class.
    """
    if text == "letters":
        return re.compile(r"[^\W\d_]+")
    try:
        if not _CLASS.fullmatch(text):
            raise re.error("brackets, a ^ at its start or nothing at all")
        return re.compile(f"[{text}]+")
    except re.error as error:
        raise ValueError(
            f"is no class of characters ({error.msg}); write a-z, a-zäöüß, \\u4e00-\\u9fff or the"
            " like, or letters for those of all scripts"
        ) from None
