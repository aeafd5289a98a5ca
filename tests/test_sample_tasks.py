"""The sample tasks: GLUE's layout, the same bytes every time, nothing shared between the splits."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from rosita.data.tsv import TsvFile
from rosita.errors import RositaError
from rosita.files import sha256_file
from rosita.tasks import GLUE, PAPER_TASKS

DATA = Path(__file__).parents[1] / "data"
sys.path.insert(0, str(DATA))
import sample_tasks  # noqa: E402
from sample_words import nouns, verbs  # noqa: E402

MNLI_COLUMNS = (
    "index promptID pairID genre sentence1_binary_parse sentence2_binary_parse sentence1_parse"
    " sentence2_parse sentence1 sentence2"
).split()
# What the first lines of the real files say; None: a file without a header.
HEADERS = {
    ("CoLA", "train"): None,
    ("CoLA", "dev"): None,
    ("CoLA", "test"): ["index", "sentence"],
    ("SST-2", "train"): ["sentence", "label"],
    ("SST-2", "dev"): ["sentence", "label"],
    ("SST-2", "test"): ["index", "sentence"],
    ("MNLI", "train"): [*MNLI_COLUMNS, "label1", "gold_label"],
    ("MNLI", "dev"): [*MNLI_COLUMNS, *[f"label{n}" for n in range(1, 6)], "gold_label"],
    ("MNLI", "test"): MNLI_COLUMNS,
    ("QNLI", "train"): ["index", "question", "sentence", "label"],
    ("QNLI", "dev"): ["index", "question", "sentence", "label"],
    ("QNLI", "test"): ["index", "question", "sentence"],
    ("QQP", "train"): ["id", "qid1", "qid2", "question1", "question2", "is_duplicate"],
    ("QQP", "dev"): ["id", "qid1", "qid2", "question1", "question2", "is_duplicate"],
    ("QQP", "test"): ["id", "question1", "question2"],
}
# Of every file; results on the sample tasks can be compared only while these stay.
SHA256 = {
    "CoLA/dev.tsv": "90e21aa0a2295798ed3f531bed37e81cd7a1c70ec41e374fa20085e8835f3aa5",
    "CoLA/test.tsv": "aab178478cff30b41718abd2c9c1d6265cc8d522ce4bbae1a4d92e0c05d5ccc7",
    "CoLA/train.tsv": "9badc743c93dcd74712a2f0ffbfbd640589336e5be8769442a224b7c67b8d909",
    "SST-2/dev.tsv": "d386d32ebfdaf2be8752e8a0c7dd99e2ff6dbeb8be1078b4bf543c23757a34c7",
    "SST-2/test.tsv": "dd49cc14993260fce4cb7138818d24a89de8349c1b82395655f290bb00e92a2d",
    "SST-2/train.tsv": "640213e1a8c32a6dc8f82beeeb47970fc61c217135b8b53c7617a7856498dc6b",
    "MNLI/dev_matched.tsv": "fc3dab5cdf10c3b7728f3632fb1bc9d2befc7cfc882bd1cf4933dae451aa1d97",
    "MNLI/dev_mismatched.tsv": "a6d159f5ef4d51c461aca3b373142b05fdea46ce5a9d9a16561bc72310c297ce",
    "MNLI/test_matched.tsv": "4851452a618ad9bd1ba83b5be17814c7d2d829520510df71665dae88c47145a2",
    "MNLI/test_mismatched.tsv": "d9df66412395fd4d96e620ce9bbead772bb669d42fd40567a5f42db502e2b105",
    "MNLI/train.tsv": "d0e2977f8c9c67b0b7205aca1853ae4eb60d2196cd3017a70b82ea86bd784b91",
    "QNLI/dev.tsv": "9e49f4f17c71a515f253f94a1fe28b071ba57632cd736e8ba88277a5fd41959d",
    "QNLI/test.tsv": "14fa7a92a3eae2ec032d1ce0931697d29bae71dadc6306c25ab42c9561d327c3",
    "QNLI/train.tsv": "c8a7f77e4dbda40bac2d6f0eeaea273e072d2097a1bc4d67b1d43caeefe954fe",
    "QQP/dev.tsv": "a915908b9c0b1d35e6266b3d073b9d37229f70e19eff04f64e7976f23eacade3",
    "QQP/test.tsv": "8dc0aaf3f8a923366faae9554b58afe789bdf49835f4b9d3ee6a09fa1ced2811",
    "QQP/train.tsv": "42b2af4198392c3536d81032f64cb5102e6161f56757cda6771dc951250a7e97",
}
FILES = [
    (task, file)
    for task in PAPER_TASKS
    for file in (GLUE[task].train_file, *GLUE[task].dev_files, *GLUE[task].test_files)
]


def split_name(file: str) -> str:
    return file.removesuffix(".tsv").split("_")[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sample")
    sample_tasks.main(["--tasks", "all", "--data_dir", str(folder)])
    return folder


@pytest.fixture(scope="module")
def rows(folder) -> dict[tuple[str, str], list]:
    """Every file's rows as the stages read them."""
    return {
        (task, file): list(
            TsvFile(folder / task / file, GLUE[task], labelled=split_name(file) != "test").rows()
        )
        for task, file in FILES
    }


def test_the_files_are_glues_and_no_others(folder):
    found = {(path.parent.name, path.name) for path in folder.rglob("*") if path.is_file()}
    assert found == set(FILES)


@pytest.mark.parametrize(("task", "file"), FILES)
def test_header_and_columns_are_those_of_glue(folder, task, file):
    lines = [line.split("\t") for line in (folder / task / file).read_text("utf-8").splitlines()]
    header = HEADERS[task, split_name(file)]
    if header is not None:
        assert lines.pop(0) == header
    assert {len(line) for line in lines} == {4 if header is None else len(header)}


def test_rows_read_through_the_library_are_those_drawn(rows):
    for (task, file), read in rows.items():
        drawn = sample_tasks.examples(task, file)  # cached: the very rows that were written
        assert [row.texts for row in read] == [example.texts for example in drawn]
        if split_name(file) != "test":
            assert [row.label for row in read] == [example.label for example in drawn]


def test_labels_are_balanced(rows):
    for (task, file), read in rows.items():
        if split_name(file) == "test":
            continue
        counts = Counter(row.label for row in read)
        assert set(counts) == set(GLUE[task].labels)
        assert max(counts.values()) - min(counts.values()) <= 1


@pytest.mark.parametrize("task", PAPER_TASKS)
def test_splits_share_no_sentence_and_no_filling(rows, task):
    sentences, fillings = {}, {}
    for file in sample_tasks.files_of(task):
        split = split_name(file)
        for row in rows[task, file]:
            for text in row.texts:
                sentences.setdefault(text, set()).add(split)
        for example in sample_tasks.examples(task, file):
            assert example.fillings
            for filling in example.fillings:
                fillings.setdefault(filling, set()).add(split)
    assert all(len(splits) == 1 for splits in sentences.values())
    assert all(len(splits) == 1 for splits in fillings.values())


def test_no_file_repeats_a_row(rows):
    for read in rows.values():
        assert len({row.texts for row in read}) == len(read)


def test_every_text_is_plain_and_filled(rows):
    for read in rows.values():
        for row in read:
            for text in row.texts:
                assert not set(text) & set("{}*\t|"), text
                assert "  " not in text and text == text.strip()


def test_the_bytes_of_every_file_are_those_that_they_have_always_been(folder):
    found = {f"{task}/{file}": sha256_file(folder / task / file) for task, file in FILES}
    assert found == SHA256


def test_same_bytes_every_time_and_a_second_run_leaves_them_alone(folder, tmp_path):
    script = [sys.executable, str(DATA / "sample_tasks.py"), "--data_dir", str(tmp_path)]
    first = subprocess.run(script, capture_output=True, text=True, check=True)
    assert "nothing to do" not in first.stdout
    for task, file in FILES:
        assert (tmp_path / task / file).read_bytes() == (folder / task / file).read_bytes()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.tsv")}
    again = subprocess.run(
        [*script, "--tasks", "sst-2,CoLA"], capture_output=True, text=True, check=True
    )
    assert again.stdout.count("nothing to do") == 2
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.tsv")}


def test_a_damaged_file_is_written_anew(tmp_path):
    sample_tasks.main(["--tasks", "SST-2", "--data_dir", str(tmp_path)])
    dev = tmp_path / "SST-2" / "dev.tsv"
    good = dev.read_bytes()
    dev.write_bytes(good[:1000])
    sample_tasks.main(["--tasks", "SST-2", "--data_dir", str(tmp_path)])
    assert dev.read_bytes() == good


@pytest.mark.parametrize("names", ["CoLA,SST-3", "CoLA,MRPC", ","])
def test_an_unknown_task_is_one_clear_line_and_writes_nothing(tmp_path, names):
    with pytest.raises(RositaError, match="has no sample; choose from all, CoLA, SST-2"):
        sample_tasks.main(["--tasks", names, "--data_dir", str(tmp_path)])
    assert not list(tmp_path.iterdir())


def test_words_are_inflected_as_in_a_dictionary():
    wolf, box, city, boy = nouns("wolf/wolves box city boy")
    assert (wolf.p, box.p, city.p, boy.p) == ("wolves", "boxes", "cities", "boys")
    carry, see, move, push, obey = verbs("carry see/saw/seen move push obey")
    assert carry == ("carry", "carries", "carried", "carried", "carrying")
    assert see == ("see", "sees", "saw", "seen", "seeing")
    assert move == ("move", "moves", "moved", "moved", "moving")
    assert push == ("push", "pushes", "pushed", "pushed", "pushing")
    assert obey == ("obey", "obeys", "obeyed", "obeyed", "obeying")


def test_a_bag_of_words_stays_near_chance_on_the_default_task(rows):
    """Half the test: what the tuned encoder reaches is measured where the stages run."""
    train, dev = rows["SST-2", "train.tsv"], rows["SST-2", "dev.tsv"]
    bag = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\S+")
    features = bag.fit_transform([row.texts[0] for row in train])
    model = LogisticRegression(max_iter=1000).fit(features, [row.label for row in train])
    score = model.score(bag.transform([row.texts[0] for row in dev]), [row.label for row in dev])
    assert 0.45 < score < 0.70
