import numpy as np
import onnx
import pytest
import torch
from conftest import SMALL

from rosita import RositaConfig, RositaForSequenceClassification
from rosita.errors import RositaError
from rosita.export import OnnxModel, export_onnx, quantize_onnx

PRUNED = {"num_attention_heads": 1, "prun_hidden_size": 8, "prun_intermediate_size": 24}


def model(**changes) -> RositaForSequenceClassification:
    torch.manual_seed(0)
    config = RositaConfig(vocab_size=300, num_labels=3, **{**SMALL, **changes})
    made = RositaForSequenceClassification(config)
    for weight in made.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    return made


def inputs(batch: int, length: int) -> dict[str, torch.Tensor]:
    ids = torch.randint(5, 300, (batch, length), generator=torch.Generator().manual_seed(length))
    mask, types = torch.ones_like(ids), torch.zeros_like(ids)
    mask[0, length // 2 + 1 :] = 0
    types[:, length // 2 :] = 1
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}


@pytest.mark.parametrize("changes", [{}, {**PRUNED, "emb_hidden_dim": 6}])
def test_onnx_gives_pytorchs_logits_at_every_batch_size_and_length(tmp_path, changes):
    made = model(**changes).train()
    export_onnx(made, tmp_path / "model.onnx")
    assert made.training
    opened = OnnxModel(tmp_path / "model.onnx")
    for batch, length in ((1, 1), (1, 16), (5, 3), (3, 31)):
        given = inputs(batch, length)
        with torch.no_grad():
            expected = made.eval()(**given).logits
        actual = torch.from_numpy(opened.logits(**given))
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_int8_stores_a_byte_per_matrix_element_and_keeps_the_logits_within_its_rounding(tmp_path):
    made = model(emb_hidden_dim=6).eval()
    export_onnx(made, tmp_path / "model.onnx")
    quantize_onnx(tmp_path / "model.onnx", tmp_path / "int8.onnx")
    stored = onnx.load(tmp_path / "int8.onnx").graph.initializer
    whole = {onnx.TensorProto.INT8, onnx.TensorProto.UINT8}
    int8 = sum(np.prod(t.dims) for t in stored if t.data_type in whole and len(t.dims) == 2)
    encoder = sum(w.numel() for w in made.bert.encoder.parameters() if w.dim() == 2)
    assert int8 >= encoder + made.bert.get_input_embeddings().weight.numel()
    given = inputs(4, 12)
    exact = OnnxModel(tmp_path / "model.onnx").logits(**given)
    rounded = OnnxModel(tmp_path / "int8.onnx").logits(**given)
    assert 0 < np.abs(rounded - exact).max() < 0.1 * np.abs(exact).max()


def test_a_file_that_is_no_onnx_model_is_named_in_one_line(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(RositaError, match="model.onnx is not an ONNX model"):
        OnnxModel(tmp_path / "model.onnx")
    with pytest.raises(RositaError, match="does not exist; KD/export.py writes it"):
        OnnxModel(tmp_path / "other.onnx")
