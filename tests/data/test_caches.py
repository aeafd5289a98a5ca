"""Caches: whose they are, and what a second user of the data meets."""

import os
import shutil
import tempfile
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import make_bert

from rosita.checkpoint import load_model
from rosita.data.encode import encode_file
from rosita.distillation.teacher import Teacher
from rosita.errors import RositaError
from rosita.files import private_folder
from rosita.provenance import say_once
from rosita.runtime import start_accelerator
from rosita.tasks import GLUE
from rosita.tokenizer import read_tokenizer

COLA = GLUE["CoLA"]


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """The temporary directory of the machine."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    say_once.cache_clear()
    return tmp_path / "tmp"


@pytest.fixture
def encode(bert, cola):
    tokenizer = read_tokenizer(bert)
    return lambda **more: encode_file(cola / "train.tsv", COLA, tokenizer, 32, **more)


def test_the_temporary_folder_is_this_users_alone(temporary):
    folder = private_folder()
    assert folder == temporary / f"rosita-{os.getuid()}" == private_folder()
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("planted", ["link", "file", "open to all", "of another user"])
def test_what_another_user_planted_in_its_place_is_not_taken(planted, temporary, monkeypatch):
    place = temporary / f"rosita-{os.getuid()}"
    if planted == "link":
        (temporary / "theirs").mkdir(mode=0o700)
        place.symlink_to("theirs")
    elif planted == "file":
        place.touch(mode=0o600)
    elif planted == "open to all":
        place.mkdir()
        place.chmod(0o777)
    else:
        monkeypatch.setattr(os, "getuid", lambda: 54321)
        place = temporary / "rosita-54321"
        place.mkdir(mode=0o700)
    with pytest.raises(RositaError, match=f"^{place} is not a folder of yours alone; remove it"):
        private_folder()


def test_no_temporary_folder_at_all_is_one_line(monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/proc/none"])
    with pytest.raises(RositaError, match="^no temporary folder can be written .* TMPDIR$"):
        private_folder()


@pytest.mark.parametrize("kept_back", ["folder", "cache", "entry", "file", "all but reading"])
def test_where_a_user_may_not_use_the_cache_of_another_their_own_takes_its_place(
    kept_back, encode, cola, temporary, capsys, as_ordinary_user
):
    expected = encode()
    cache = cola / "cache"
    barred = {"folder": cola, "entry": expected.cache, "file": expected.cache / "done.json"}
    barred = barred.get(kept_back, cache)
    if kept_back == "folder":  # data that are read-only, and have no cache
        shutil.rmtree(cache)
    barred.chmod(0o500 if kept_back in ("folder", "all but reading") else 0)
    try:
        found = encode()
        again = encode()
    finally:
        barred.chmod(0o700)
    assert np.array_equal(found.ids, expected.ids) and again.cache == found.cache
    told = capsys.readouterr().out
    if kept_back == "all but reading":
        assert found.cache == expected.cache and told == ""
    else:
        assert found.cache.parent == temporary / f"rosita-{os.getuid()}"
        assert told.count("\n") == 1 and "Permission denied" in told and str(cache) in told


def test_a_cache_is_as_readable_as_the_data_beside_it(encode, cola):
    cola.joinpath("cache").mkdir(mode=0o750)
    assert encode().cache.stat().st_mode & 0o777 == 0o750


def test_a_cache_of_rows_read_by_older_rules_is_not_taken(encode, monkeypatch):
    monkeypatch.setattr("rosita.data.encode.READING", 1)
    older = encode().cache
    monkeypatch.undo()
    assert encode().cache == encode().cache != older


def test_a_cache_folder_that_is_named_and_cannot_be_written_is_one_line(
    encode, tmp_path, as_ordinary_user
):
    (tmp_path / "shut").mkdir(mode=0o500)
    with pytest.raises(RositaError, match="cannot write .*shut: Permission denied; .*--cache_dir"):
        encode(cache_dir=tmp_path / "shut")


def test_a_teacher_remembers_in_its_users_folder_where_the_cache_is_anothers(
    encode, tmp_path, temporary, as_ordinary_user
):
    teacher = load_model(make_bert(tmp_path / "teacher"), COLA, new_classifier=True)
    file, rows = encode(), np.arange(3)
    accelerator = start_accelerator(SimpleNamespace(precision="fp32", no_cuda=True, seed=1))
    expected = Teacher(teacher).say(file.batch(rows)).logits

    def recalled(name):
        guide = Teacher(teacher)
        guide.remember([file], name, accelerator)
        teacher.forward = None  # who remembers is not asked
        try:
            return guide.say(file.batch(rows)).logits
        finally:
            del teacher.forward

    recalled("first")  # by the user of the cache
    file.cache.chmod(0o500)
    try:
        for name in ("first", "second", "second"):
            np.testing.assert_allclose(recalled(name), expected, atol=1e-5)
    finally:
        file.cache.chmod(0o700)
    own = temporary / f"rosita-{os.getuid()}" / f"teacher-{file.cache.name}"
    assert sorted(path.suffix for path in own.iterdir()) == [".json", ".npy"]
