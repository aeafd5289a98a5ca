"""Every encoder that is read, against transformers' own class with the same random weights."""

from __future__ import annotations

import copy
import functools
import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from conftest import make_bert, run_script
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification

from rosita.augmentation.masked_lm import Frame, Query, load_masked_lm, masked_pair
from rosita.augmentation.sources import has_masked_lm_head, without_head
from rosita.backbones import BACKBONES, PRETRAINED
from rosita.checkpoint import load_model
from rosita.deploy.hub import write_hub_folder
from rosita.deploy.onnx import export_onnx
from rosita.deploy.session import OnnxModel
from rosita.description import check_length
from rosita.errors import RositaError
from rosita.model import RositaConfig, RositaForSequenceClassification
from rosita.pruning.cut import prune
from rosita.pruning.importance import scored_weights
from rosita.pruning.schedule import PruningSchedule
from rosita.pruning.shape import Shape, check_target
from rosita.tasks import Task
from rosita.tokenizer import read_tokenizer

MOOD = Task(name="Mood", labels=("a", "b", "c"), metric="accuracy", text_columns=(0,))
HEADS, POSITIONS = 4, 24
TARGET = Shape(keep_heads=2, keep_layers=2, ffn_hidden_dim=20, emb_hidden_dim=9)
SIZES = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": HEADS,
         "intermediate_size": 48, "num_labels": 3, "hidden_dropout_prob": 0.11,
         "attention_probs_dropout_prob": 0.12, "classifier_dropout": 0.13}  # fmt: skip
CONFIGS = {
    "bert": SIZES | {"max_position_embeddings": POSITIONS},
    "roberta": SIZES | {"max_position_embeddings": POSITIONS + 2, "type_vocab_size": 1},
    "xlm-roberta": SIZES | {"max_position_embeddings": POSITIONS + 5, "pad_token_id": 4},
    "distilbert": {
        "vocab_size": 60, "dim": 32, "n_layers": 2, "n_heads": HEADS, "hidden_dim": 48,
        "num_labels": 3, "dropout": 0.11, "attention_dropout": 0.12, "seq_classif_dropout": 0.13,
        "activation": "relu", "max_position_embeddings": POSITIONS,
    },
    "electra": SIZES | {"max_position_embeddings": POSITIONS, "embedding_size": 16},
}  # fmt: skip


@dataclass
class Family:
    """A model of transformers, in float64, and the folder that it was saved to."""

    kind: str
    theirs: nn.Module
    folder: Path

    @property
    def encoder(self) -> nn.Module:
        return self.theirs.base_model

    def inputs(self) -> dict[str, torch.Tensor]:
        """A padded batch; token types where the model knows some."""
        pad = self.theirs.config.pad_token_id
        ids = torch.randint(5, 60, (4, 11), generator=torch.Generator().manual_seed(1))
        mask = torch.ones_like(ids)
        mask[1, 6:], mask[3, 2:] = 0, 0
        given = {"input_ids": ids.masked_fill(mask == 0, pad), "attention_mask": mask}
        if getattr(self.theirs.config, "type_vocab_size", 0) > 1:
            given["token_type_ids"] = (torch.arange(11) > 4).long().expand(4, -1) * mask
        return given


def randomized(model: nn.Module) -> nn.Module:
    """The same with weights so large that every part of the model shows in its answer."""
    torch.manual_seed(0)
    for weight in model.parameters():
        nn.init.normal_(weight, std=0.2)
    return model.eval()


@functools.cache
def family(kind: str) -> Family:
    config = AutoConfig.for_model(kind, **CONFIGS[kind])
    theirs = randomized(AutoModelForSequenceClassification.from_config(config))
    folder = Path(tempfile.mkdtemp(prefix=f"rosita-{kind}-"))
    theirs.save_pretrained(folder)
    return Family(kind, theirs.double(), folder)


@pytest.fixture(params=CONFIGS)
def one(request) -> Family:
    return family(request.param)


def ours(one: Family) -> RositaForSequenceClassification:
    return load_model(one.folder, MOOD).double().eval()


# --- dense -----------------------------------------------------------------------------------


def test_the_dense_model_gives_their_logits_hidden_states_and_gradients(one):
    expected = one.theirs(**one.inputs(), output_hidden_states=True)
    model = ours(one)
    actual = model(**one.inputs(), output_hidden_states=True)
    torch.testing.assert_close(actual.logits, expected.logits, rtol=0, atol=1e-10)
    mask = one.inputs()["attention_mask"].bool()
    for mine, theirs in zip(actual.hidden_states, expected.hidden_states, strict=True):
        torch.testing.assert_close(mine[mask], theirs[mask], rtol=0, atol=1e-10)

    labels = torch.tensor([0, 2, 1, 1])
    for answer, one_model in ((actual, model), (expected, one.theirs)):
        one_model.zero_grad()
        nn.functional.cross_entropy(answer.logits, labels).backward()
    gradients = {name: weight.grad for name, weight in one.theirs.named_parameters()}
    for name, weight in model.named_parameters():
        theirs = gradients.pop(BACKBONES[one.kind].theirs(name))
        torch.testing.assert_close(weight.grad, theirs, rtol=0, atol=1e-10, msg=name)
    assert not gradients


def test_every_size_and_dropout_of_their_config_is_ours(one):
    config = ours(one).config
    assert (config.hidden_dropout_prob, config.attention_probs_dropout_prob) == (0.11, 0.12)
    assert config.classifier_dropout == 0.13
    assert Shape.of(config) == Shape(HEADS, 2, 48)
    assert config.pad_token_id == one.theirs.config.pad_token_id
    assert config.id2label == {0: "a", 1: "b", 2: "c"}


@pytest.mark.parametrize("kind", PRETRAINED)
def test_a_config_that_leaves_all_out_means_what_transformers_takes_it_for(kind):
    left_out = RositaConfig(**BACKBONES[kind].config({}, "config.json"))
    written = AutoConfig.for_model(kind).to_dict()
    told = RositaConfig(**BACKBONES[kind].config(written, "config.json"))
    assert left_out.to_dict() == told.to_dict()


def test_names_of_weights_go_both_ways(one):
    backbone = BACKBONES[one.kind]
    names = list(one.theirs.state_dict())
    assert [backbone.theirs(backbone.ours(name)) for name in names] == names


def test_texts_may_be_as_long_as_their_positions_and_no_longer(one):
    model = ours(one)
    check_length(POSITIONS, model.config)
    with pytest.raises(RositaError, match=f"the model has {POSITIONS} positions"):
        check_length(POSITIONS + 1, model.config)
    ids = torch.arange(5, 5 + POSITIONS)[None]
    torch.testing.assert_close(model(ids).logits, one.theirs(ids).logits, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", ["roberta", "distilbert"])
def test_a_model_without_token_types_ignores_those_that_it_is_given(kind):
    one = family(kind)
    given = one.inputs()
    types = torch.ones_like(given["input_ids"])
    found = ours(one)(**given, token_type_ids=types).logits
    torch.testing.assert_close(found, one.theirs(**given).logits, rtol=0, atol=1e-10)


# --- pruned ----------------------------------------------------------------------------------


def outputs(one: Family, model: nn.Module) -> list[tuple[nn.Linear, nn.Linear, nn.Linear]]:
    """Of each layer of a model of transformers: out of attention, into the FFN, out of it."""
    if one.kind == "distilbert":
        layers = model.base_model.transformer.layer
        return [(layer.attention.out_lin, layer.ffn.lin1, layer.ffn.lin2) for layer in layers]
    layers = model.base_model.encoder.layer
    return [
        (layer.attention.output.dense, layer.intermediate.dense, layer.output.dense)
        for layer in layers
    ]


@dataclass
class Pruned:
    """A pruned model of ours, and the unpruned one of theirs without what was pruned."""

    one: Family
    model: RositaForSequenceClassification
    twin: nn.Module
    kept_units: list[np.ndarray]  # by layer


@functools.cache
def pruned(kind: str) -> Pruned:
    one = family(kind)
    whole = ours(one)
    torch.manual_seed(1)
    scores = {name: torch.rand_like(weight) for name, weight in scored_weights(whole).items()}
    model = prune(whole, TARGET, scores)
    twin, kept = copy.deepcopy(one.theirs), []
    with torch.no_grad():
        for number, (attention, _, down) in enumerate(outputs(one, twin)):
            at = f"encoder.layer.{number}."
            heads = scores[f"{at}attention.output.dense.weight"].numpy().sum(0)
            worst = np.argsort(heads.reshape(HEADS, -1).sum(1))[: HEADS - TARGET.keep_heads]
            attention.weight.view(32, HEADS, -1)[:, worst] = 0
            units = scores[f"{at}intermediate.dense.weight"].numpy().sum(1)
            units = units + scores[f"{at}output.dense.weight"].numpy().sum(0)
            order = np.argsort(units)
            down.weight[:, order[: -TARGET.ffn_hidden_dim]] = 0
            kept.append(np.sort(order[-TARGET.ffn_hidden_dim :]))
        words = twin.get_input_embeddings().weight
        u, s, vt = np.linalg.svd(words.numpy(), full_matrices=False)
        rank = TARGET.emb_hidden_dim
        words.copy_(torch.from_numpy((u[:, :rank] * s[:rank]) @ vt[:rank]))
    return Pruned(one, model, twin, kept)


def test_the_pruned_model_is_theirs_with_the_pruned_heads_and_units_zeroed(one):
    cut = pruned(one.kind)
    answers = [model(**one.inputs()) for model in (cut.model, cut.twin)]
    torch.testing.assert_close(answers[0].logits, answers[1].logits, rtol=0, atol=1e-9)

    for model, answer in zip((cut.model, cut.twin), answers, strict=True):
        model.zero_grad()
        nn.functional.cross_entropy(answer.logits, torch.tensor([0, 2, 1, 1])).backward()
    for number, (_, up, _) in enumerate(outputs(one, cut.twin)):
        mine = cut.model.bert.encoder.layer[number].intermediate.dense.weight.grad
        theirs = up.weight.grad[cut.kept_units[number]]
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-9)
    embeddings = cut.model.bert.embeddings
    table = cut.twin.get_input_embeddings().weight.grad  # of W1 W2^T, so that dW1 = dW W2
    torch.testing.assert_close(
        embeddings.word_embeddings1.weight.grad,
        table @ embeddings.word_embeddings2.weight,
        rtol=0,
        atol=1e-9,
    )


def test_the_rank_of_a_narrow_embedding_goes_down_from_its_own_width():
    config = ours(family("electra")).config
    schedule = PruningSchedule.plan(config, Shape(2, 2, 20, 8), "width", 10, 10)
    assert [schedule.shape(number).emb_hidden_dim for number in range(3)] == [-1, 12, 8]
    with pytest.raises(RositaError, match="emb_hidden_dim 17 must be -1 or lie in 1..16"):
        check_target(config, Shape(2, 2, 20, 17))


# --- saved, exported -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """Each pruned model as an export, and what a process without this package says of all."""
    root = tmp_path_factory.mktemp("exports")
    tokenizer = read_tokenizer(make_bert(root / "bert"))
    for kind in CONFIGS:
        write_hub_folder(root / kind, pruned(kind).model.float(), tokenizer, MOOD)
        torch.save(pruned(kind).one.inputs(), root / kind / "inputs.pt")
        pruned(kind).model.double()
    (root / "stranger.py").write_text(STRANGER)
    run_script(root / "stranger.py", root / "code", *(root / kind for kind in CONFIGS), cwd=root)
    return root


STRANGER = """
import sys
sys.modules["rosita"] = None  # an import of it would fail
import torch, transformers.dynamic_module_utils
from transformers import AutoModelForSequenceClassification
transformers.dynamic_module_utils.HF_MODULES_CACHE = sys.argv[1]
for folder in sys.argv[2:]:
    model = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True)
    inputs = torch.load(folder + "/inputs.pt")
    with torch.no_grad():
        torch.save(model.eval()(**inputs).logits, folder + "/logits.pt")
"""


def test_an_export_opens_without_this_package_and_says_what_theirs_says(one, exports):
    said = torch.load(exports / one.kind / "logits.pt")
    expected = pruned(one.kind).twin(**one.inputs()).logits.float()
    torch.testing.assert_close(said, expected, rtol=0, atol=1e-4)


def test_a_saved_model_is_read_again_as_it_was(one, exports):
    read = load_model(exports / one.kind, MOOD)
    assert read.config.model_type == "rosita"
    mine = pruned(one.kind).model.state_dict()
    for name, weight in read.state_dict().items():
        torch.testing.assert_close(weight, mine[name].float(), rtol=0, atol=0)
    expected = pruned(one.kind).model(**one.inputs()).logits
    torch.testing.assert_close(
        read.double().eval()(**one.inputs()).logits, expected, atol=1e-4, rtol=0
    )


def test_onnx_says_what_theirs_says_and_takes_token_types_where_it_reads_them(one, tmp_path):
    cut = pruned(one.kind)
    export_onnx(cut.model.float(), tmp_path / "model.onnx")
    cut.model.double()
    opened = OnnxModel(tmp_path / "model.onnx")
    given = one.inputs()
    assert [taken.name for taken in opened.session.get_inputs()] == list(given)
    more = {"token_type_ids": torch.ones_like(given["input_ids"])}  # as every batch of ours has
    said = torch.from_numpy(opened.logits(**more | given))
    torch.testing.assert_close(said, cut.twin(**given).logits.float(), rtol=0, atol=1e-4)


# --- without a classifier --------------------------------------------------------------------


@pytest.mark.parametrize("kind, name", [
    ("bert", "BertModel"), ("bert", "BertForPreTraining"),
    ("roberta", "RobertaModel"), ("roberta", "RobertaForMaskedLM"),
    ("xlm-roberta", "XLMRobertaForMaskedLM"),
    ("distilbert", "DistilBertModel"), ("distilbert", "DistilBertForMaskedLM"),
    ("electra", "ElectraModel"), ("electra", "ElectraForMaskedLM"),
    ("electra", "ElectraForPreTraining"),
])  # fmt: skip
def test_a_pretrained_model_keeps_its_encoder_and_gets_a_new_classifier(tmp_path, kind, name):
    theirs = randomized(getattr(transformers, name)(family(kind).theirs.config))
    theirs.save_pretrained(tmp_path)
    with pytest.raises(RositaError, match="has no classifier: it is not tuned on Mood"):
        load_model(tmp_path, MOOD)
    model = load_model(tmp_path, MOOD, new_classifier=True).eval()
    given = family(kind).inputs()
    encoded = theirs.base_model(**given)
    mask = given["attention_mask"].bool()
    mine = model.bert(**given)
    torch.testing.assert_close(
        mine.last_hidden_state[mask], encoded.last_hidden_state[mask], rtol=1e-4, atol=1e-4
    )
    if kind == "bert":  # the only one whose classifier goes on from the pretrained pooler
        torch.testing.assert_close(mine.pooler_output, encoded.pooler_output)
    else:
        assert model.bert.pooler.dense.weight.std() < 0.03
    assert model.classifier.weight.std() < 0.05


# --- the masked LM ---------------------------------------------------------------------------

MASKED_LMS = {"bert": "Bert", "roberta": "Roberta", "xlm-roberta": "XLMRoberta",
              "distilbert": "DistilBert", "electra": "Electra"}  # fmt: skip


def test_the_masked_lm_of_each_is_asked_as_transformers_answers_one_pair_at_a_time(one, tmp_path):
    files = read_tokenizer(make_bert(tmp_path / "bert"))
    sizes = CONFIGS[one.kind] | {"vocab_size": len(files.pieces), "pad_token_id": files.pad_id}
    kind = getattr(transformers, f"{MASKED_LMS[one.kind]}ForMaskedLM")
    if one.kind.endswith("roberta"):
        sizes["max_position_embeddings"] = POSITIONS + files.pad_id + 1
    theirs = randomized(kind(AutoConfig.for_model(one.kind, **sizes)))
    theirs.save_pretrained(tmp_path / "lm")
    assert has_masked_lm_head(tmp_path / "lm") and not has_masked_lm_head(one.folder)
    lm = load_masked_lm(tmp_path / "lm", files, batch_tokens=60)
    queries = [
        Query(range(20, 20 + length), place)
        for length in (1, 4, 9, 40)
        for place in (0, 3)
        if place < length
    ]
    found = lm.top_pieces(queries, 5)
    for query, ids in zip(queries, found, strict=True):
        pair, place, second = masked_pair(query, Frame.of(files), POSITIONS)
        given = {"input_ids": torch.tensor([pair])}
        if getattr(theirs.config, "type_vocab_size", 0) > 1:
            given["token_type_ids"] = (torch.arange(len(pair)) >= second).long()[None]
        with torch.no_grad():
            logits = theirs(**given).logits[0, place]
        assert ids.tolist() == sorted(logits.topk(5).indices.tolist())


def test_an_electra_without_its_generators_head_says_that_the_generator_has_one(tmp_path):
    transformers.ElectraForPreTraining(family("electra").theirs.config).save_pretrained(tmp_path)
    assert not has_masked_lm_head(tmp_path)
    assert without_head(tmp_path).endswith(
        "has no masked-LM head (no weight generator_predictions.*): of an ELECTRA the generator has"
        " one"
    )


# --- what is refused -------------------------------------------------------------------------


def change(folder: Path, **values) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def change_weights(folder: Path, **values: torch.Tensor | None) -> None:
    path = folder / "model.safetensors"
    changed = load_file(path) | {name.replace("__", "."): value for name, value in values.items()}
    save_file(
        {name: value for name, value in changed.items() if value is not None},
        path,
        metadata={"format": "pt"},
    )


@pytest.mark.parametrize("kind, harm, words", [
    ("bert", {"position_embedding_type": "relative_key"},
     "position_embedding_type 'relative_key' is not supported; it must be 'absolute'"),
    ("roberta", {"is_decoder": True}, "is_decoder 'True' is not supported; it must be False"),
    ("electra", {"pruned_heads": {"0": [1]}}, "pruned_heads"),
    ("roberta", {"problem_type": "multi_label_classification"},
     "gives several labels at once (problem_type in its config.json)"),
    ("bert", {"quantization_config": {"bits": 4}}, "quantization_config"),
    ("distilbert", {"sinusoidal_pos_embds": True}, "sinusoidal_pos_embds 'True'"),
    ("distilbert", {"num_attention_heads": 8}, "num_attention_heads '8' is not supported"),
    ("distilbert", {"activation": "swoosh"}, "activation 'swoosh'"),
    ("distilbert", {"n_heads": -1}, "n_heads -1"),
    ("roberta", {"pad_token_id": 30}, "leaves none after the padding's, 30"),
    ("electra", {"embedding_size": 0}, "embedding_size 0"),
    ("bert", {"model_type": "albert"}, "is a 'albert' model; bert, roberta, xlm-roberta,"),
    ("roberta", {"model_type": ["roberta"]}, "model; bert, roberta"),
])  # fmt: skip
def test_a_config_that_cannot_be_mapped_is_refused_by_its_key(tmp_path, kind, harm, words):
    folder = shutil.copytree(family(kind).folder, tmp_path / "model")
    change(folder, **harm)
    with pytest.raises(RositaError) as caught:
        load_model(folder, MOOD)
    assert words in str(caught.value) and str(folder) in str(caught.value)


@pytest.mark.parametrize("kind, harm, words", [
    ("distilbert", {"distilbert__transformer__layer__1__attention__q_lin__bias": None},
     "lacks distilbert.transformer.layer.1.attention.q_lin.bias"),
    ("roberta", {"classifier__dense__weight": None}, "lacks classifier.dense.weight"),
    ("electra", {"qa_outputs__weight": torch.ones(2, 32)}, "surplus qa_outputs.weight"),
    ("roberta", {"roberta__adapter__weight": torch.ones(2)}, "surplus roberta.adapter.weight"),
    ("electra", {"electra__embeddings_project__weight": torch.ones(3, 3)},
     "electra.embeddings_project.weight has the shape [3, 3]"),
    ("distilbert", {"distilbert__transformer__layer__0__ffn__lin2__bias": torch.ones(32) / 0},
     "distilbert.transformer.layer.0.ffn.lin2.bias has NaN or infinite"),
    ("roberta", {"classifier__weight": torch.ones(3, 32)},
     "classifier.out_proj.weight and classifier.weight are the same weight"),
])  # fmt: skip
def test_weights_that_do_not_fit_are_named_as_the_checkpoint_names_them(
    tmp_path, kind, harm, words
):
    folder = shutil.copytree(family(kind).folder, tmp_path / "model")
    change_weights(folder, **harm)
    with pytest.raises(RositaError) as caught:
        load_model(folder, MOOD)
    assert words in str(caught.value)
