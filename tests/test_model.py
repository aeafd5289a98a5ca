import pytest
import torch
from conftest import SMALL
from transformers import AutoModelForSequenceClassification, BertConfig
from transformers import BertForSequenceClassification as Bert

from rosita.model import Dropout, RositaConfig, RositaForSequenceClassification


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("p", [0.1, 0.5])
def test_dropout_drops_a_share_of_p_and_scales_the_rest_to_keep_the_mean(p, dtype):
    torch.manual_seed(0)
    x = torch.full((1000, 1001), 3.0, dtype=dtype, requires_grad=True)
    y = Dropout(p)(x)
    dropped = (y == 0).double().mean().item()
    assert abs(dropped - p) < 5 * (p * (1 - p) / y.numel()) ** 0.5  # five standard errors
    expected = torch.tensor(3 / (1 - p), dtype=dtype)  # p rounded to 2^-16 may move the last bit
    torch.testing.assert_close(y[y != 0].unique(), expected[None], rtol=2**-8, atol=0)
    y.sum().backward()
    assert torch.equal(x.grad == 0, y == 0)
    torch.testing.assert_close(x.grad.amax(), torch.tensor(1 / (1 - p), dtype=dtype))
    assert not torch.equal(y, Dropout(p)(x))  # another draw


def test_dropout_is_the_identity_in_evaluation_and_at_0_and_gives_zeros_at_1():
    x = torch.randn(5, 7)
    assert Dropout(0.5).eval()(x) is x
    assert torch.equal(Dropout(0.0)(x), x)
    assert torch.equal(Dropout(1.0)(x), torch.zeros(5, 7))


@pytest.mark.parametrize("masked", [False, True])
def test_attention_written_out_equals_the_fused_one(masked):
    _, ours = twins()
    attention = ours.bert.encoder.layer[0].attention.self
    hidden = torch.randn(4, 9, ours.config.hidden_size, requires_grad=True)
    mask = torch.ones(4, 1, 1, 9, dtype=torch.bool)
    mask[1, ..., 5:] = False
    mask = mask if masked else None
    fused = attention.eval()(hidden, mask)
    (fused_grad,) = torch.autograd.grad(fused.square().sum(), hidden)
    attention.train().dropout.p = 1e-6  # of the written-out path; rounds to dropping nothing
    written = attention(hidden, mask)
    (written_grad,) = torch.autograd.grad(written.square().sum(), hidden)
    torch.testing.assert_close(written, fused)
    torch.testing.assert_close(written_grad, fused_grad)
    if torch.cpu._is_avx512_bf16_supported():
        with torch.autocast("cpu", torch.bfloat16):
            rounded = attention.eval()(hidden, mask)
        torch.testing.assert_close(rounded.float(), fused, rtol=0.03, atol=0.03)
