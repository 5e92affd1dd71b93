"""Flags for events and ratings, from a table on disk to a bundle."""

import pandas as pd
import pytest
from typer.testing import CliRunner

from reranker import Reranker
from reranker.cli.app import app
from reranker.cli.signal_options import signals_from_flags
from reranker.errors import ConfigError
from tests.pipeline import toys


@pytest.fixture
def tables(tmp_path):
    """48 users: five purchases each, of which the newest is viewed first, and a dislike."""
    data = toys.taste_dataset()
    rows = data.interactions.assign(event="buy")
    newest = rows.groupby("user_id").tail(1)
    views = newest.assign(event="view", timestamp=newest["timestamp"] - 1)
    dislikes = newest.assign(event="hide", item_id="g0i0", timestamp=0)[newest["item_id"].str[1] != "0"]
    pd.concat([rows, views, dislikes]).to_csv(tmp_path / "events.csv", index=False)
    data.items.to_csv(tmp_path / "items.csv", index=False)
    return ["--interactions", str(tmp_path / "events.csv"), "--items", str(tmp_path / "items.csv")]


def run(*arguments):
    return CliRunner().invoke(app, [str(one) for one in arguments])


def test_from_flags_to_a_bundle(tables, tmp_path):
    weights = ["--event-weights", "buy=5, hide=-5"]
    shown = run("data", "show", *tables, *weights, "--target-events", "buy")
    assert shown.exit_code == 0, shown.output
    assert "288 of 324 interactions are choices, 36 are about items that their user dislikes" in shown.output
    assert "to be predicted: buy (240 of 324 rows)" in shown.output
    assert "48 of these are of items that their user had met before" in shown.output
    (tmp_path / "settings.yaml").write_text("signals: {repeats: allowed, event_weights: {buy: 3}}\n")
    settings = ["--config", tmp_path / "settings.yaml", "--generator", "popularity", "--scorer", "baseline", "--n", 12]
    made = run("fit", *tables, *weights, "--target-events", "buy", *settings, "--out", tmp_path / "bundle")
    assert made.exit_code == 0, made.output
    assert "repeats are allowed: items that users know are proposed and held out, too" in made.output
    signals = Reranker.load(tmp_path / "bundle").fitted()[0].signals
    assert signals.event_weights == {"buy": 5.0, "hide": -5.0}
    assert (signals.target_events, signals.repeats) == (("buy",), "allowed")


def test_unknown_events_end_with_the_flag_to_give(tables, tmp_path):
    proposed = run("data", "candidates", *tables[:2], "--out", tmp_path / "c.csv", "--method", "popularity")
    assert proposed.exit_code != 0
    assert "--event-weights buy=1" in str(proposed.exception)
    weights = ["--event-weights", "buy=5,hide=-5"]
    proposed = run("data", "candidates", *tables[:2], "--out", tmp_path / "c.csv", "--method", "popularity", *weights)
    assert proposed.exit_code == 0, proposed.output


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        ({"event_weights": "view"}, "--event-weights must be NAME=NUMBER"),
        ({"event_weights": "view=much"}, "--event-weights must be NAME=NUMBER"),
        ({"rating_scale": "5"}, "--rating-scale must be LOWEST,HIGHEST"),
        ({"rating_scale": "5,1"}, "rating_scale"),
    ],
)
def test_flags_that_say_nothing_are_refused(flags, problem):
    with pytest.raises(ConfigError, match=problem):
        signals_from_flags(**flags)
