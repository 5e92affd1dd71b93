import numpy as np
import pytest

from reranker.engines.scripted import ScriptedEngine
from reranker.errors import PromptError
from reranker.scoring import LabelScorer, ScoringList
from tests.contracts.scoring import ScoringContract, titled
from tests.scoring.readers import answers, own_labels, renderer, text_of


@pytest.fixture
def short_labels(tmp_path):
    return renderer(own_labels(tmp_path))


class TestContract(ScoringContract):
    @pytest.fixture
    def scorer(self, short_labels):
        return LabelScorer(ScriptedEngine(answers), short_labels)


def test_columns_are_the_labels_of_the_template(short_labels):
    def log_prob(prefix, span):
        return np.full(len(span), {"y": -0.25, "n": -1.5}[text_of(span[-1:])] - ("Bad" in text_of(span)))

    scoring = LabelScorer(ScriptedEngine(log_prob), short_labels)
    assert list(scoring.components) == ["llm_label_y", "llm_label_n"]
    values = scoring.score_components([ScoringList(history=[], candidates=titled("Good", "Bad"))])[0]
    assert values.tolist() == [[-0.25, -1.5], [-1.25, -2.5]]
    assert (values @ scoring.default_coefficients).tolist() == [1.25, 1.25]  # yes minus no


def test_three_labels_weigh_the_first_against_the_mean_of_the_others(tmp_path):
    directory = own_labels(tmp_path)
    template = directory / "generic" / "en.j2"
    template.write_text(template.read_text().replace("y\\nn", "a\\nb\\nc"))
    scoring = LabelScorer(ScriptedEngine(answers), renderer(directory))
    assert scoring.default_coefficients.tolist() == [1.0, -0.5, -0.5]


def test_labels_of_several_tokens_are_refused():
    with pytest.raises(PromptError, match="' yes' is 4 tokens"):
        LabelScorer(ScriptedEngine(), renderer())
