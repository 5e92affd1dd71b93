"""The files of a bundle: what stands in which, written and read."""

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import yaml

from reranker.config import RerankerConfig
from reranker.data.schema import ITEM
from reranker.data.signals import Signals
from reranker.data.table_io import read_table, write_table
from reranker.errors import BundleError, RerankerError, UnknownGeneratorError
from reranker.fusion import FusionModel, InteractionStatistics
from reranker.fusion.columns import content_columns, llm_words
from reranker.fusion.judged import JudgedLists
from reranker.fusion.ladder import Ladder
from reranker.pipeline.manifest import FORMAT_VERSION, BundleIdentity, fitted_at, identity_of, seal
from reranker.pipeline.statistics_file import (
    read_statistics,
    with_own,
    with_vectors,
    write_own,
    write_statistics,
    write_vectors,
)
from reranker.pipeline.summary import Summary, generator_name
from reranker.pipeline.untrusted_bundle import MANIFEST, require_plain_fields
from reranker.protocols import CandidateGenerator
from reranker.scoring import COMPONENTS, PriorStore, StateStore
from reranker.soft_tokens import CONTEXT_FILE, ContextMap
from reranker.soft_tokens.prompt_bank import PromptBank
from reranker.types import ItemId, ModelInfo
from reranker.utils.atomic_io import sha256
from reranker.utils.id_json import decode_ids, encode_ids
from reranker.utils.untrusted import MOST_YAML_BYTES, read_json, read_npz, require_small_parquet

logger = logging.getLogger(__name__)

_IDS, _ITEMS, _CALIBRATION_ITEMS = "ids.json", "items.parquet", "calibration_items.parquet"
_STATISTICS, _STATES = "statistics.npz", "states.npz"
_DETAILS, _JUDGED = "details.parquet", "judged.npz"
SUMMARY = "summary.json"
"""What `Reranker.summary()` says, for programs and people; nothing is read from it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class BundleState:
    """Everything a fitted Reranker is made of, except the model itself.

    `identity` is that of the bundle it was read from; None before it is saved.
    """

    config: RerankerConfig
    domain: str
    model: ModelInfo
    templates_sha256: str
    items: pd.DataFrame
    statistics: InteractionStatistics
    calibration_ids: Sequence[Sequence[ItemId]]
    calibration_items: pd.DataFrame
    fusion_model: FusionModel
    prompts: PromptBank
    priors: PriorStore
    generator: CandidateGenerator | None
    contexts: ContextMap | None = None
    hidden_states: StateStore | None = None
    ladder: Ladder | None = None
    details: pd.DataFrame | None = None
    signals: Signals = field(default_factory=Signals)
    fitted: datetime | None = None
    identity: BundleIdentity | None = None


def read_parts(directory: Path, manifest: dict[str, Any]) -> BundleState:
    """Reads all files of the bundle in `directory`, and verifies them against its manifest.

    Raises:
        BundleError: a file is missing, added to, changed or damaged; the message names it.
    """
    with _reading(directory):
        _verify(directory, manifest["files"])
        require_plain_fields(directory / MANIFEST, manifest)
        with _reading(directory / _IDS):
            ids = read_json(directory / _IDS)
            item_ids, users, item_table = (decode_ids(ids[name]) for name in ("items", "users", "item_table"))
            calibration_ids = [decode_ids(one) for one in ids["calibration"]]
            calibration_items = decode_ids(ids["calibration_items"])
        with _reading(directory / _ITEMS):
            items = _read_items(directory / _ITEMS, item_table)
        with _reading(directory / _CALIBRATION_ITEMS):
            calibration = _read_items(directory / _CALIBRATION_ITEMS, calibration_items)
        with _reading(directory / _STATISTICS):
            statistics = read_statistics(directory / _STATISTICS, item_ids, users)
        state = BundleState(
            config=RerankerConfig.from_mapping(manifest["config"]),
            domain=manifest["domain"],
            model=ModelInfo(**manifest["model"]),
            templates_sha256=manifest["templates_sha256"],
            items=items,
            statistics=with_vectors(with_own(statistics, directory, ids, items), directory, ids),
            calibration_ids=calibration_ids,
            calibration_items=calibration,
            fusion_model=_with_judged(
                FusionModel.from_json(read_json(directory / "fusion.json")), directory / _JUDGED, ids
            ),
            prompts=PromptBank.load(directory / "prompts"),
            priors=PriorStore.load(directory / "priors.parquet"),
            generator=_read_generator(directory / "generator"),
            contexts=ContextMap.load(directory / CONTEXT_FILE) if (directory / CONTEXT_FILE).exists() else None,
            hidden_states=StateStore.load(states) if (states := directory / _STATES).exists() else None,
            ladder=Ladder.from_json(manifest["ladder"]) if "ladder" in manifest else None,
            details=read_table(details) if (details := directory / _DETAILS).exists() else None,
            signals=Signals.from_mapping(manifest.get("signals", {})),
            fitted=fitted_at(manifest),
            identity=identity_of(manifest),
        )
        _require_columns(directory, state)
        return state


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Whatever cannot be read inside is a BundleError that names the file; the bundle, where it is not known which."""
    try:
        yield
    except BundleError:
        raise
    except (
        RerankerError,
        AttributeError,
        KeyError,
        IndexError,
        TypeError,
        ValueError,
        OverflowError,
        RecursionError,
        MemoryError,
        OSError,
        pa.ArrowException,
    ) as error:
        what = f"the bundle {path}" if path.is_dir() else f"{path} is damaged: it"
        raise BundleError(f"{what} cannot be read ({type(error).__name__}: {error}). Save the bundle again") from error


def write_parts(directory: Path, state: BundleState) -> None:
    """Writes all files into the empty folder `directory`, the manifest last.

    Raises:
        BundleError: the manifest would be longer than what is read.
        DataError: an id is of a type that cannot be stored.
    """
    statistics = state.statistics
    ids = {
        "items": encode_ids(statistics.index),
        "item_table": encode_ids(state.items[ITEM]),
        "users": encode_ids(statistics.histories),
        "calibration": [encode_ids(one) for one in state.calibration_ids],
        "calibration_items": encode_ids(state.calibration_items[ITEM]),
    }
    judged = state.fusion_model.judged
    if judged is not None:
        ids["judged"] = encode_ids(judged.users)
        np.savez_compressed(
            directory / _JUDGED, allow_pickle=False, ndcg=judged.ndcg, n_known=judged.n_known, recall=judged.recall
        )
    if statistics.own is not None:
        write_own(statistics.own, directory, ids)
    if statistics.own_vectors is not None:
        write_vectors(statistics.own_vectors, directory, ids)
    if state.details is not None:
        write_table(state.details, directory / _DETAILS)
    (directory / _IDS).write_text(json.dumps(ids))
    (directory / "fusion.json").write_text(json.dumps(state.fusion_model.to_json(), indent=1))
    write_table(state.items.drop(columns=ITEM), directory / _ITEMS)
    write_table(state.calibration_items.drop(columns=ITEM), directory / _CALIBRATION_ITEMS)
    write_statistics(directory / _STATISTICS, statistics)
    state.priors.save(directory / "priors.parquet")
    if state.hidden_states is not None and len(state.hidden_states):
        state.hidden_states.save(directory / _STATES)
    state.prompts.save(directory / "prompts")
    if state.contexts is not None:
        state.contexts.save(directory / CONTEXT_FILE)
    if state.generator is not None:
        _write_generator(state.generator, directory / "generator")
    (directory / SUMMARY).write_text(json.dumps(_summary(state).to_json(), indent=1, ensure_ascii=False), "utf-8")
    manifest = {
        "format": FORMAT_VERSION,
        "reranker": metadata.version("reranker"),
        "domain": state.domain,
        **({} if state.fitted is None else {"fitted": state.fitted.isoformat(timespec="seconds")}),
        "serves": state.fusion_model.guard.serve,
        "served": state.fusion_model.guard.summary(),
        **({} if state.ladder is None else {"ladder": state.ladder.to_json()}),
        "model": asdict(state.model),
        "templates_sha256": state.templates_sha256,
        **({"states_layer": layer} if (layer := state.hidden_states and state.hidden_states.layer) else {}),
        "config": json.loads(state.config.model_dump_json(exclude_unset=True)),
        **(
            {"signals": signals}
            if (signals := json.loads(state.signals.model_dump_json(exclude_defaults=True)))
            else {}
        ),
        "files": _hashes(directory),
    }
    text = yaml.safe_dump(seal(manifest), sort_keys=False, allow_unicode=True)
    if len(text.encode()) > MOST_YAML_BYTES:
        raise BundleError(
            f"{MANIFEST} would have more than the {MOST_YAML_BYTES} bytes that are read: shorten settings"
        )
    (directory / MANIFEST).write_text(text)


def _summary(state: BundleState) -> Summary:
    return Summary.of(
        state.config,
        state.domain,
        state.model.model_id,
        state.fusion_model,
        state.statistics,
        items=len(state.items),
        generator=generator_name(state.generator),
        ladder=state.ladder,
        fitted=state.fitted,
    )


def _require_columns(directory: Path, state: BundleState) -> None:
    """Refuses weights of other columns than statistics and scorer give."""
    model, features = state.fusion_model, list(state.statistics.columns)
    known = [COMPONENTS.get(name) for name in state.config.scorers]
    read = [name for name in model.fused.columns if name not in model.features.columns]
    fits = [*features, *read] == list(model.fused.columns) and len(read) == 2 * len(model.coefficients)
    if None not in known:
        fits = fits and read == list(llm_words({name: words for one in known for name, words in (one or {}).items()}))
    if model.new_items is not None:
        content = [features[place] for place in content_columns(features)] + read[: len(model.coefficients)]
        fits = fits and list(model.new_items.columns) == content
    if list(model.features.columns) != features or not fits:
        raise BundleError(
            f"the bundle {directory} is damaged: the weights in fusion.json are of other columns than its statistics "
            f"and the scorer {state.config.scorer!r} give. Save or fit it again"
        )


def _with_judged(fusion_model: FusionModel, path: Path, ids: dict[str, Any]) -> FusionModel:
    if not path.exists():
        return fusion_model
    arrays, users = read_npz(path), decode_ids(ids["judged"])
    recall = arrays.get("recall", np.full(len(users), np.nan))  # none before 0.1.0
    if arrays["ndcg"].shape != (len(users), 3) or not arrays["n_known"].shape == recall.shape == (len(users),):
        raise BundleError(f"{path} is damaged: {arrays['ndcg'].shape} values of {len(users)} lists")
    judged = JudgedLists(ndcg=arrays["ndcg"], n_known=arrays["n_known"], users=users, recall=recall)
    return replace(fusion_model, judged=judged)


def _read_items(path: Path, ids: list[ItemId]) -> pd.DataFrame:
    require_small_parquet(path, len(ids))
    items = read_table(path)
    items.insert(0, ITEM, pd.Series(ids, dtype=object))
    if not items[ITEM].is_unique:
        raise BundleError(f"{path.parent / _IDS} is damaged: it names an item of {path.name} twice")
    return items


def _write_generator(stage: CandidateGenerator, directory: Path) -> None:
    # Not at the top: candidate_gen imports reranker.errors, so `import candidate_gen` comes through here.
    from candidate_gen import can_load

    if can_load(stage):
        stage.save(directory)
    else:
        logger.warning(
            "the candidate generator (%s) is not saved with the bundle, which can do without: make its class known by "
            "candidate_gen.register_generator to have it saved",
            type(stage).__name__,
        )


def _read_generator(directory: Path) -> CandidateGenerator | None:
    from candidate_gen import load_generator

    if not directory.is_dir():
        return None
    try:
        return load_generator(directory)
    except UnknownGeneratorError as error:  # nothing but further fitting needs it
        logger.warning("the bundle's candidate generator is left out: %s", error)
        return None


def _hashes(directory: Path) -> dict[str, str]:
    files = sorted(path for path in directory.rglob("*") if path.is_file() and path.name != MANIFEST)
    return {path.relative_to(directory).as_posix(): sha256(path) for path in files}


def _verify(directory: Path, expected: dict[str, str]) -> None:
    found = _hashes(directory)
    for problem, names in {
        "missing": expected.keys() - found.keys(),
        "not part of the bundle": found.keys() - expected.keys(),
        "changed since it was saved": {
            name for name in expected.keys() & found.keys() if expected[name] != found[name]
        },
    }.items():
        if names:
            raise BundleError(f"the bundle {directory} is damaged: {', '.join(sorted(names))} {problem}. Save it again")
