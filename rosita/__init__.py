"""What the stages of ROSITA share. Importing it lets transformers' Auto classes open our models."""

import os

# Before torch starts its threads: a waiting thread spins briefly, then sleeps. With the default
# of libgomp, which spins on, a process on the same cores made a training step 25 times slower
# (5.0 s for 0.2 s); with this, 2 times; alone it costs 7 % (a policy of sleeping at once: 30 %).
os.environ.setdefault("GOMP_SPINCOUNT", "2000")

from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification  # noqa: E402

from rosita.model import RositaConfig, RositaForSequenceClassification, RositaModel

AutoConfig.register("rosita", RositaConfig, exist_ok=True)
AutoModel.register(RositaConfig, RositaModel, exist_ok=True)
AutoModelForSequenceClassification.register(
    RositaConfig, RositaForSequenceClassification, exist_ok=True
)

__all__ = ["RositaConfig", "RositaForSequenceClassification", "RositaModel"]
