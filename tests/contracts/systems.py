"""What every evaluation system must do. Inherit and provide a `system` fixture (unfitted)."""

import numpy as np

from candidate_gen import ItemKNNGenerator
from reranker.data.splits import leave_last_k
from reranker.evaluation.base import System
from reranker.pipeline.lists import propose
from tests.evaluation import toys


class SystemContract:
    def _lists(self):
        lines = [f"u{user}: " + " ".join(f"i{(user * 5 + step) % 12}" for step in range(6)) for user in range(40)]
        fold = leave_last_k(toys.dataset(lines))
        return propose(fold.validation(), ItemKNNGenerator(), 6), propose(fold, ItemKNNGenerator(), 6)

    def test_is_a_system(self, system):
        assert isinstance(system, System)
        assert system.name
        assert system.stochastic in (True, False)

    def test_scores_are_finite_and_aligned(self, system):
        validation, test = self._lists()
        assert system.fit([validation]) is system
        scores = system.score(test)
        assert scores.shape == (len(test.candidates),)
        assert scores.dtype == np.float64
        assert np.isfinite(scores).all()

    def test_scoring_twice_gives_the_same(self, system):
        validation, test = self._lists()
        system.fit([validation])
        assert np.array_equal(system.score(test), system.score(test))

    def test_scores_do_not_depend_on_the_answers(self, system):
        validation, test = self._lists()
        system.fit([validation])
        before = system.score(test)
        others = toys.with_targets(test, dict.fromkeys(test.fold.users, "nothing"))
        assert np.array_equal(before, system.score(others))

    def test_fits_on_several_domains(self, system):
        validation, test = self._lists()
        assert len(system.fit([validation, validation]).score(test)) == len(test.candidates)
