import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_bert, sentences, write_cola
from transformers import BertTokenizer

from rosita.data.batches import Sampler, batches_by_length, pool_size
from rosita.data.encode import encode_file
from rosita.data.records import content_hash, read_jsonl
from rosita.data.tsv import TsvFile
from rosita.errors import RositaError
from rosita.tasks import GLUE, Task, find_task
from rosita.tokenizer import read_tokenizer


@pytest.fixture
def tokenizer(bert):
    return read_tokenizer(bert)


def test_token_ids_are_those_of_transformers_bert_tokenizer(bert, cola, tokenizer):
    oracle = BertTokenizer.from_pretrained(bert)
    encoded = encode_file(cola / "train.tsv", GLUE["CoLA"], tokenizer, 8)
    texts = [row.texts[0] for row in TsvFile(cola / "train.tsv", GLUE["CoLA"]).rows()]
    expected = oracle(texts, truncation=True, max_length=8)["input_ids"]
    for row, ids in enumerate(expected):
        part = encoded.ids[encoded.offsets[row] : encoded.offsets[row + 1]]
        assert part.tolist() == ids


def test_pairs_are_cut_longest_first_with_token_types_of_transformers(bert, tmp_path, tokenizer):
    oracle = BertTokenizer.from_pretrained(bert)
    first, second = sentences(30, 1), sentences(30, 2)
    pairs = zip(first, second, strict=True)
    rows = [f"{i}\t{a}\t{b}\tentailment" for i, (a, b) in enumerate(pairs)]
    path = tmp_path / "train.tsv"
    path.write_text("\n".join(["index\tsentence1\tsentence2\tlabel", *rows]) + "\n")
    encoded = encode_file(path, GLUE["RTE"], tokenizer, 12)
    batch = encoded.batch(np.arange(30))
    expected = oracle(
        first, second, truncation="longest_first", max_length=12, padding=True, return_tensors="pt"
    )
    for name, value in batch.inputs.items():
        torch.testing.assert_close(value, expected[name], msg=name)


def test_the_cache_is_used_for_the_same_and_never_for_other_content(cola, tokenizer, monkeypatch):
    task = GLUE["CoLA"]
    first = encode_file(cola / "dev.tsv", task, tokenizer, 32)
    import rosita.data.encode

    monkeypatch.setattr(rosita.data.encode, "_encode", None)  # a second encoding would fail
    again = encode_file(cola / "dev.tsv", task, tokenizer, 32)
    assert np.array_equal(first.ids, again.ids)
    monkeypatch.undo()
    (cola / "dev.tsv").write_text("x\t1\t\tthe dog ran\n")
    assert len(encode_file(cola / "dev.tsv", task, tokenizer, 32)) == 1
    assert len(encode_file(cola / "train.tsv", task, tokenizer, 4).ids) < len(
        encode_file(cola / "train.tsv", task, tokenizer, 32).ids
    )


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place % len(content)] ^= 1
    path.write_bytes(content)


def test_a_cache_with_a_flipped_or_lost_byte_is_made_again_with_one_line(cola, tokenizer, capsys):
    task, path = GLUE["CoLA"], cola / "dev.tsv"
    first = encode_file(path, task, tokenizer, 32)
    expected = {name: np.array(getattr(first, name)) for name in ("ids", "labels", "first")}
    capsys.readouterr()
    for file in sorted(first.cache.iterdir()):
        for harm in (lambda f: flip(f, 40), lambda f: os.truncate(f, 20), Path.unlink):
            harm(file)
            again = encode_file(path, task, tokenizer, 32)
            for name, values in expected.items():
                assert np.array_equal(getattr(again, name), values), (file, name)
            (line,) = capsys.readouterr().out.splitlines()
            assert str(first.cache) in line and line.endswith("is read anew")
    assert not list(cola.glob("cache/.new-*"))


def test_a_file_that_changes_while_it_is_read_is_not_cached(cola, tokenizer, monkeypatch):
    import rosita.data.encode as module

    def hash_then_change(path):
        found = content_hash(path)
        (cola / "dev.tsv").write_text("x\t1\t\tthe dog ran\n")
        return found

    monkeypatch.setattr(module, "content_hash", hash_then_change)
    with pytest.raises(RositaError, match="dev.tsv changed while it was read"):
        encode_file(cola / "dev.tsv", GLUE["CoLA"], tokenizer, 32)
    assert not list((cola / "cache").iterdir())


def sampler(tmp_path, rows=(23, 40), size=4, seed=7) -> Sampler:
    folder = make_bert(tmp_path / "bert")
    built = read_tokenizer(folder)
    files = [
        encode_file(
            write_cola(tmp_path / str(count), train=count) / "train.tsv", GLUE["CoLA"], built, 32
        )
        for count in rows
    ]
    return Sampler(files, size, seed)


def test_an_epoch_visits_every_row_of_every_subset_once(tmp_path):
    made = sampler(tmp_path)
    seen: dict[int, list[int]] = {}
    steps = list(made.epoch(0))
    for file, rows in steps:
        seen.setdefault(len(file), []).extend(rows.tolist())
    assert {count: sorted(rows) for count, rows in seen.items()} == {
        23: list(range(23)),
        40: list(range(40)),
    }
    assert len(steps) == made.steps_per_epoch == 6 + 10


def test_an_epoch_can_be_resumed_at_any_step_and_differs_from_the_next(tmp_path):
    made = sampler(tmp_path)
    whole = [rows.tolist() for _, rows in made.epoch(3)]
    for start in range(len(whole) + 1):
        assert [rows.tolist() for _, rows in made.epoch(3, start)] == whole[start:]
    assert [rows.tolist() for _, rows in made.epoch(4)] != whole


def test_bucketing_pads_less_than_half_of_what_random_batches_pad(tmp_path):
    made = sampler(tmp_path, rows=(400,), size=8)
    lengths = made.files[0].lengths()

    def padding(batches):
        return sum(lengths[rows].max() * len(rows) - lengths[rows].sum() for rows in batches)

    order = np.random.default_rng(0).permutation(400)
    random = [order[begin : begin + 8] for begin in range(0, 400, 8)]
    assert padding([rows for _, rows in made.epoch(0)]) < 0.5 * padding(random)


def test_evaluation_batches_hold_every_row_once(tmp_path):
    file = sampler(tmp_path, rows=(40,)).files[0]
    rows = np.concatenate(list(batches_by_length(file, 60)))
    assert sorted(rows.tolist()) == list(range(40))


def test_quotes_crlf_bom_and_blank_lines_at_the_end_are_read(tmp_path, tokenizer):
    path = tmp_path / "train.tsv"
    path.write_bytes(b'\xef\xbb\xbfa\t1\t\t"the dog\r\nb\t0\t\tthe cat"\r\n\r\n\r\n')
    rows = list(TsvFile(path, GLUE["CoLA"]).rows())
    assert [row.texts[0] for row in rows] == ['"the dog', 'the cat"']
    assert len(encode_file(path, GLUE["CoLA"], tokenizer, 32)) == 2


@pytest.mark.parametrize(
    "content, words",
    [
        (b"", "no rows"),
        (b"a\t1\t\tx\n\nb\t1\t\ty\n", "line 2 is blank"),
        (b"a\t1\t\tx\nb\t1\n", "line 2: 2 columns"),
        (b"a\tyes\t\tx\n", "label 'yes' is not one of 0, 1"),
        (b"a\t1\t\tx\nb\t1\t\t\xff\n", "line 2 is not UTF-8"),
        (b"a\t1\t\tx\0\n", "line 1 has a NUL"),
        (b"a\t1\t\t" + b"x" * 1_000_001, "longer than 1 MB"),
        (b"only\tthree\tcolumns\n", "another task's file"),
    ],
)
def test_faults_of_a_tsv_name_the_file_the_line_and_the_fault(tmp_path, tokenizer, content, words):
    path = tmp_path / "train.tsv"
    path.write_bytes(content)
    with pytest.raises(RositaError, match="train.tsv") as caught:
        encode_file(path, GLUE["CoLA"], tokenizer, 32)
    assert words in str(caught.value)
    assert not list((tmp_path / "cache").glob("*"))  # nothing half-written


@pytest.mark.parametrize(
    "task, name, lines, words",
    [
        ("SST-2", "dev.tsv", ["a dog ran\t1", "a cat\t0"], "looks like a row"),
        ("STS-B", "dev.tsv", ["\t" * 7 + "a\tb\t2.5"] * 2, "looks like a row"),
        ("SST-2", "test.tsv", ["0\ta dog ran", "1\ta cat"], "looks like a row"),
        ("CoLA", "dev.tsv", ["src\tlabel\tmark\ttext", "s\t1\t\ta dog"], "like a header"),
        ("SST-2", "dev.tsv", ["sentence\tlabel", "a\t1"] * 2, "line 3 is the header once more"),
        ("SST-2", "test.tsv", ["index\tsentence", "0\ta"] * 2, "line 3 is the header once more"),
    ],
)
def test_a_header_that_looks_like_a_row_and_a_row_like_a_header_are_told(
    tmp_path, task, name, lines, words
):
    (tmp_path / name).write_text("".join(f"{line}\n" for line in lines))
    with pytest.raises(RositaError, match=words):
        list(TsvFile(tmp_path / name, GLUE[task], labelled=name == "dev.tsv").rows())


def test_a_number_off_the_tasks_scale_is_told_with_its_line(tmp_path, tokenizer):
    path, row = tmp_path / "dev.tsv", "\t" * 7 + "a\tb\t"
    header = "\t".join(["x"] * 9 + ["score"])
    path.write_text(f"{header}\n{row}5.0\n{row}2012\n")
    with pytest.raises(RositaError, match="line 3: label '2012' is not within 0..5, the scale of"):
        encode_file(path, GLUE["STS-B"], tokenizer, 32)
    any_number = GLUE["STS-B"].model_copy(update={"label_range": None})
    assert encode_file(path, any_number, tokenizer, 32).labels.tolist() == [5, 2012]


def test_a_key_given_twice_in_a_json_file_is_told_with_both_its_values(tmp_path):
    path = tmp_path / "task.json"
    path.write_text('{"name": "mine", "labels": ["0", "1"],\n "labels": ["1", "0"]}')
    with pytest.raises(RositaError) as caught:
        find_task(str(path))
    assert "'labels' is there twice, with ['0', '1'] and ['1', '0']" in str(caught.value)
    rows = tmp_path / "dev.jsonl"
    rows.write_text('{"text": "a", "text": "b"}\n')
    with pytest.raises(RositaError, match="dev.jsonl line 1: the key 'text' is there twice"):
        next(read_jsonl(rows))


def test_short_rows_of_qqp_are_skipped_and_counted(tmp_path, tokenizer, capsys):
    path = tmp_path / "train.tsv"
    head = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
    path.write_text(head + "1\t2\t3\tthe dog\tthe cat\t1\n4\t5\t6\tthe dog\n7\t8\t9\ta\tb\t0\n")
    encoded = encode_file(path, GLUE["QQP"], tokenizer, 32)
    assert len(encoded) == 2 and encoded.skipped == 1
    assert "1 rows too short were skipped" in capsys.readouterr().out


def test_pieces_of_a_split_file_are_read_with_and_without_a_header(tmp_path, tokenizer):
    head = "sentence\tlabel"
    (tmp_path / "train_aug0.tsv").write_text(f"{head}\nthe dog\t1\nthe cat\t0\n")
    (tmp_path / "train_aug1.tsv").write_text("the bird\t1\na child\t0\n")
    for name in ("train_aug0.tsv", "train_aug1.tsv"):
        encoded = encode_file(tmp_path / name, GLUE["SST-2"], tokenizer, 32, train_header=head)
        assert encoded.labels.tolist() == [1, 0]


def test_a_task_of_the_users_own_reads_columns_by_name(tmp_path, tokenizer):
    (tmp_path / "my.json").write_text(
        '{"name": "Mood", "labels": ["glum", "merry"], "metric": "accuracy",'
        ' "text_columns": ["text"], "label_column": "mood", "train_file": "t.tsv"}'
    )
    (tmp_path / "t.tsv").write_text("id\tmood\ttext\n1\tmerry\tthe dog ran\n2\tglum\ta cat\n")
    task = find_task(str(tmp_path / "my.json"))
    encoded = encode_file(tmp_path / "t.tsv", task, tokenizer, 32)
    assert encoded.labels.tolist() == [1, 0]


def test_a_task_of_the_users_own_without_headers_has_none_in_test_either(tmp_path, tokenizer):
    task = Task(name="Mood", labels=("a", "b"), metric="accuracy", text_columns=(0,), header=False)
    (tmp_path / "test.tsv").write_text("the dog ran\na cat\na bird\n")
    path = tmp_path / "test.tsv"
    assert len(encode_file(path, task, tokenizer, 32, labelled=False)) == 3
    as_before = task.model_copy(update={"name": "CoLA"})  # GLUE's rule: another cache
    assert len(encode_file(path, as_before, tokenizer, 32, labelled=False)) == 2
    assert len(encode_file(path, task, tokenizer, 32, labelled=False)) == 3
    assert not GLUE["CoLA"].header  # whose test file has one all the same
    (tmp_path / "test.tsv").write_text("index\tsentence\n0\ta cat\n")
    assert len(encode_file(tmp_path / "test.tsv", GLUE["CoLA"], tokenizer, 32, labelled=False)) == 1


@pytest.mark.parametrize("test_file", ["test/data.tsv", "data.tsv"])
def test_a_test_file_of_the_same_name_in_another_folder_does_not_make_train_one(
    tmp_path, tokenizer, test_file
):
    task = Task(name="Mood", labels=("a", "b"), metric="accuracy", text_columns=("text",),
                label_column="mood", test_text_columns=("source",), train_file="train/data.tsv",
                test_files=(test_file,))  # fmt: skip
    for name in ("train/data.tsv", test_file):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("source\ttext\tmood\nthe dog ran\ta cat\ta\n")
    read = {
        name: next(TsvFile(tmp_path / name, task).rows()).texts
        for name in ("train/data.tsv", test_file)
    }
    assert read == {"train/data.tsv": ("a cat",), test_file: ("the dog ran",)}


MOOD = Task(name="Mood", labels=("a", "b"), metric="accuracy", text_columns=("text",),
            label_column="mood")  # fmt: skip


def test_a_row_of_more_fields_than_its_header_is_told_with_its_line(tmp_path, tokenizer):
    (tmp_path / "t.tsv").write_text("mood\ttext\na\tthe dog\nb\tthe dog\tand the cat\n")
    with pytest.raises(RositaError, match="line 3: 3 columns, but the header has 2; is there"):
        encode_file(tmp_path / "t.tsv", MOOD, tokenizer, 32)


def test_a_row_of_other_width_than_the_first_is_told_where_no_header_says_the_width(tmp_path):
    bare = MOOD.model_copy(update={"header": False, "text_columns": (1,), "label_column": 0})
    for first, second in (("a\tthe dog", "b\tthe dog\tran"), ("a\tthe dog\tran", "b\tthe dog")):
        (tmp_path / "t.tsv").write_text(f"{first}\n{second}\n")
        told = (
            rf"line 2: \d columns, but the first row has {first.count(chr(9)) + 1}; is there a tab"
        )
        with pytest.raises(RositaError, match=told):
            list(TsvFile(tmp_path / "t.tsv", bare).rows())
    piece = tmp_path / "train_aug1.tsv"  # only the first piece of a split file has the header
    piece.write_text("b\tthe dog\tand the cat\n")
    with pytest.raises(RositaError, match="line 1: 3 columns, but the header has 2"):
        list(TsvFile(piece, MOOD, train_header="mood\ttext").rows())


@pytest.mark.parametrize("columns", [{"text_columns": (-3,)}, {"label_column": -3}])
def test_a_column_counted_from_the_end_that_a_row_lacks_is_told(tmp_path, columns):
    bare = MOOD.model_copy(update={"header": False, "text_columns": (0,), **columns})
    (tmp_path / "t.tsv").write_text("the dog\ta\nthe cat\tb\n")
    with pytest.raises(RositaError, match="line 1 has 2 columns, but Mood needs column 3"):
        list(TsvFile(tmp_path / "t.tsv", bare).rows())


def test_a_header_that_has_a_column_of_the_task_twice_is_refused(tmp_path):
    (tmp_path / "t.tsv").write_text("text\tmood\ttext\nthe dog\ta\tthe cat\n")
    with pytest.raises(RositaError, match="t.tsv has the column 'text' twice"):
        list(TsvFile(tmp_path / "t.tsv", MOOD).rows())


@pytest.mark.parametrize(
    "change, word",
    [
        ('"labels": ["a"]', "two or more"),
        ('"labels": "regression"', "pearson_and_spearman"),
        ('"label_range": [0, 5]', "label_range goes with labels 'regression'"),
        (
            '"labels": "regression", "metric": "pearson_and_spearman", "label_range": [5, 0]',
            "label_range must go from a number to a larger one",
        ),
        ('"colour": 1', "unknown key 'colour'"),
        ('"text_columns": []', "text_columns"),
        ('"name": "sst2"', "name 'sst2' is that of GLUE's SST-2; choose another"),
        ('"name": "AX"', "name 'AX' is that of GLUE's AX"),
        ('"dev_files": []', "dev_files"),
        ('"submission_files": ["a.tsv", "b.tsv"]', "one for each of test_files"),
        ('"test_text_columns": [0, 1]', "as many as text_columns"),
    ],
)
def test_faults_of_a_task_file_are_named(tmp_path, change, word):
    values = {"name": "T", "labels": ["a", "b"], "metric": "accuracy", "text_columns": [0]}
    (tmp_path / "t.json").write_text(json.dumps(values | json.loads("{" + change + "}")))
    with pytest.raises(RositaError, match=word):
        find_task(str(tmp_path / "t.json"))


def test_task_names_of_any_case_and_short_forms_are_accepted():
    assert find_task("sst-2") is find_task("SST") is GLUE["SST-2"]
    assert find_task("stsb") is GLUE["STS-B"]
    with pytest.raises(RositaError, match="did you mean 'CoLA'"):
        find_task("colaa")
    assert isinstance(GLUE["MNLI"], Task) and len(GLUE) == 9


def test_no_more_than_a_third_of_a_large_file_and_at_most_200_batches_are_sorted_together():
    sizes = {batches: pool_size(batches) for batches in (1, 78, 150, 267, 600, 10**6)}
    assert sizes == {1: 50, 78: 50, 150: 50, 267: 89, 600: 200, 10**6: 200}
