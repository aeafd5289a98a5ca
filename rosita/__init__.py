"""What the stages of ROSITA share. Importing it lets transformers' Auto classes open our models."""

import os

# Before torch starts its threads: waiting threads sleep instead of spinning. With another process
# on the same cores, spinning made a training step 13 times slower (5.0 s against 0.39 s).
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification  # noqa: E402

from rosita.model import (  # noqa: E402
    RositaConfig,
    RositaForSequenceClassification,
    RositaModel,
)

AutoConfig.register("rosita", RositaConfig, exist_ok=True)
AutoModel.register(RositaConfig, RositaModel, exist_ok=True)
AutoModelForSequenceClassification.register(
    RositaConfig, RositaForSequenceClassification, exist_ok=True
)

__all__ = ["RositaConfig", "RositaForSequenceClassification", "RositaModel"]
