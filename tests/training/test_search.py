"""The search over settings: what may vary, what is kept, and that a killed search goes on as if it had not been."""

from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

from reranker.errors import ConfigError
from reranker.training.config import MetaConfig
from reranker.training.run import meta_train
from reranker.training.search import meta_search
from reranker.training.search_space import SearchSpace
from tests.cli.test_commands import run
from tests.training.toys import run_without_model, saved

SPACE = {"sigma": {"low": "1e-2", "high": 1.0, "log": True}, "title_weight": [0.0, 0.5]}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Trials without a model: seconds each."""
    return run_without_model(saved(tmp_path_factory.mktemp("data")))


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"sigmma": [0.1, 0.2]}, "sigmma = 0.1: .*sigmma: Extra inputs"),
        ({"reranker.soft_tokenz": [4, 8]}, r"reranker\.soft_tokenz: Extra"),
        ({"temperature": {"low": 0.5, "high": 2.0}}, "temperature = 2.0: .*less than or equal to 1"),
        ({"seed": [1, 2]}, "seed would change what validation measures"),
        ({"steps": {"low": 1, "high": 9}}, "the dearest would win"),
        ({"sigma": {"low": 0.0, "high": 1.0, "log": True}}, "above 0 with log"),
        ({"sigma": {"low": 0.1, "hihg": 1.0}}, "hihg"),
        ({"sigma": 0.1}, "needs {low, high} or a list"),
        ({"algorithm.name": ["es"]}, "algorithm has no fields"),
        ({}, "it is empty"),
    ],
)
def test_an_impossible_space_is_refused_before_anything_runs(
    base: dict[str, Any], space: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        SearchSpace.from_mapping(base, space)


def test_whole_numbers_stay_whole_and_fields_have_fields(base: dict[str, Any]) -> None:
    space = SearchSpace.from_mapping(base, {"reranker.soft_tokens": {"low": 2, "high": 8}, "sigma": [0.1, 0.2]})
    drawn = space.suggest(optuna.create_study().ask())
    assert isinstance(drawn["reranker.soft_tokens"], int)
    config = space.settings(drawn)
    assert config.reranker.soft_tokens == drawn["reranker.soft_tokens"]
    assert config.reranker.engine == "scripted"
    assert base["reranker"]["soft_tokens"] == 2


def test_a_search_in_parts_is_the_search_in_one(base: dict[str, Any], tmp_path: Path) -> None:
    space = SearchSpace.from_mapping(base, SPACE)
    whole = meta_search(space, 7, tmp_path / "whole")
    meta_search(space, 2, tmp_path / "parts")
    # A killed process leaves a trial that is running for ever.
    url = f"sqlite:///{tmp_path / 'parts' / 'study.db'}"
    storage = optuna.storages.RDBStorage(url)
    optuna.load_study(study_name="meta-search", storage=storage).ask()
    storage.remove_session()
    storage.engine.dispose()
    parts = meta_search(space, 7, tmp_path / "parts")
    assert parts.trials == whole.trials and parts.best == whole.best
    assert len({one.values["sigma"] for one in whole.trials}) == 7

    best = min((one for one in whole.trials if one.state == "complete"), key=lambda one: one.loss or 0.0)
    settings = yaml.safe_load(whole.settings.read_text())
    assert settings == {**base, **best.values}
    again = meta_train(MetaConfig.from_mapping(settings), tmp_path / "again")
    assert again.curve.best[1] == best.loss
    table = tmp_path / "whole" / "trials.csv"
    assert len(table.read_text().splitlines()) == 8
    table.unlink()
    whole.settings.unlink()  # killed between the last trial and its being written
    assert meta_search(space, 7, tmp_path / "whole").settings.exists()
    assert len(table.read_text().splitlines()) == 8
    with pytest.raises(ConfigError, match="another space"):
        meta_search(SearchSpace.from_mapping(base, {"sigma": [0.1, 0.2]}), 8, tmp_path / "whole")


def test_settings_that_fail_are_pruned_with_the_reason(base: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "meta.yaml").write_text(yaml.safe_dump(base))
    (tmp_path / "space.yaml").write_text("population: [4, 9]\n")
    said, _ = run(
        "train", "search", "--config", tmp_path / "meta.yaml", "--space", tmp_path / "space.yaml", "--trials", 4,
        "--out", tmp_path / "out",
    )  # fmt: skip
    trials = [line for line in said.splitlines() if "population" in line]
    assert len(trials) == 4
    for line in trials:
        assert ("pruned" in line) == ("population 9" in line) == ("each of 9 members" in line)
    assert yaml.safe_load((tmp_path / "out" / "best.yaml").read_text())["population"] == 4


def test_every_validation_is_watched_those_before_a_resume_too(base: dict[str, Any], tmp_path: Path) -> None:
    seen: list[tuple[int, float]] = []
    config = MetaConfig.from_mapping(base)
    first = meta_train(config, tmp_path, watch=lambda *one: seen.append(one))
    assert seen == first.curve.validation and [step for step, _ in seen] == [0, 1, 2]
    meta_train(config, tmp_path, watch=lambda *one: seen.append(one))
    assert seen == 2 * first.curve.validation
