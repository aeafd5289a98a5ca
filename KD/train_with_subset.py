"""Distil on train_aug0.tsv, train_aug1.tsv, ...: the same loop as train.py, another source.

    cd KD && python train_with_subset.py --config_dir configurations/config_setting1.json \\
        --task_name MNLI --do_lower_case

The subsets come from `data_augmentation.py --subset_rows`, or from Unix `split` renamed; pieces
after the first need no header. Token ids stay on the disk, so memory is that of one batch.
"""

from train import launch

if __name__ == "__main__":
    launch(subsets=True)
