"""A Bayesian search over the settings of `train prompt`: TPE (Bergstra et al. 2011) with a median pruner, by Optuna."""

import csv
import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from reranker.errors import ConfigError, ModelError
from reranker.training.run import Replayed, meta_train
from reranker.training.search_space import Scalar, SearchSpace
from reranker.utils.atomic_io import whole_file, write_text

logger = logging.getLogger(__name__)

STUDY, BEST, TABLE, RUNS = "study.db", "best.yaml", "trials.csv", "trials"
_RANDOM_TRIALS = 5  # before TPE and the pruner have something to go by
_REASON, _SPACE = "reason", "space"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One setting that was tried.

    Attributes:
        state: "complete", or "pruned" with a reason: worse than the median at a validation, diverged, or impossible.
        loss: best validation loss, nats a list; None where there was none.
        values: of the searched fields.
        reason: why it was pruned.
    """

    state: str
    loss: float | None
    values: dict[str, Scalar]
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """What `meta_search` found.

    Attributes:
        trials: in the order they were made, those of earlier calls included.
        best: number of the best one.
        settings: YAML that `train prompt --config` takes.
    """

    trials: Sequence[Trial]
    best: int
    settings: Path


def meta_search(space: SearchSpace, trials: int, out: Path, progress: bool = False) -> SearchResult:
    """Trains with one setting after another until the study in `out` has this many trials.

    Each trial is a run of `meta_train` in `out/trials/`, stopped at a validation that is worse than the median of the
    others there. What is suggested depends on the seed and on the finished trials alone, and runs resume: a search that
    was killed goes on as if it had not been.

    Raises:
        ConfigError: optuna is not installed, `out` holds another search, or no trial came to its end.
        DataError: a domain without lists to learn from.
    """
    try:
        import optuna
    except ImportError as error:
        raise ConfigError(f"searching needs optuna ({error}): pip install 'reranker[train]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    out.mkdir(parents=True, exist_ok=True)
    storage = optuna.storages.RDBStorage(f"sqlite:///{(out / STUDY).absolute()}")
    try:
        study = optuna.create_study(
            study_name="meta-search",
            storage=storage,
            pruner=optuna.pruners.MedianPruner(n_startup_trials=_RANDOM_TRIALS, n_warmup_steps=1),
            load_if_exists=True,
        )
        _same_search(study, space, out)
        for stale in study.get_trials(states=[optuna.trial.TrialState.RUNNING]):
            study.tell(stale.number, state=optuna.trial.TrialState.FAIL)
        seed, replayed = space.settings({}).seed, Replayed()
        with tqdm(total=trials, initial=len(_finished(study)), unit="trial", disable=not progress) as bar:
            while (done := len(_finished(study))) < trials:
                study.sampler = optuna.samplers.TPESampler(n_startup_trials=_RANDOM_TRIALS, seed=seed + done)
                _try(study, study.ask(), space, out, progress, replayed)
                _write(_finished(study), space, out)
                bar.update()
        made = _finished(study)
        _write(made, space, out)  # a run that was killed may have finished a trial and not written it
    finally:
        storage.remove_session()
        storage.engine.dispose()
    best = _best(made)
    if best is None:
        raise ConfigError(f"none of {len(made)} trials came to its end: {'; '.join(one.reason for one in made)}")
    return SearchResult(trials=made, best=best, settings=out / BEST)


def _try(study: Any, trial: Any, space: SearchSpace, out: Path, progress: bool, replayed: Replayed) -> None:
    from optuna import TrialPruned
    from optuna.trial import TrialState

    values = space.suggest(trial)

    def watch(step: int, loss: float) -> None:
        trial.report(loss, step)
        if trial.should_prune():
            raise TrialPruned(f"worse than the median at step {step}")

    try:
        config = space.settings(values)
        name = hashlib.sha256(config.model_dump_json().encode()).hexdigest()[:12]
        loss = meta_train(config, out / RUNS / name, progress, watch, replayed).curve.best[1]
    except (TrialPruned, ConfigError, ModelError) as error:
        logger.info("trial %d: %s", trial.number, error)
        trial.set_user_attr(_REASON, str(error))
        study.tell(trial, state=TrialState.PRUNED)
    else:
        study.tell(trial, loss)


def _finished(study: Any) -> list[Trial]:
    from optuna.trial import TrialState

    return [
        Trial(
            state=one.state.name.lower(),
            loss=min(one.intermediate_values.values(), default=one.value),
            values=one.params,
            reason=one.user_attrs.get(_REASON, ""),
        )
        for one in study.get_trials(states=[TrialState.COMPLETE, TrialState.PRUNED])
    ]


def _best(trials: Sequence[Trial]) -> int | None:
    complete = [(one.loss, number) for number, one in enumerate(trials) if one.state == "complete"]
    return min(complete)[1] if complete else None


def _same_search(study: Any, space: SearchSpace, out: Path) -> None:
    kept = study.user_attrs.get(_SPACE)
    if kept is None:
        study.set_user_attr(_SPACE, space.as_json())
    elif kept != space.as_json():
        raise ConfigError(f"{out} holds a search with other settings or another space; give the same or another folder")


def _write(trials: Sequence[Trial], space: SearchSpace, out: Path) -> None:
    with whole_file(out / TABLE) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["trial", "state", "loss", *space.fields, "reason"])
        for number, one in enumerate(trials):
            values = [one.values.get(name) for name in space.fields]
            writer.writerow([number, one.state, one.loss, *values, one.reason])
    if (best := _best(trials)) is not None:
        settings = yaml.safe_dump(space.changed(trials[best].values), sort_keys=False, allow_unicode=True)
        write_text(out / BEST, settings)
