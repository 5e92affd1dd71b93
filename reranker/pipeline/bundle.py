"""A fitted Reranker on disk: a folder of open formats, no pickle, whole or not there at all.

bundle.yaml          versions, model, templates, settings, what the guard serves and why, sha256 of every file
fusion.json          scorer coefficients, fusion weights, guard
items.parquet        item table without ids;  ids.json  item and user ids with their types
calibration_items.parquet  rows of items as they were at `fit`, of which the calibration histories are made
statistics.npz         item statistics and histories
item_vectors.npz       item vectors of the user's own, their space and projections, where the ranker goes by such
details.parquet      timestamps and weights of the interactions, in the order of the histories
judged.npz           NDCG@10 of the lists that the guard went by
context.safetensors  what makes users' contexts soft tokens, where there is such a map
priors.parquet       log-likelihood of titles behind the calibration histories
states.npz           hidden states of items' texts and the spaces they are compared in
prompts/             soft prompts in PEFT PROMPT_TUNING format
generator/           the candidate generator, where its class is registered (candidate_gen.register_generator)
"""

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
from reranker.data.dataset import Dataset
from reranker.data.schema import ITEM, USER
from reranker.data.signals import Signals
from reranker.data.table_io import read_table, write_table
from reranker.errors import BundleError, DataError, RerankerError, UnknownGeneratorError
from reranker.fusion import FusionModel, InteractionStatistics
from reranker.fusion.columns import content_columns, llm_words
from reranker.fusion.judged import JudgedLists
from reranker.fusion.ladder import Ladder
from reranker.pipeline.manifest import FORMAT_VERSION, BundleIdentity, fitted_at, identity_of, read_manifest, seal
from reranker.pipeline.statistics_file import (
    read_statistics,
    with_own,
    with_vectors,
    write_own,
    write_statistics,
    write_vectors,
)
from reranker.pipeline.untrusted_bundle import MANIFEST, require_plain_fields
from reranker.pipeline.versions import add_version, current_version, is_versioned
from reranker.protocols import CandidateGenerator
from reranker.scoring import COMPONENTS, PriorStore, StateStore
from reranker.soft_tokens import CONTEXT_FILE, ContextMap
from reranker.soft_tokens.prompt_bank import PromptBank
from reranker.types import ItemId, ModelInfo
from reranker.utils.atomic_io import sha256, whole_folder
from reranker.utils.id_json import decode_ids, encode_ids
from reranker.utils.untrusted import MOST_YAML_BYTES, read_json, read_npz, require_small_parquet

logger = logging.getLogger(__name__)

_TRIES = 20  # of reading a bundle that is being replaced
_IDS, _ITEMS, _CALIBRATION_ITEMS = "ids.json", "items.parquet", "calibration_items.parquet"
_STATISTICS, _STATES = "statistics.npz", "states.npz"
_DETAILS, _JUDGED = "details.parquet", "judged.npz"


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


def require_new_place(directory: Path, overwrite: bool) -> None:
    """Raises BundleError where something else than a bundle stands, or one that is not to be replaced."""
    require_place(directory)
    if (directory / MANIFEST).exists() and not overwrite:
        raise BundleError(
            f"{directory} holds a bundle already: choose another folder with --out, or give --overwrite to have this "
            "one replaced"
        )


def require_place(directory: Path) -> None:
    """Raises BundleError where something else than a bundle stands."""
    if is_versioned(directory):
        return
    if directory.is_file() or (directory.exists() and any(directory.iterdir()) and not (directory / MANIFEST).exists()):
        raise BundleError(f"{directory} exists and is not a bundle: choose another folder")


def require_storable(data: Dataset) -> None:
    """Raises DataError for an id, or a column of items, that a bundle cannot hold."""
    for ids in (data.interactions[USER], data.interactions[ITEM], data.items[ITEM]):
        encode_ids(ids.drop_duplicates())
    _require_storable_columns(data.items.drop(columns=ITEM), "items")
    if data.users is not None:
        encode_ids(data.users[USER])
        _require_storable_columns(data.users.drop(columns=USER), "users")


def _require_storable_columns(table: pd.DataFrame, where: str) -> None:
    for name in table.columns:
        try:
            pa.array(table[name], from_pandas=True)
        except (pa.ArrowException, TypeError, OverflowError) as error:
            raise DataError(
                f"table {where!r}, column {name!r}: its values cannot be stored together ({error}). Convert them to "
                "text, or leave the column out"
            ) from error


def write_bundle(directory: Path, state: BundleState) -> None:
    """Writes into a folder beside `directory` and renames it, so that a failure leaves what stood there before.

    Where `directory` holds versions, this becomes the next one.

    Raises:
        BundleError: the disk refused, or `directory` is something else than a bundle.
        DataError: an id is of a type that cannot be stored.
    """
    directory = directory.resolve()
    require_place(directory)
    if is_versioned(directory):
        add_version(directory, lambda fresh: _write_parts(fresh, state))
        return
    try:
        with whole_folder(directory) as fresh:
            _write_parts(fresh, state)
    except OSError as error:
        raise BundleError(
            f"cannot save the bundle {directory}: {error}. What stood there before is untouched"
        ) from error


def write_version(directory: Path, state: BundleState, keep: int) -> Path:
    """Adds a version to the bundle that stands there, and makes it the current one.

    Raises:
        BundleError: no bundle stands there, or the disk refused.
        DataError: an id is of a type that cannot be stored.
    """
    read_manifest(current_version(directory))
    return add_version(directory, lambda fresh: _write_parts(fresh, state), keep)


def read_bundle(directory: Path) -> BundleState:
    """Reads and verifies what `write_bundle` wrote; all of one bundle, also where a newer one takes its place.

    Raises:
        BundleError: no bundle, another format version, or a file is missing, added to or changed.
    """
    for _ in range(_TRIES):
        before = _standing(directory)
        folder, _ = before
        try:
            state = _read_parts(folder, read_manifest(folder))
        except BundleError:
            if _standing(directory) == before:
                raise
        else:
            if _standing(directory) == before:
                return state
    raise BundleError(f"the bundle {directory} was replaced {_TRIES} times while it was read: load it again")


def _standing(directory: Path) -> tuple[Path, bytes | None]:
    """The folder of the bundle that stands there, and its manifest: another pair where a newer one took its place."""
    folder = current_version(directory)
    path = folder / MANIFEST
    try:
        if not path.is_symlink() and path.is_file():
            with path.open("rb") as file:
                return folder, file.read(MOST_YAML_BYTES + 1)
    except OSError:
        pass
    return folder, None


def _read_parts(directory: Path, manifest: dict[str, Any]) -> BundleState:
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


def _write_parts(directory: Path, state: BundleState) -> None:
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
        np.savez_compressed(directory / _JUDGED, allow_pickle=False, ndcg=judged.ndcg, n_known=judged.n_known)
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
    if arrays["ndcg"].shape != (len(users), 3) or arrays["n_known"].shape != (len(users),):
        raise BundleError(f"{path} is damaged: {arrays['ndcg'].shape} values of {len(users)} lists")
    return replace(fusion_model, judged=JudgedLists(ndcg=arrays["ndcg"], n_known=arrays["n_known"], users=users))


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
