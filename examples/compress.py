# %% [markdown]
# # Compress a BERT in a notebook
#
# The pipeline of the README with `rosita.api`, on the sample task: fine-tune a 6-layer BERT, score
# its weights, prune it, distil it, export it. From the repository's root, once:
#
# ```
# pip install -e ".[quickstart,export]"
# python download_bert.py --model all-MiniLM-L6-v2
# python data/sample_tasks.py --tasks SST-2
# ```
#
# The cells take four minutes on two CPU cores. The sample task is made of rules: a score on it says
# nothing about GLUE.

# %%
import os
from pathlib import Path

from rosita import api
from rosita.pruning.importance import head_scores

if not Path("rosita").exists():  # started in examples/
    os.chdir("..")

TASK, DATA, BERT = "SST-2", "data/sample/SST-2", "models/bert_pt"
OUTPUT = Path("models/example")  # run again, the cells go on from what is there
SHAPE = "a2_l4_f256_e64"  # heads, layers, FFN units, rank of the embedding
TUNING = {"learning_rate": 5e-5, "num_train_epochs": 2}
DISTILLING: dict = {"learning_rate": 3e-4, "num_train_epochs": 5, "eval_step": 200}
MAX_DROP = 0.02  # of dev score, that a format may lose

# %% [markdown]
# ## The teacher
# A pretrained BERT gets a new classifier and is fine-tuned. `fine_tune` returns a model and leaves
# the one it is given alone; with a folder it writes there what `Pruning/run_glue.py` would.

# %%
bert = api.load(BERT, TASK, new_classifier=True)
teacher = api.fine_tune(bert, DATA, OUTPUT / "teacher", **TUNING)
print(teacher)
print(f"dev score {api.evaluate(teacher, DATA).main:.3f}")

# %% [markdown]
# ## Score and prune
# One pass over the training data gives a score to each weight: `|w * sum of |gradient||`. The best
# heads and FFN units stay, the first layers stay, the embedding is factorized.

# %%
scores = api.score(teacher, DATA, OUTPUT / "teacher")
heads = head_scores(scores, 0, teacher.shape.keep_heads)
print("layer 0, importance of each head (best = 1):")
print("  ".join(f"{value:.2f}" for value in heads / heads.max()))

# %%
small = api.prune(teacher, SHAPE, scores)
times = teacher.parameters / small.parameters
print(f"{teacher.shape} -> {small.shape}: {times:.1f}x fewer parameters")
print(f"pruned, not trained: dev score {api.evaluate(small, DATA).main:.3f}")

# %% [markdown]
# ## Distil
# The student learns the teacher's hidden states and logits. Here it sees the 3,000 training
# sentences only; augmented data (`data_augmentation.py`, then `aug_train=True`) is what the paper,
# and the quickstart, win most of the rest back with.

# %%
student = api.distil(
    teacher, small, DATA, OUTPUT / "student", pred_distill=True, repr_distill=True, **DISTILLING
)
found, before = api.evaluate(student, DATA).main, api.evaluate(teacher, DATA).main
print(f"student: dev score {found:.3f}, teacher {before:.3f}")

# %% [markdown]
# ## Export and use
# Each format is run on dev before it is written.

# %%
report = api.export(student, OUTPUT / "export", DATA, max_drop=MAX_DROP, overwrite_output_dir=True)

# %%
texts = ["a warm and witty film .", "the plot is far from dull .", "neither funny nor moving ."]
for text, answer in zip(texts, api.label(OUTPUT / "export", texts, "int8"), strict=True):
    print(f"{answer.label}  {answer.probability:.2f}  {text}")
