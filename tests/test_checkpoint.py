import hashlib
import json

import pytest
import torch
from conftest import make_bert
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertForSequenceClassification,
    BertModel,
)

from rosita import api
from rosita.checkpoint import TaskModel, load_model, save_model
from rosita.description import Description
from rosita.errors import RositaError
from rosita.model import RositaConfig
from rosita.provenance import resolve_folder, weights_hash
from rosita.pruning.cut import prune
from rosita.pruning.shape import Shape
from rosita.tasks import GLUE
from rosita.tokenizer import read_tokenizer

COLA = GLUE["CoLA"]
IDS = torch.arange(5, 35).view(3, 10)


@pytest.fixture
def tuned(bert, tmp_path):
    """A model folder of ours, dense, with a classifier for CoLA."""
    torch.manual_seed(3)
    model = load_model(bert, COLA, new_classifier=True)
    save_model(tmp_path / "tuned", model, read_tokenizer(bert), COLA)
    return tmp_path / "tuned"


def reference_folder(tuned, folder, rank=-1, names="plain", keys=True, **config):
    """The folder in the reference's format: state dict in a .bin, config with its three keys."""
    model = load_model(tuned, COLA).eval()
    shape = Shape(4, 3, 48, rank)
    if rank != -1:
        model = prune(model, shape).eval()
    state = dict(model.state_dict())
    if names == "gamma":
        state = {
            k.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
                "LayerNorm.bias", "LayerNorm.beta"
            ): v
            for k, v in state.items()
        }
    if names == "surplus":
        state["fit_dense.weight"] = torch.zeros(5, 5)
        state["bert.embeddings.position_ids"] = torch.arange(64)[None]
    folder.mkdir()
    torch.save(state, folder / "pytorch_model.bin")
    values = {
        "vocab_size": model.config.vocab_size, "hidden_size": 32, "num_hidden_layers": 3,
        "num_attention_heads": 4, "intermediate_size": 48, "hidden_act": "gelu",
        "max_position_embeddings": 64, "type_vocab_size": 2,
        "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1,
        "initializer_range": 0.02,
    }  # fmt: skip
    if keys:
        values |= {"prun_hidden_size": 32, "prun_intermediate_size": 48, "emb_hidden_dim": rank}
    (folder / "config.json").write_text(json.dumps(values | config))
    (folder / "vocab.txt").write_text((tuned / "vocab.txt").read_text())
    return model


@pytest.mark.parametrize("rank", [-1, 8])
@pytest.mark.parametrize("names", ["plain", "gamma", "surplus"])
def test_a_folder_in_the_references_format_gives_logits_with_its_relu_head(
    tuned, tmp_path, rank, names
):
    original = reference_folder(tuned, tmp_path / "ref", rank, names)
    read = load_model(tmp_path / "ref", COLA).eval()
    pooled = original.bert(IDS).pooler_output.relu()
    expected = pooled @ original.classifier.weight.T + original.classifier.bias
    torch.testing.assert_close(read(IDS).logits, expected)
    without = load_model(tmp_path / "ref", COLA, classifier_activation="none").eval()
    torch.testing.assert_close(without(IDS).logits, original(IDS).logits)


def test_a_word_that_is_no_activation_is_refused_not_taken_for_relu(tuned):
    with pytest.raises(RositaError, match="activation 'None' is not one of auto, relu, none"):
        load_model(tuned, COLA, classifier_activation="None")
    with pytest.raises(TypeError, match="activation is 'None', not auto or relu or none"):
        api.load(tuned, "CoLA", classifier_activation="None")


@pytest.mark.parametrize("shape, keys", [  # without the three keys nothing can be cut
    (Shape(4, 3, 48), False), (Shape(4, 3, 48), True), (Shape(4, 3, 48, 8), True),
    (Shape(2, 2, 10, 8), True),
])  # fmt: skip
@pytest.mark.parametrize("architecture, relu", [
    (None, True),  # KD/ names no class
    ("BertForMaskedLM", True),  # KD/, which kept what the pretrained model's config said
    ("BertForSequenceClassification", False),  # Pruning/, dense; transformers
    ("PrunBertForSequenceClassification", False),  # Pruning/ --is_prun True
])  # fmt: skip
def test_the_relu_before_the_classifier_is_that_of_the_code_that_tuned_the_checkpoint(
    tuned, tmp_path, capsys, architecture, relu, keys, shape
):
    """Oracle: the classifier's formula on the pooled output of the model as it was."""
    dense = load_model(tuned, COLA)
    scores = {
        name.removeprefix("bert."): torch.rand_like(weight)
        for name, weight in dense.named_parameters()
        if name.endswith("dense.weight")
    }
    model = prune(dense, shape, scores).eval()
    sizes = {"num_attention_heads": shape.keep_heads, "num_hidden_layers": shape.keep_layers}
    if keys:
        sizes |= {
            "prun_hidden_size": 8 * shape.keep_heads,
            "emb_hidden_dim": shape.emb_hidden_dim,
            "prun_intermediate_size": shape.ffn_hidden_dim,
        }
    named = {"architectures": [architecture]} if architecture else {}
    reference_folder(tuned, tmp_path / "ref", keys=keys, **sizes, **named)
    torch.save(dict(model.state_dict()), tmp_path / "ref" / "pytorch_model.bin")

    pooled = model.bert(IDS).pooler_output
    assert (pooled < 0).any()
    pooled = pooled.clamp(min=0) if relu else pooled
    expected = pooled @ model.classifier.weight.T + model.classifier.bias
    read = load_model(tmp_path / "ref", COLA).eval()
    torch.testing.assert_close(read(IDS).logits, expected)
    said = capsys.readouterr().out
    assert f"read {'with' if relu else 'without'} ReLU before the classifier" in said


def test_a_reference_folder_without_the_three_keys_is_not_cut(tuned, tmp_path):
    original = reference_folder(tuned, tmp_path / "ref", keys=False)
    read = load_model(tmp_path / "ref", COLA, classifier_activation="none").eval()
    torch.testing.assert_close(read(IDS).logits, original(IDS).logits)
    assert Shape.of(read.config) == Shape(4, 3, 48)


def test_a_reference_folder_of_a_pruned_width_is_read_by_its_kept_sizes(tuned, tmp_path):
    model = load_model(tuned, COLA)
    scores = {
        name.removeprefix("bert."): torch.rand_like(weight)
        for name, weight in model.named_parameters()
        if name.endswith("dense.weight")
    }
    small = prune(model, Shape(2, 2, 10, 8), scores).eval()
    reference_folder(tuned, tmp_path / "ref")
    torch.save(dict(small.state_dict()), tmp_path / "ref" / "pytorch_model.bin")
    config = json.loads((tmp_path / "ref" / "config.json").read_text())
    config |= {"num_attention_heads": 2, "prun_hidden_size": 16, "prun_intermediate_size": 10,
               "emb_hidden_dim": 8, "num_hidden_layers": 2}  # fmt: skip
    (tmp_path / "ref" / "config.json").write_text(json.dumps(config))
    read = load_model(tmp_path / "ref", COLA, classifier_activation="none").eval()
    torch.testing.assert_close(read(IDS).logits, small(IDS).logits)


def test_a_plain_pretrained_bert_keeps_its_encoder_and_gets_a_new_classifier(bert):
    oracle = BertModel.from_pretrained(bert).eval()
    ours = load_model(bert, COLA, new_classifier=True).eval()
    torch.testing.assert_close(
        ours.bert(IDS).pooler_output, oracle(IDS, torch.ones_like(IDS)).pooler_output
    )
    assert ours.classifier.weight.shape == (2, 32)


def test_what_is_saved_opens_in_transformers_with_labels_and_tokenizer(tuned):
    ours = load_model(tuned, COLA).eval()
    opened = AutoModelForSequenceClassification.from_pretrained(tuned).eval()
    torch.testing.assert_close(opened(IDS).logits, ours(IDS).logits)
    assert opened.config.id2label == {0: "0", 1: "1"}
    text = "The dog ran, slowly."
    theirs = AutoTokenizer.from_pretrained(tuned)(text)["input_ids"]
    assert read_tokenizer(tuned).build().encode(text).ids == theirs


def test_weights_hash_follows_the_weights_and_nothing_else(tuned):
    model = load_model(tuned, COLA)
    first = weights_hash(model.state_dict())
    assert first == weights_hash(load_model(tuned, COLA).state_dict())
    with torch.no_grad():
        model.classifier.bias[0] += 1e-6
    assert weights_hash(model.state_dict()) != first


def change_state(folder, change):
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_config_that_leaves_a_key_out_means_what_transformers_class_of_it_does():
    given = RositaConfig()
    for name, field in Description.model_fields.items():
        assert field.default in (getattr(given, name), None), name
    assert Description().max_tokens == given.max_tokens


def change_config(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


QUERY = "bert.encoder.layer.1.attention.self.query.weight"


@pytest.mark.parametrize(
    "harm, words",
    [
        (lambda f: change_state(f, lambda s: s.pop(QUERY)), f"lacks {QUERY}"),
        (lambda f: change_state(f, lambda s: s.update(odd=torch.ones(2))), "surplus odd"),
        (
            lambda f: change_state(f, lambda s: s.update({QUERY: torch.ones(2, 2)})),
            "has the shape [2, 2]",
        ),
        (lambda f: change_state(f, lambda s: s[QUERY].fill_(float("nan"))), "NaN"),
        (
            lambda f: change_state(f, lambda s: s.update({QUERY: s[QUERY].to(torch.int8)})),
            "a quantized model cannot be trained on",
        ),
        (
            lambda f: change_state(f, lambda s: s.pop("classifier.weight")),
            "not tuned on CoLA",
        ),
        (lambda f: change_config(f, id2label={"0": "1", "1": "0"}), "another order"),
        (lambda f: change_config(f, model_type="gpt2"), "'gpt2'"),
        (lambda f: change_config(f, num_attention_heads=5), "not a multiple"),
        (
            lambda f: change_config(f, hidden_act="gelo"),
            "knows no hidden_act 'gelo'; did you mean 'gelu'?",
        ),
        (lambda f: (f / "config.json").unlink(), "no config.json"),
        (lambda f: (f / "config.json").write_text("{"), "line 1 column 2"),
        (lambda f: (f / "model.safetensors").unlink(), "neither model.safetensors"),
        (
            lambda f: (f / "model.safetensors").write_bytes(
                (f / "model.safetensors").read_bytes()[:5000]
            ),
            "cut off",
        ),
    ],
)
def test_a_damaged_model_folder_is_refused_with_what_is_wrong(tuned, harm, words):
    harm(tuned)
    with pytest.raises(RositaError) as caught:
        load_model(tuned, COLA)
    assert words in str(caught.value)


def test_weights_carry_a_hash_by_which_one_flipped_bit_of_them_is_told(tuned):
    path = tuned / "model.safetensors"
    whole = path.read_bytes()
    for place in (-1, -len(whole) // 2):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(RositaError, match="model.safetensors has changed since"):
            load_model(tuned, COLA)
        load_model(tuned, COLA, accept_changed=True)
    with safe_open(path, "pt") as file:
        assert file.metadata()["format"] == "pt"
    model = load_model(tuned, COLA, accept_changed=True)
    written = set()
    for _ in range(6):  # safetensors itself would draw the order of two metadata
        save_model(tuned, model, read_tokenizer(tuned), COLA)
        written.add(path.read_bytes())
    assert len(written) == 1


def test_a_downloaded_bert_whose_weights_changed_is_refused(bert):
    digest = hashlib.sha256((bert / "model.safetensors").read_bytes()).hexdigest()
    record = {"stage": "download_bert", "finished": True, "files": {"model.safetensors": digest}}
    (bert / "run.json").write_text(json.dumps(record))
    load_model(bert, COLA, new_classifier=True)
    state = load_file(bert / "model.safetensors")
    state["pooler.dense.bias"] += 1
    save_file(state, bert / "model.safetensors")
    with pytest.raises(RositaError, match="model.safetensors has changed since"):
        load_model(bert, COLA, new_classifier=True)


# ------------------------------------------------------------------- as transformers 5 saves it


def transformers_folder(bert, folder, dtype=torch.float32, shard="5GB", **config):
    """A classifier of transformers' own, as its save_pretrained writes it; the model in fp32."""
    model = BertForSequenceClassification.from_pretrained(bert, num_labels=2, **config).to(dtype)
    model.save_pretrained(folder, max_shard_size=shard)
    AutoTokenizer.from_pretrained(bert).save_pretrained(folder)
    return model.float().eval()


def to_bin(folder):
    """The same shards as older versions wrote them."""
    for path in folder.glob("*.safetensors"):
        torch.save(load_file(path), path.with_name(f"pytorch_{path.stem}.bin"))
        path.unlink()
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"] = {
        name: "pytorch_" + file.replace(".safetensors", ".bin")
        for name, file in index["weight_map"].items()
    }
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors.index.json").unlink()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("stored", ["one file", "safetensors", "bin"])
def test_a_folder_of_transformers_5_in_shards_and_half_precision_gives_transformers_logits(
    bert, tmp_path, stored, dtype
):
    folder = tmp_path / "five"
    oracle = transformers_folder(bert, folder, dtype, "5GB" if stored == "one file" else "30KB")
    if stored == "bin":
        to_bin(folder)
    assert len(list(folder.glob("*.index.json"))) == (stored != "one file")
    assert not (folder / "vocab.txt").exists()
    ours = TaskModel.open(folder, COLA)
    assert {weight.dtype for weight in ours.model.parameters()} == {torch.float32}
    torch.testing.assert_close(ours.model.eval()(IDS).logits, oracle(IDS).logits)
    ours.save(tmp_path / "ours")
    opened = AutoModelForSequenceClassification.from_pretrained(tmp_path / "ours").eval()
    torch.testing.assert_close(opened(IDS).logits, oracle(IDS).logits)


@pytest.mark.parametrize(
    "harm, words",
    [
        (lambda f: (f / "model-00002-of-00003.safetensors").unlink(),
         "has no model-00002-of-00003.safetensors, which model.safetensors.index.json names"),
        (lambda f: (f / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../b"}}'),
         "names a shard that is not beside it: '../b'"),
        (lambda f: (f / "model.safetensors.index.json").write_text("{}"), "names no shards"),
        (lambda f: (f / "model-00003-of-00003.safetensors").write_bytes(b"x"), "cannot be read"),
    ],
)  # fmt: skip
def test_a_missing_or_broken_shard_is_one_line_that_names_it(bert, tmp_path, harm, words):
    transformers_folder(bert, tmp_path / "five", shard="50KB")
    harm(tmp_path / "five")
    with pytest.raises(RositaError) as error:
        load_model(tmp_path / "five", COLA)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_shards_left_in_a_folder_never_stand_for_the_model_that_is_saved_over_them(bert, tmp_path):
    transformers_folder(bert, tmp_path / "five", shard="30KB")
    read = TaskModel.open(tmp_path / "five", COLA)
    small = prune(read.model, Shape(4, 2, 48))
    save_model(tmp_path / "five", small, read.tokenizer, COLA)
    assert not list((tmp_path / "five").glob("*.index.json"))
    assert Shape.of(load_model(tmp_path / "five", COLA).config) == Shape(4, 2, 48)


def test_a_tokenizer_with_more_pieces_than_the_model_has_rows_is_refused_by_the_first(tuned):
    rows = json.loads((tuned / "config.json").read_text())["vocab_size"]
    tokenizer = AutoTokenizer.from_pretrained(tuned)
    tokenizer.add_tokens(["[E1]", "[E2]"])
    tokenizer.save_pretrained(tuned)
    with pytest.raises(RositaError, match=rf"2 more pieces .* \({rows}\), the first is '\[E1\]'"):
        TaskModel.open(tuned, COLA)


@pytest.mark.parametrize(
    "stored, flag, line",
    [
        (False, True, "a cased model, and it stays so: --do_lower_case changes nothing"),
        (True, False, "an uncased model, and it stays so: do_lower_case false changes nothing"),
        (True, True, None),
        (False, False, None),
        (False, None, None),
    ],
)
def test_the_folder_decides_the_case_and_a_flag_that_says_otherwise_gets_one_line(
    tuned, capsys, stored, flag, line
):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tuned / name).unlink()
    (tuned / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": stored}))
    for _ in range(2):
        opened = TaskModel.open(tuned, COLA, do_lower_case=flag)
        assert opened.tokenizer.build().encode("The").tokens[1:-1] == (
            ["the"] if stored else ["[UNK]"]
        )
    said = capsys.readouterr().err
    decides = "its own tokenizer.json or tokenizer_config.json decides"
    assert said == (f"{line}, {decides}\n" if line else "")


# ------------------------------------------------------------------------------ readable labels


READABLE = {"0": "negative", "1": "positive"}


@pytest.mark.parametrize(
    "stored, asked, rows",
    [
        (READABLE, "negative,positive", [0, 1]),
        (READABLE, "positive,negative", [1, 0]),
        (READABLE, " positive , negative ", [1, 0]),
        ({"0": "0", "1": "1"}, "bad,good", [0, 1]),
        ({"0": "LABEL_0", "1": "LABEL_1"}, "bad,good", [0, 1]),
        ({"0": "1", "1": "0"}, "0,1", [1, 0]),
        ({"0": "LABEL_0", "1": "LABEL_1"}, "LABEL_1,LABEL_0", [1, 0]),
        ({"0": "LABEL_0", "1": "LABEL_1"}, "LABEL_0,LABEL_1", [0, 1]),
        ({}, "LABEL_1,LABEL_0", [1, 0]),
    ],
)
def test_label_names_bring_the_logits_into_the_tasks_order_and_stay_with_the_model(
    tuned, tmp_path, stored, asked, rows
):
    before = load_model(tuned, COLA).eval()(IDS).logits
    change_config(tuned, id2label=stored)
    read = TaskModel.open(tuned, COLA, label_names=asked)
    names = [name.strip() for name in asked.split(",")]
    assert read.labels == names
    torch.testing.assert_close(read.model.eval()(IDS).logits, before[:, rows])

    read.save(tmp_path / "saved")
    again = TaskModel.open(tmp_path / "saved", COLA)  # no flag any more
    assert again.labels == names
    torch.testing.assert_close(again.model.eval()(IDS).logits, before[:, rows])
    opened = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved").eval()
    assert opened.config.id2label == dict(enumerate(names))
    renamed = TaskModel.open(tmp_path / "saved", COLA, label_names="no,yes")
    assert renamed.labels == ["no", "yes"]
    assert prune(renamed.model, Shape(4, 2, 48)).config.id2label == {0: "no", 1: "yes"}


@pytest.mark.parametrize(
    "asked, words",
    [
        (None, "if they mean the same, name them in the order of 0, 1:"
               " --label_names negative,positive"),
        ("bad,good", "--label_names has ['bad', 'good']: give the folder's own, in the order of"),
        ("negative", "give 2 different names, one for each of CoLA's 0, 1, in that order"),
        ("negative,negative", "give 2 different names"),
        ("negative,", "give 2 different names"),
    ],
)  # fmt: skip
def test_labels_that_cannot_be_told_are_refused_and_the_flag_is_named(tuned, asked, words):
    change_config(tuned, id2label=READABLE)
    with pytest.raises(RositaError) as error:
        load_model(tuned, COLA, label_names=asked)
    assert words in str(error.value)


@pytest.mark.parametrize("stored", [{"0": "LABEL_0", "1": "LABEL_1"}, {}])
def test_usual_names_are_no_unknown_ones_to_a_task_that_has_them_in_another_order(tuned, stored):
    change_config(tuned, id2label=stored)
    task = COLA.model_copy(update={"name": "Turned", "labels": ("LABEL_1", "LABEL_0")})
    with pytest.raises(RositaError, match="another task, or another order; if they mean the same"):
        load_model(tuned, task, accept_changed=True)
    before = load_model(tuned, COLA).eval()(IDS).logits
    named = load_model(tuned, task, label_names="LABEL_1,LABEL_0", accept_changed=True)
    torch.testing.assert_close(named.eval()(IDS).logits, before[:, [1, 0]])


def test_a_model_that_knows_the_order_of_its_names_takes_no_other(tuned, tmp_path):
    TaskModel.open(tuned, COLA, label_names="bad,good").save(tmp_path / "saved")
    with pytest.raises(RositaError, match="give the folder's own, in the order of CoLA's 0, 1"):
        load_model(tmp_path / "saved", COLA, label_names="good,bad")
    TaskModel.open(tuned, COLA).save(tmp_path / "own")
    with pytest.raises(RositaError, match="give the folder's own, in the order of CoLA's 0, 1"):
        load_model(tmp_path / "own", COLA, label_names="1,0")
    with pytest.raises(RositaError, match="is a regression and has no labels"):
        load_model(tuned, GLUE["STS-B"], label_names="bad,good")


def test_a_model_of_another_task_is_refused(tuned):
    with pytest.raises(RositaError, match="2 labels, MNLI has 3"):
        load_model(tuned, GLUE["MNLI"])
    with pytest.raises(RositaError, match="another task"):
        load_model(tuned, GLUE["RTE"])


class Exploit:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return open, (str(self.target), "w")


def test_code_in_a_pytorch_model_bin_is_not_run(tuned, tmp_path):
    reference_folder(tuned, tmp_path / "ref")
    torch.save({"x": Exploit(tmp_path / "owned")}, tmp_path / "ref" / "pytorch_model.bin")
    with pytest.raises(RositaError, match="cannot be read"):
        load_model(tmp_path / "ref", COLA)
    assert not (tmp_path / "owned").exists()


def test_a_downloaded_name_finds_models_bert_pt(tmp_path, monkeypatch):
    folder = make_bert(tmp_path / "models" / "bert_pt")
    (folder / "run.json").write_text('{"model": "bert-base-uncased"}')
    monkeypatch.chdir(tmp_path)
    assert resolve_folder("bert-base-uncased").resolve() == folder
    with pytest.raises(RositaError, match="download_bert.py"):
        resolve_folder("bert-large-uncased")


def test_a_bert_pt_put_there_by_hand_is_found_by_the_published_name_and_said_once(
    tmp_path, monkeypatch, capsys
):
    folder = make_bert(tmp_path / "models" / "bert_pt")
    (tmp_path / "Pruning").mkdir()
    monkeypatch.chdir(tmp_path / "Pruning")
    for _ in range(2):
        assert resolve_folder("bert-base-uncased").resolve() == folder
    load_model("bert-base-uncased", COLA, new_classifier=True)
    said = f"bert-base-uncased: taken from {folder}, put there by hand\n"
    assert capsys.readouterr().out == said
    for other in ("bert-large-uncased", "../models/bert_ft/CoLA", "bert-base-uncase"):
        with pytest.raises(RositaError, match="does not exist"):
            resolve_folder(other)


def test_a_bert_pt_that_records_another_model_is_refused_and_named(tmp_path, monkeypatch):
    folder = make_bert(tmp_path / "models" / "bert_pt")
    (folder / "run.json").write_text('{"model": "all-MiniLM-L6-v2"}')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RositaError) as caught:
        resolve_folder("bert-base-uncased")
    assert str(caught.value).startswith(
        "the model folder bert-base-uncased does not exist; models/bert_pt holds all-MiniLM-L6-v2"
        " (download_bert.py --overwrite_output_dir replaces it); a pretrained model comes from"
    )
    with pytest.raises(RositaError) as caught:
        resolve_folder("../models/bert_ft/CoLA")
    assert "MiniLM" not in str(caught.value)


@pytest.mark.parametrize(
    "folder, command",
    [
        ("../models/prun_bert/CoLA/a2_l8_f512_e128", "one_step.py -model_path ../models/bert_ft"),
        (
            "../models/prun_bert_student/CoLA/a2_l8_f512_e128",
            "KD/pruning_one_step.py -model_path ../models/bert_student",
        ),
        (
            "../models/bert-8layer/one_step_prun/CoLA/a12_l8_f3072_e-1",
            "KD/pruning_one_step.py -model_path ../models/bert_student",
        ),
        ("models/one_step_prun/CoLA/a2_l8_f512_e128", "--do_train, from models/prun_bert"),
        ("../models/bert_ft/CoLA", "Pruning/run_glue.py --do_train"),
        ("../models/bert_student/CoLA", "config_bert-student.json"),
        ("../models/bert-8layer/iter_depth_prun/CoLA", "config_bert-8layer.json"),
        ("../models/setting4/CoLA", "KD/train.py --config_dir configurations/config_setting4.json"),
    ],
)
def test_a_missing_model_names_the_command_that_makes_it(folder, command):
    with pytest.raises(RositaError) as caught:
        resolve_folder(folder)
    assert str(caught.value).endswith(command)


def test_saving_over_a_model_of_another_shape_never_mixes_the_two(tuned, monkeypatch):
    import rosita.checkpoint

    model = load_model(tuned, COLA)
    small = prune(model, Shape(4, 2, 48))

    def power_cut(*_args, **_kwargs):
        raise OSError("power cut")

    monkeypatch.setattr(rosita.checkpoint, "serialize", power_cut)
    with pytest.raises(RositaError, match="power cut"):
        save_model(tuned, small, read_tokenizer(tuned), COLA)
    monkeypatch.undo()
    with pytest.raises(RositaError, match="neither"):
        load_model(tuned, COLA)  # none, and no mixture
    save_model(tuned, small, read_tokenizer(tuned), COLA)
    assert Shape.of(load_model(tuned, COLA).config) == Shape(4, 2, 48)
