"""The command line: parsers whose complaint is one line, and how a script's main is run."""

from __future__ import annotations

import argparse
import gc
import io
import math
import os
import platform
import re
import shlex
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable
from contextlib import nullcontext, redirect_stdout, suppress
from itertools import pairwise
from typing import Any, NoReturn

from pydantic import BaseModel

from rosita.errors import RositaError, nearest

# Packages that not every install has -> what of pyproject.toml brings them. The serving of an ONNX
# export (Deploy/requirements.txt) does without those of the stages.
BRINGS = {"matplotlib": '".[report]"', "boto3": '".[s3]"', "botocore": '".[s3]"',
          "onnx": '".[export]"', "onnxruntime": '".[export]"',
          "torch": ".", "transformers": ".", "accelerate": ".", "safetensors": ".", "scipy": ".",
          "sklearn": ".", "huggingface_hub": ".", "jinja2": "."}  # fmt: skip
INTERRUPTED = "interrupted; the same command again goes on from what was saved, if anything was"
LARGEST = 2**53  # whole number that settings take: exact in JSON, and torch takes it
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
        """As argparse; a retired flag raises `RositaError` with its hint, and so does an empty
        value.

        Flags are looked for by name before argparse parses: as options they would make
        abbreviations of others ambiguous (--data, by --data_url), and left to it, abbreviate others
        themselves.
        """
        words = sys.argv[1:] if args is None else list(args)
        for before, word in pairwise(["", *words]):
            flag, equals, value = word.partition("=")
            if flag in self.retired:
                raise RositaError(f"{flag} is not a flag of this script: {self.retired[flag]}")
            if flag.startswith("-") and equals:
                refuse_empty(value, flag)
            refuse_empty(word, before or "the first argument")
        return super().parse_known_args(words, namespace)

    def error(self, message: str) -> NoReturn:
        flags = [flag for action in self._actions for flag in action.option_strings]
        hint = ""
        if message.startswith("unrecognized arguments: "):
            hint = nearest(message.split(": ")[1].split()[0].split("=")[0], flags)
        raise RositaError(f"{message}{hint} (--help lists all flags)")


# what a launcher of many processes (torchrun, accelerate launch) tells each of them
_LAUNCHED = ("RANK", "LOCAL_RANK", "WORLD_SIZE")


def process_number() -> int:
    """Which of many processes this is, from 0; a RANK alone is left by another program."""
    rank = os.environ.get("RANK", "")
    return int(rank) if rank.isdecimal() and process_count() > 1 else 0


def process_count() -> int:
    """How many processes a launcher has begun together."""
    world = os.environ.get("WORLD_SIZE", "")
    return int(world) if world.isdecimal() else 1


def is_first_process() -> bool:
    """Of many processes one prints and writes."""
    return not process_number()


def run_script(main: Callable[[], None], *, of_many: bool = False) -> None:
    """Call a stage script's `main`; whatever goes wrong is one line on stderr.

    Exit codes: 2 for a mistake that the user can mend (a `RositaError`, a file, a package that is
    not there), 1 for one of ours, whose traceback is kept in a file (ROSITA_TRACEBACK=1 prints it),
    130 after an interrupt. `of_many`: it may run as many processes, of which only the first prints;
    all can complain, the others say which one they are. Without it a launcher's variables, meant
    for a program around this one, are forgotten.
    """
    if not of_many:
        for name in _LAUNCHED:
            os.environ.pop(name, None)
    first = is_first_process()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a letter that the locale lacks ends no run
            with suppress(OSError):
                stream.reconfigure(errors="backslashreplace")
    try:
        _check_folder()
        with (
            open(os.devnull, "w", encoding="utf-8", errors="replace") as nowhere,
            nullcontext() if first else redirect_stdout(nowhere),
        ):
            main()
        if sys.stdout:
            sys.stdout.flush()
    except BrokenPipeError:  # `| head` has enough
        _drop_output()
        sys.exit(1)
    except RositaError as error:
        _complain(str(error))
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package not in BRINGS:
            _report(error)
        _complain(
            f"{package} is not installed, and this needs it: pip install -e {BRINGS[package]}"
        )
    except OSError as error:
        _drop_output()
        where = f": {error.filename}" if error.filename else ""
        _complain(f"{error.strerror or type(error).__name__}{where}")
    except KeyboardInterrupt:
        print(INTERRUPTED, file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if memory := _full_memory(error):
            _complain(
                f"the {memory} is full; lower the batch size, or raise"
                " --gradient_accumulation_steps"
            )
        _report(error)
    finally:
        # An interpreter that ends looks through all that torch and transformers ever made for
        # circles of garbage, for a second; the system takes it back anyway.
        gc.freeze()


def _check_folder() -> None:
    try:
        os.getcwd()
    except OSError:
        raise RositaError("the folder that you are in is gone; cd to another") from None


def _full_memory(error: Exception) -> str | None:
    """Which memory an error says is full: torch has a class of error for that of a GPU alone."""
    if type(error).__name__ == "OutOfMemoryError":
        return "GPU's memory"
    is_full = isinstance(error, MemoryError) or "can't allocate memory" in str(error)
    return "memory" if is_full else None


def _complain(message: str) -> NoReturn:
    """One line of what is wrong, from whichever process; exit code 2."""
    who = "" if is_first_process() else f" (process {process_number()})"
    with suppress(OSError):  # nowhere is left to say it
        print(f"error{who}: {' '.join(message.split())}", file=sys.stderr, flush=True)
    _drop_output()
    sys.exit(2)


def _report(error: Exception) -> NoReturn:
    """A mistake of ours: one line, and the traceback in a file to send in; exit code 1."""
    if os.environ.get("ROSITA_TRACEBACK"):
        raise error
    from importlib.metadata import distributions

    versions = sorted(f"{one.name} {one.version}" for one in distributions())
    told = (
        f"command: {shlex.join(sys.argv)}\nPython {sys.version} on {platform.platform()}\n"
        f"{', '.join(versions)}\n"
    )
    lines = [*traceback.format_exception(error), told]
    kind = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
    try:
        descriptor, path = tempfile.mkstemp(prefix="rosita-traceback-", suffix=".txt", text=True)
        with open(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.writelines(lines)
    except OSError:
        print("".join(lines), file=sys.stderr)
        path = "the lines above"
    print(
        f"error: a mistake of this program ({kind}); please report it with {path}", file=sys.stderr
    )
    sys.exit(1)


def _drop_output() -> None:
    """What is left to flush goes nowhere: its reader is gone, or its disk full."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            if isinstance(stream, io.TextIOWrapper):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


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


def refuse_empty(value: object, source: str) -> None:
    """Raise `RositaError` naming its source for an empty text, as that of an unset shell
    variable: as a path it would be the current folder."""
    if isinstance(value, str) and not value.strip():
        raise RositaError(f"{source}: an empty value: give it one, or leave it out")


def positive(text: str) -> int:
    """A whole number from 1 on, from a command line."""
    if not text.strip().isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    if int(text) > LARGEST:
        raise argparse.ArgumentTypeError(f"{text!r} is more than {LARGEST}")
    return int(text)


def amount(text: str) -> float:
    """A number above 0, from a command line; infinity is none."""
    with suppress(ValueError):
        if 0 < float(text) < math.inf:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")


def parse_size(text: str, flag: str, unit: str = "") -> int:
    """The number that `15M`, `14.5M`, `500k` or, with `unit` "B", `14MB` means; decimal prefixes.

    Raises `RositaError` that names `flag` for anything else, and for 0.
    """
    match = _SIZE.fullmatch(text.strip())
    value = float(match[1]) * _SCALE[match[2].lower()] if match and (unit or not match[3]) else 0
    if 0 < value < math.inf:
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
