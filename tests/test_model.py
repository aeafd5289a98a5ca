import pytest
import torch
from conftest import SMALL
from transformers import AutoModelForSequenceClassification, BertConfig
from transformers import BertForSequenceClassification as Bert

from rosita.model import RositaConfig, RositaForSequenceClassification, set_dropout


def twins(num_labels: int = 3) -> tuple[Bert, RositaForSequenceClassification]:
    torch.manual_seed(0)
    config = BertConfig(vocab_size=60, num_labels=num_labels, **SMALL)
    bert = Bert(config).eval()
    values = {name: value for name, value in config.to_dict().items() if name != "model_type"}
    ours = RositaForSequenceClassification(RositaConfig(**values)).eval()
    ours.load_state_dict(bert.state_dict())
    return bert, ours


def inputs() -> dict[str, torch.Tensor]:
    ids = torch.randint(5, 60, (4, 11), generator=torch.Generator().manual_seed(1))
    mask, types = torch.ones_like(ids), torch.zeros_like(ids)
    mask[1, 6:], mask[3, 2:] = 0, 0
    types[:, 5:] = 1
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}


def test_dense_rosita_gives_the_logits_and_hidden_states_of_transformers_bert():
    bert, ours = twins()
    expected = bert(**inputs(), output_hidden_states=True)
    actual = ours(**inputs(), output_hidden_states=True)
    torch.testing.assert_close(actual.logits, expected.logits)
    mask = inputs()["attention_mask"].bool()
    for mine, theirs in zip(actual.hidden_states, expected.hidden_states, strict=True):
        torch.testing.assert_close(mine[mask], theirs[mask])


@pytest.mark.parametrize("num_labels", [1, 3])
def test_dense_rosita_gives_the_loss_and_gradients_of_transformers_bert(num_labels):
    bert, ours = twins(num_labels)
    labels = torch.tensor([0.5, 1.0, 3.0, 2.0]) if num_labels == 1 else torch.tensor([0, 2, 1, 1])
    expected, actual = bert(**inputs(), labels=labels), ours(**inputs(), labels=labels)
    torch.testing.assert_close(actual.loss, expected.loss)
    expected.loss.backward()
    actual.loss.backward()
    theirs = dict(bert.named_parameters())
    for name, weight in ours.named_parameters():
        torch.testing.assert_close(weight.grad, theirs[name].grad, msg=name)


def test_token_types_left_out_are_all_zero():
    _, ours = twins()
    given = inputs()
    zero = given | {"token_type_ids": torch.zeros_like(given["input_ids"])}
    del given["token_type_ids"]
    torch.testing.assert_close(ours(**given).logits, ours(**zero).logits)


def test_relu_head_equals_a_classifier_that_never_sees_negative_pooled_values():
    _, ours = twins()
    pooled = ours.bert(**inputs()).pooler_output
    ours.config.classifier_activation = "relu"
    expected = pooled.clamp(min=0) @ ours.classifier.weight.T + ours.classifier.bias
    torch.testing.assert_close(ours(**inputs()).logits, expected)


def test_rosita_of_the_paper_has_14_474_754_parameters():
    config = RositaConfig(
        num_hidden_layers=8,
        num_attention_heads=2,
        prun_hidden_size=128,
        prun_intermediate_size=512,
        emb_hidden_dim=128,
    )
    with torch.device("meta"):
        model = RositaForSequenceClassification(config)
    assert sum(weight.numel() for weight in model.parameters()) == 14_474_754


def test_auto_classes_open_a_saved_folder(tmp_path):
    _, ours = twins()
    ours.save_pretrained(tmp_path)
    opened = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert type(opened) is RositaForSequenceClassification
    torch.testing.assert_close(opened(**inputs()).logits, ours(**inputs()).logits)


def test_positions_and_embeddings_of_words_may_be_given_as_to_transformers_bert():
    bert, ours = twins()
    given = inputs()
    ids = given.pop("input_ids")
    embedded = bert.get_input_embeddings()(ids).detach()
    positions = torch.arange(11).flip(0)[None, :]
    more = {"inputs_embeds": embedded, "position_ids": positions}
    torch.testing.assert_close(ours(**given, **more).logits, bert(**given, **more).logits)


def test_without_return_dict_the_answer_is_the_tuple_of_transformers_bert():
    bert, ours = twins()
    labels = torch.tensor([0, 2, 1, 1])
    for more in ({}, {"labels": labels}, {"output_hidden_states": True}):
        expected = bert(**inputs(), **more, return_dict=False)
        found = ours(**inputs(), **more, return_dict=False)
        assert len(found) == len(expected)
        torch.testing.assert_close(found[0], expected[0])


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"token_types": torch.zeros(4, 11)}, TypeError, "token_types"),
        ({"output_attentions": True}, ValueError, "does not return attention maps"),
        ({"attention_mask": torch.ones(4, 11, 11)}, ValueError, "3 dimensions"),
        ({"input_ids": None}, ValueError, "either input_ids or inputs_embeds"),
    ],
)
def test_what_the_model_does_not_do_is_refused_and_not_ignored(change, error, says):
    _, ours = twins()
    with pytest.raises(error, match=says):
        ours(**inputs() | change)


@pytest.mark.parametrize(
    "problem, labels",
    [("multi_label_classification", [[1.0, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]]),
     ("regression", [[1.0, 0, 1], [0.5, 0, 0], [1, 2, 1], [0, 1, 0]]),
     ("single_label_classification", [0, 2, 1, 1]),
     (None, [[1.0, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]])],
)  # fmt: skip
def test_the_loss_is_that_of_the_problem_type_as_transformers_bert_has_it(problem, labels):
    bert, ours = twins()
    bert.config.problem_type = ours.config.problem_type = problem
    given = inputs() | {"labels": torch.tensor(labels)}
    torch.testing.assert_close(ours(**given).loss, bert(**given).loss)


def test_gradient_checkpointing_changes_no_gradient_and_keeps_fewer_activations():
    _, ours = twins()
    given, found, kept = inputs() | {"labels": torch.tensor([0, 2, 1, 1])}, [], []
    ours.train()
    set_dropout(ours, 0.0)
    for _ in range(2):
        ours.zero_grad()
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, sizes=sizes: sizes.append(t.numel()) or t, lambda t: t
        ):
            loss = ours(**given).loss
        loss.backward()
        found.append({name: weight.grad for name, weight in ours.named_parameters()})
        kept.append(sum(sizes))
        ours.gradient_checkpointing_enable()
    torch.testing.assert_close(found[1], found[0])
    assert kept[1] < 0.5 * kept[0]
