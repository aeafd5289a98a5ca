"""What the stages of ROSITA share. Importing it lets transformers' Auto classes open our models."""

from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

from rosita.model import RositaConfig, RositaForSequenceClassification, RositaModel

AutoConfig.register("rosita", RositaConfig, exist_ok=True)
AutoModel.register(RositaConfig, RositaModel, exist_ok=True)
AutoModelForSequenceClassification.register(
    RositaConfig, RositaForSequenceClassification, exist_ok=True
)

__all__ = ["RositaConfig", "RositaForSequenceClassification", "RositaModel"]
