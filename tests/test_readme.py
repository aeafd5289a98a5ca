"""Every command of the README and of docs/ runs as written, on a tiny BERT-base look-alike.

README.md comes first; the other pages go on from the models that it makes. The look-alike has fewer
FFN units than BERT-base, and commands and configs name that number where they are to name 3072.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY, WORDS, make_bert, python, sentences, write_cola
from test_benchmarks import PUBLISHED, check

from rosita.checkpoint import load_model
from rosita.pruning.shape import Shape
from rosita.tasks import GLUE

# 12 layers of 12 heads, as the configs of BERT-base want them, and little more than they keep of
# the FFN and of the embedding: time and disk go into the FFN's 3072 units
FFN = 532
BASE_LIKE = {
    "hidden_size": 132,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": FFN,
}
IGNORED = shutil.ignore_patterns(  # what is no part of the repository; data/ has the generators
    ".git", ".venv", "models", "glove", "sample", *GLUE, "__pycache__", "*.egg-info", ".*_cache"
)
OWN_COMMANDS = ("./quickstart.sh", "./run_tests.sh")  # each has, or is, a test of its own
PAGES = ("README.md", "docs/commands.md", "docs/many-machines.md")  # in the order of their commands
NAMING = [
    *PAGES,
    *(f"docs/{name}.md" for name in ("contributing", "errors", "fidelity")),
    *(f"{name}/README.md" for name in ("benchmarks", "data", "glove", "models")),
]
MADE = ("data", "glove", "models")  # folders that the stages fill
TREE = "Deploy KD Pruning benchmarks docs examples experiments rosita scripts tests".split()


def page(name: str) -> str:
    return (REPOSITORY / name).read_text(encoding="utf-8")


def bash_blocks(name: str) -> list[str]:
    return re.findall(r"^```bash\n(.*?)^```", page(name), flags=re.MULTILINE | re.DOTALL)


def anchors(text: str) -> set[str]:
    """What GitHub calls the headings."""
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_shares_of_the_readme_are_those_of_results():
    rows = [re.split(r" *\| *", line)[1:-1] for line in page("RESULTS.md").splitlines()]
    begin = next(at for at, row in enumerate(rows) if row[1:2] == ["teacher"] and "best" in row)
    column = rows[begin].index("best")
    end = next(at for at in range(begin, len(rows)) if rows[at][:1] == ["mean"])
    best = {row[0]: row[column].rstrip("*") for row in rows[begin + 2 : end + 1]}
    assert len(best) == 6
    readme = page("README.md")
    for cells in (best, best.values()):
        assert f"| {' | '.join(cells)} |" in readme


def narrowed(text: str) -> str:
    """A command, config or shape of BERT-base for its look-alike."""
    return text.replace("3072", str(FFN))


def shorten(configs: Path) -> None:
    """What a user does who has little time: edit the JSON files."""
    for path in configs.glob("*.json"):
        sections = json.loads(narrowed(path.read_text()))
        for section in sections.values():
            section.pop("patience", None)
            section |= {"num_train_epochs": 1, "eval_step": 10}
            if "depth_or_width" in sections["default"]:
                section |= {"num_train_epochs": 2, "prun_period_proportion": 0.9}
        path.write_text(json.dumps(sections))


def make_sandbox(folder: Path) -> Path:
    """A copy of the repository with tiny data, a tiny BERT and tiny vectors in place."""
    shutil.copytree(REPOSITORY, folder, ignore=IGNORED)
    shorten(folder / "KD" / "configurations")
    bert = make_bert(folder / "models" / "bert_pt", **BASE_LIKE)
    run = {"stage": "download_bert", "finished": True, "model": "bert-base-uncased"}
    (bert / "run.json").write_text(json.dumps(run))
    (folder / "glove").mkdir()
    generator = torch.Generator().manual_seed(0)
    with open(folder / "glove" / "glove.42B.300d.txt", "w", encoding="utf-8") as file:
        for word in dict.fromkeys(WORDS):
            vector = torch.randn(5, generator=generator).tolist()
            file.write(word + "".join(f" {value:.4f}" for value in vector) + "\n")
    write_cola(folder / "data" / "CoLA", train=16)
    for name, header, row in (
        ("SST-2", "sentence\tlabel", "{text}\t{label}"),
        ("Mood", "id\ttext\tmood", "7\t{text}\t{mood}"),
    ):
        (folder / "data" / name).mkdir(parents=True)
        for split, seed in (("train", 1), ("dev", 2), ("test", 3)):
            lines = [header]
            for number, text in enumerate(sentences(12, seed)):
                mood = ("glum", "merry")[number % 2]
                lines.append(row.format(text=text, label=number % 2, mood=mood))
            (folder / "data" / name / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    return folder


def make_authors_model(sandbox: Path) -> None:
    """A folder in the reference's format, as the authors published theirs."""
    ours = sandbox / "models" / "setting1" / "CoLA" / "a2_l8_f512_e128"
    folder = sandbox / "models" / "authors" / "CoLA"
    folder.mkdir(parents=True)
    state = load_model(ours, GLUE["CoLA"]).state_dict()
    torch.save(dict(state), folder / "pytorch_model.bin")
    config = json.loads((ours / "config.json").read_text())
    for name in ("model_type", "architectures", "id2label", "label2id", "transformers_version"):
        config.pop(name, None)
    (folder / "config.json").write_text(json.dumps(config))
    shutil.copy(ours / "vocab.txt", folder)


def run_block(block: str, sandbox: Path) -> str:
    warm, real = Path(python()), Path(sys.executable)
    environment = os.environ | {
        "PATH": f"{warm.parent}:{real.parent}:{os.environ['PATH']}",
        "PYTHON": str(warm),
        "PYTHONPATH": str(sandbox),  # the copy, not the installed original
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block],
        cwd=sandbox, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def outputs(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """Run all blocks once; what each printed."""
    sandbox = make_sandbox(tmp_path_factory.mktemp("readme") / "rosita")
    printed = {}
    for block in (block for name in PAGES for block in bash_blocks(name)):
        if block.strip() in OWN_COMMANDS:
            continue
        if "models/authors" in block:
            make_authors_model(sandbox)
        # 20 dev rows and a model that has learnt nothing: one near-tie that int8 turns is too much
        command = narrowed(block).replace("--max_drop 0.05", "--max_drop 2")
        printed[block] = run_block(command, sandbox)
    return sandbox, printed


@pytest.mark.parametrize("name", NAMING)
def test_relative_links_lead_to_files_and_headings(name):
    text = page(name)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in link:
            continue
        path, _, heading = link.partition("#")
        target = (REPOSITORY / name).parent / path if path else REPOSITORY / name
        assert target.exists(), f"{name} links {link}"
        if heading:
            assert heading in anchors(target.read_text(encoding="utf-8")), f"{name} links {link}"


@pytest.mark.parametrize("name", NAMING)
def test_paths_that_are_named_exist(name):
    text = re.sub(r"^```.*?^```", "", page(name), flags=re.MULTILINE | re.DOTALL)
    words = {word for span in re.findall(r"`([^`]+)`", text) for word in span.split()}
    paths = [word for word in words if word.split("/")[0] in TREE and "/" in word]
    missing = [path for path in paths if "*" not in path and not (REPOSITORY / path).exists()]
    assert not missing


def test_the_tree_of_the_readme_is_the_repository():
    tree = re.search(r"^## Where things are\n+```\n(.*?)^```", page("README.md"), re.M | re.S)[1]
    named = []
    for line in tree.splitlines():
        where = "rosita" if line.startswith(" ") else "."
        for word in line[:33].split():
            named.append((REPOSITORY / where, word))
    for folder, pattern in named:
        assert list(folder.glob(pattern)), f"{pattern} is not in {folder}"
    shown = {word.split("/")[0] for folder, word in named if folder == REPOSITORY / "."}
    assert set(TREE) | set(MADE) <= shown
    wings = {path.parent.name for path in (REPOSITORY / "rosita").glob("*/__init__.py")}
    assert wings == {word.rstrip("/") for folder, word in named if folder == REPOSITORY / "rosita"}


def test_every_command_runs_as_written(outputs):
    assert len(outputs[1]) == 23


def test_every_setting_ends_at_its_shape_with_a_dev_score_and_its_lineage(outputs):
    sandbox, _ = outputs
    expected = {
        "bert_ft/CoLA": f"a12_l12_f{FFN}_e-1",
        "one_step_prun/CoLA/a2_l8_f512_e128": "a2_l8_f512_e128",
        "bert_student/CoLA": f"a12_l12_f{FFN}_e-1",
        "bert-8layer/iter_depth_prun/CoLA": f"a12_l8_f{FFN}_e-1",
        **{f"setting{n}/CoLA/a2_l8_f512_e128": "a2_l8_f512_e128" for n in (1, 2, 3)},
        "setting4/CoLA": "a2_l8_f512_e128",
        "setting1_subset/CoLA/a2_l8_f512_e128": "a2_l8_f512_e128",
        "setting1/Mood/a2_l8_f512_e128": "a2_l8_f512_e128",
    }
    runs = {}
    for name, shape in expected.items():
        folder = sandbox / "models" / name
        run = runs[name] = json.loads((folder / "run.json").read_text())
        assert run["finished"] and run["shape"] == shape
        assert isinstance(run["dev_score"], float)
        assert not (folder / "last").exists()
        config = json.loads((folder / "config.json").read_text())
        assert config["num_hidden_layers"] == Shape.parse(shape).keep_layers
    teacher = runs["setting4/CoLA"]["parents"]["teacher"]["weights"]
    assert teacher == runs["bert-8layer/iter_depth_prun/CoLA"]["weights"]


def test_the_setting_scripts_find_what_the_commands_made_and_start_nothing(outputs):
    block = next(block for block in outputs[1] if "scripts/setting4.sh CoLA" in block)
    printed = outputs[1][block]
    assert printed.count("finished already") >= 15
    assert "tokenize" not in printed and "best dev" not in printed


def test_result_files_of_the_reference_are_written(outputs):
    folder = outputs[0] / "models" / "setting4" / "CoLA"
    results = (folder / "eval_results.txt").read_text()
    assert "mcc = " in results and "eval_loss = " in results
    lines = (folder / "test_results_cola.txt").read_text().splitlines()
    assert lines[0] == "index\tprediction" and len(lines) == 11
    assert {line.split("\t")[1] for line in lines[1:]} <= {"0", "1"}
    submitted = outputs[0] / "models" / "submission" / "CoLA.tsv"
    assert submitted.read_text() == (folder / "test_results_cola.txt").read_text()


def test_the_authors_format_is_read_with_its_relu_and_says_so(outputs):
    block = next(block for block in outputs[1] if "models/authors" in block)
    assert "read with ReLU" in outputs[1][block]


def test_one_case_of_the_benchmarks_prints_its_table_and_leaves_the_other_lines(outputs):
    sandbox, printed = outputs
    measured = json.loads((sandbox / "benchmarks" / "results.json").read_text())
    check(measured)
    assert [line["name"] for line in measured] == [line["name"] for line in PUBLISHED]
    changed = {ours["name"] for ours, was in zip(measured, PUBLISHED, strict=True) if ours != was}
    assert changed == {"svd", "svd_peak_memory"}
    block = next(block for block in printed if "--only svd" in block)
    assert all(f"| {name} |" in printed[block] for name in changed)


def test_every_table_on_many_machines_is_what_its_script_writes(outputs):
    docs = outputs[0] / "docs"
    text = page("docs/many-machines.md")
    assert (docs / "many-machines.md").read_text(encoding="utf-8") == text
    assert (docs / "scaling.json").read_text() == page("docs/scaling.json")
    markers = re.findall(r"<!-- (\w+) -->\n\|", text)
    assert markers == ["assumptions", "hours", "step", "memory", "space", "cache", "check"]
    assert (REPOSITORY / "docs" / "scaling.svg").stat().st_size < 250_000
