"""The fusion head: LLM score and interaction features, blended by a conditional logit."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reranker.errors import BundleError, DataError
from reranker.fusion.boosted import BoostedTrees
from reranker.fusion.columns import new_item_words
from reranker.fusion.conditional_logit import ConditionalLogit
from reranker.fusion.past import PastChoices
from reranker.types import IntArray

RIDGES = (1.0, 10.0, 100.0, 1e3, 1e6)
"""Multiples of the weakest ridge that `fit_fused` considers; the last leaves the baseline as it is."""

CROSS_VALIDATION_FOLDS = 5
CROSS_FITTING_FOLDS = 5


@dataclass(frozen=True, kw_only=True, eq=False)
class FusionHead:
    """A linear utility over named columns, each z-scored within the list; or trees in its place.

    Attributes:
        columns: column name -> what it says, in words.
        logit: the fitted weights, in the order of `columns`.
        past: the choices that it was fitted on, as far as an update needs them; None in bundles that hold none.
        trees: over the same columns, which score in the weights' place; None where the weights do.
    """

    columns: dict[str, str]
    logit: ConditionalLogit
    past: PastChoices | None = None
    trees: BoostedTrees | None = None

    @classmethod
    def fit(
        cls,
        columns: dict[str, str],
        features: NDArray[np.float64],
        list_index: IntArray,
        chosen: NDArray[np.bool_],
        l2: float = 1.0,
        past: PastChoices | None = None,
        remembers: bool = True,
    ) -> "FusionHead":
        """Fits the weights.

        Args:
            columns: column name -> what it says, in words.
            features: (rows, len(columns)), z-scored within lists.
            list_index: (rows,) 0-based number of the list a row belongs to.
            chosen: (rows,) True where the item was chosen.
            l2: ridge penalty.
            past: earlier choices, which count on.
            remembers: whether the head can be updated later; one that only scores lists held out need not.

        Raises:
            DataError: the columns do not match the features, or no item of any list was chosen.
        """
        if features.shape[1] != len(columns):
            raise DataError(f"fusion: {features.shape[1]} feature columns were given {len(columns)} names")
        logit = ConditionalLogit.fit(features, list_index, chosen, l2, past=past)
        known = None
        if remembers:
            known = remembered(logit, features, list_index, chosen, l2, np.zeros(len(columns)), past)
        return cls(columns=columns, logit=logit, past=known)

    def score(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """(rows,) utilities; only differences within a list mean anything."""
        return self.logit.score(features) if self.trees is None else self.trees.score(features)

    def contributions(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """(rows, n_columns) what each column gives each row; a row sums to its utility, but for a constant."""
        if self.trees is not None:
            return self.trees.contributions(features)
        contributed: NDArray[np.float64] = features * self.logit.weights
        return contributed

    def beside(self, new_items: "FusionHead") -> "FusionHead":
        """Over the columns of `with_new_items`: these weights, and those of items that nobody chose behind them."""
        weights = np.concatenate([self.logit.weights, new_items.logit.weights])
        columns = {**self.columns, **new_item_words(new_items.columns)}
        return FusionHead(columns=columns, logit=replace(self.logit, weights=weights))

    def summary(self, most: int | None = None) -> list[str]:
        """One line a column, strongest first: what one standard deviation does to the odds of being chosen; of trees,
        its share in what their splits gained."""
        lines = []
        if self.trees is not None:
            shares, said = self.trees.shares(), list(self.columns.items())
            strongest = np.argsort(-shares, kind="stable")[:most].tolist()
            return [f"{said[at][0]} {shares[at]:.0%} of what the trees gained, by {said[at][1]}" for at in strongest]
        weights = self.logit.weights
        names = list(self.columns)
        for column in np.argsort(-np.abs(weights), kind="stable")[:most]:
            weight = float(weights[column])
            lines.append(f"{names[column]} {weight:+.2f}: odds x{np.exp(weight):.2f} for {self.columns[names[column]]}")
        return lines

    def to_json(self) -> dict[str, Any]:
        return {
            "columns": self.columns,
            "weights": self.logit.weights.tolist(),
            "log_likelihood": self.logit.log_likelihood,
            "n_choices": self.logit.n_choices,
            **({} if self.past is None else {"past": self.past.to_json()}),
            **({} if self.trees is None else {"trees": self.trees.to_json()}),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "FusionHead":
        """Reads what `to_json` wrote.

        Raises:
            BundleError: a field is missing or the numbers do not fit the columns.
        """
        try:
            weights = np.asarray(data["weights"], dtype=np.float64)
            logit = ConditionalLogit(
                weights=weights, log_likelihood=float(data["log_likelihood"]), n_choices=int(data["n_choices"])
            )
            columns = {str(name): str(words) for name, words in data["columns"].items()}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BundleError(f"fusion head: not what this version writes ({error!r}); fit the bundle again") from error
        if weights.shape != (len(columns),) or not np.isfinite(weights).all():
            raise BundleError(f"fusion head: {len(columns)} columns but weights {weights}; fit the bundle again")
        past = PastChoices.from_json(data["past"], len(columns)) if "past" in data else None
        trees = BoostedTrees.from_json(data["trees"], len(columns)) if "trees" in data else None
        return cls(columns=columns, logit=logit, past=past, trees=trees)


def remembered(
    logit: ConditionalLogit,
    features: NDArray[np.float64],
    list_index: IntArray,
    chosen: NDArray[np.bool_],
    l2: float,
    centre: NDArray[np.float64],
    past: PastChoices | None = None,
) -> PastChoices:
    """These choices and those before them, as the next update needs them.

    At the optimum the gradient of the log-likelihood is the pull of the ridge towards `centre`.
    """
    information = logit.information(features, list_index, chosen)
    return PastChoices(
        weights=logit.weights,
        gradient=l2 * (logit.weights - centre),
        information=information if past is None else information + past.information,
        l2=l2,
        n_choices=logit.n_choices + (0.0 if past is None else past.n_choices),
    )


def fit_fused(
    baseline: FusionHead,
    words: dict[str, str],
    features: NDArray[np.float64],
    list_index: IntArray,
    chosen: NDArray[np.bool_],
    l2: float = 1.0,
    seed: int = 0,
    users: IntArray | None = None,
    past: PastChoices | None = None,
    remembers: bool = True,
) -> FusionHead:
    """A head over interaction features and LLM columns, pulled towards the baseline's weights.

    The LLM reads a sample of the lists, the features are known for all: the weights of `baseline`, fitted on all, are
    the centre of the ridge, so that the smaller sample has to say little more than what the LLM adds. How hard the
    ridge pulls is chosen by the likelihood of held-out lists: few lists, or an LLM that adds nothing, leave a head that
    orders like the baseline.

    Args:
        baseline: head fitted on the baseline.
        words: LLM column -> what it says.
        features: (rows, features + LLM columns), z-scored within lists.
        l2: the weakest ridge considered.
        seed: of the cross-validation folds.
        users: (n_lists,) number of each list's user, whose lists are held out together; by default each has one list.
        past: earlier choices, which count on; the ridge that they were fitted under stays where they are more than the
            new ones, or where there are too few new ones to choose another by.
        remembers: as `FusionHead.fit` has it.
    """
    columns = {**baseline.columns, **words}
    if features.shape[1] != len(columns):
        raise DataError(f"fusion: {features.shape[1]} feature columns were given {len(columns)} names")
    centre = np.concatenate([baseline.logit.weights, np.zeros(len(words))])
    if past is not None and past.n_choices > chosen.sum():
        chosen_l2 = past.l2
    else:
        chosen_l2 = _cross_validated_l2(
            features, list_index, chosen, centre, [l2 * factor for factor in RIDGES], seed, users, past
        )
    logit = ConditionalLogit.fit(features, list_index, chosen, chosen_l2, centre, past=past)
    known = remembered(logit, features, list_index, chosen, chosen_l2, centre, past) if remembers else None
    return FusionHead(columns=columns, logit=logit, past=known)


def _cross_validated_l2(
    features: NDArray[np.float64],
    list_index: IntArray,
    chosen: NDArray[np.bool_],
    centre: NDArray[np.float64],
    penalties: list[float],
    seed: int,
    users: IntArray | None,
    past: PastChoices | None = None,
) -> float:
    """The penalty under which lists held out are likeliest; where there are too few to hold any out, that of the past,
    or the strongest."""
    with_choice = np.unique(list_index[chosen])
    if len(with_choice if users is None else np.unique(users[with_choice])) < CROSS_VALIDATION_FOLDS:
        return penalties[-1] if past is None else past.l2
    fold_of_row = assign_folds(list_index, chosen, CROSS_VALIDATION_FOLDS, seed, users)
    likelihoods = np.zeros(len(penalties))
    for number in range(CROSS_VALIDATION_FOLDS):
        mine = fold_of_row == number
        apart, others = ((features[part], list_index[part], chosen[part]) for part in (mine, ~mine))
        weights = centre
        for place in np.argsort(penalties)[::-1]:  # the strongest first, from which the next is not far
            logit = ConditionalLogit.fit(*others, penalties[place], centre, weights, past)
            likelihoods[place] += logit.log_likelihood_of(*apart)
            weights = logit.weights
    return penalties[int(np.argmax(likelihoods))]


def assign_folds(
    list_index: IntArray, chosen: NDArray[np.bool_], folds: int = 5, seed: int = 0, users: IntArray | None = None
) -> IntArray:
    """(rows,) fold of each row's user, 0-based; users with a chosen item are spread evenly, so each fold has choices.

    Args:
        users: (n_lists,) number of each list's user; by default each has one list.

    Raises:
        DataError: fewer than two users with a chosen item.
    """
    user_of_row = list_index if users is None else users[list_index]
    with_choice = np.unique(user_of_row[chosen])
    if len(with_choice) < 2:
        raise DataError("cross-fitting needs at least two users with a chosen item in their lists")
    fold_of_user = np.zeros(int(user_of_row.max()) + 1, dtype=np.int64)
    fold_of_user[np.random.default_rng(seed).permutation(with_choice)] = np.arange(len(with_choice)) % folds
    return fold_of_user[user_of_row]
