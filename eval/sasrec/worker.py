"""Trains SASRec (Kang & McAuley 2018) with RecBole and scores given candidates.

Runs by the interpreter of RecBole's own environment, as eval/sasrec/run.py starts it:
`python sasrec_worker.py LISTS SCORES [--epochs N] [--length L] [--seed S]`; LISTS is a folder that
`reranker evaluate --export` wrote.
"""

import argparse
import copy
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.data.interaction import Interaction
from recbole.utils import get_model, get_trainer, init_seed

NAME = "fold"
USERS_PER_BATCH = 512


def main() -> None:
    """Reads LISTS, trains, writes SCORES (user_id, item_id, score)."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("lists", type=Path)
    parser.add_argument("scores", type=Path)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--length", type=int, default=50, help="newest items of a history that count")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    sys.argv = sys.argv[:1]  # RecBole reads the command line too
    train = pd.read_parquet(options.lists / "train.parquet")
    candidates = pd.read_parquet(options.lists / "candidates.parquet")
    items = pd.Index(train["item_id"].unique())
    with tempfile.TemporaryDirectory() as folder:
        settings = configuration(Path(folder), options.epochs, options.length, options.seed)
        write_atomic(train, items, Path(folder))
        init_seed(options.seed, reproducibility=True)
        dataset = create_dataset(settings)
        model = fitted(settings, dataset)
    ids = dataset.token2id("item_id", [str(code) for code in range(len(items))])
    table = candidates[["user_id", "item_id"]].copy()
    table["score"] = scores(model, train, candidates, items, ids, options.length)
    table.to_parquet(options.scores, index=False)


def configuration(folder: Path, epochs: int, length: int, seed: int) -> Config:
    """RecBole's own settings of SASRec, with full softmax and early stopping on each user's last training item.

    Small batches need few passes over the data, which is what a CPU has time for.
    """
    settings = {
        "data_path": str(folder),
        "checkpoint_dir": str(folder / "saved"),
        "USER_ID_FIELD": "user_id",
        "ITEM_ID_FIELD": "item_id",
        "TIME_FIELD": "timestamp",
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "MAX_ITEM_LIST_LENGTH": length,
        "train_batch_size": 256,
        "loss_type": "CE",
        "train_neg_sample_args": None,
        "eval_args": {"split": {"LS": "valid_only"}, "order": "TO", "group_by": "user", "mode": "full"},
        "metrics": ["NDCG"],
        "topk": [10],
        "valid_metric": "NDCG@10",
        "stopping_step": 5,
        "epochs": epochs,
        "seed": seed,
        "state": "WARNING",
        "show_progress": False,
        "use_gpu": torch.cuda.is_available(),
    }
    return Config(model="SASRec", dataset=NAME, config_dict=settings)


def write_atomic(train: pd.DataFrame, items: pd.Index, folder: Path) -> None:
    """RecBole's file format. Ids become numbers, and times the place in the user's sequence: float32 would tie them."""
    table = pd.DataFrame(
        {
            "user_id:token": pd.factorize(train["user_id"])[0],
            "item_id:token": items.get_indexer(train["item_id"]),
            "timestamp:float": train.groupby("user_id", sort=False).cumcount(),
        }
    )
    (folder / NAME).mkdir()
    table.to_csv(folder / NAME / f"{NAME}.inter", sep="\t", index=False)


def fitted(settings: Config, dataset: object) -> torch.nn.Module:
    """The model of the best epoch, kept in memory: torch no longer loads the checkpoints that RecBole writes."""
    training, validation, _ = data_preparation(settings, dataset)
    model = get_model("SASRec")(settings, training.dataset).to(settings["device"])
    trainer = get_trainer(settings["MODEL_TYPE"], "SASRec")(settings, model)
    best = {"score": -np.inf, "state": model.state_dict()}

    def keep_best(epoch: int, score: float) -> None:
        print(f"epoch {epoch + 1}: validation NDCG@10 {score:.4f}", file=sys.stderr, flush=True)
        if score > best["score"]:
            best.update(score=score, state=copy.deepcopy(model.state_dict()))

    trainer.fit(training, validation, verbose=False, saved=False, callback_fn=keep_best)
    model.load_state_dict(best["state"])
    return model.eval()


@torch.no_grad()
def scores(
    model: torch.nn.Module,
    train: pd.DataFrame,
    candidates: pd.DataFrame,
    items: pd.Index,
    ids: np.ndarray,
    length: int,
) -> np.ndarray:
    """(rows,) logits of the candidates after all of the user's training items; items unseen in training come last."""
    sequences = {user: ids[items.get_indexer(part)] for user, part in train.groupby("user_id")["item_id"]}
    codes = items.get_indexer(candidates["item_id"])
    known = codes >= 0
    result = np.full(len(candidates), -np.inf)
    groups = list(candidates.groupby("user_id", sort=False).indices.items())
    for start in range(0, len(groups), USERS_PER_BATCH):
        part = groups[start : start + USERS_PER_BATCH]
        lengths = torch.zeros(len(part), dtype=torch.int64)
        batch = torch.zeros(len(part), length, dtype=torch.int64)
        for row, (user, _) in enumerate(part):
            sequence = sequences.get(user, ids[:0])[-length:]
            batch[row, : len(sequence)] = torch.as_tensor(sequence)
            lengths[row] = max(1, len(sequence))
        inputs = Interaction({"item_id_list": batch, "item_length": lengths}).to(next(model.parameters()).device)
        logits = model.full_sort_predict(inputs).cpu().numpy()
        for row, (_, positions) in enumerate(part):
            seen = positions[known[positions]]
            result[seen] = logits[row, ids[codes[seen]]]
    lowest = result[known].min() if known.any() else 0.0
    return np.where(known, result, lowest - 1.0)


if __name__ == "__main__":
    main()
