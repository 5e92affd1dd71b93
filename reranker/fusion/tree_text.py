"""LightGBM's text model, read as data: checked against a grammar and written anew, so that what its parser sees was
written here. The parser itself checks no index, and a bundle may come from anywhere."""

import math
from collections.abc import Callable, Mapping, Sequence

from reranker.errors import BundleError

MOST_CHARACTERS = 8_000_000
MOST_TREES = 1000
MOST_LEAVES = 255

_WHOLE, _REAL = "whole numbers", "numbers"
_AT_NODES = {"split_feature": _WHOLE, "split_gain": _REAL, "threshold": _REAL, "decision_type": _WHOLE}
_AT_NODES |= {"left_child": _WHOLE, "right_child": _WHOLE, "internal_value": _REAL}
_AT_NODES |= {"internal_weight": _REAL, "internal_count": _WHOLE}
_AT_LEAVES = {"leaf_value": _REAL, "leaf_weight": _REAL, "leaf_count": _WHOLE}
_SINGLE = {"num_leaves": _WHOLE, "num_cat": _WHOLE, "is_linear": _WHOLE, "shrinkage": _REAL}
_LARGEST = 10**12
_MISSING = (0, 2, 4, 6, 8, 10)  # decision types without categories: how missing values go, and to which side


def rewritten(text: str, n_columns: int) -> str:
    """The trees of a text model, and nothing else of it.

    Args:
        text: what LightGBM wrote.
        n_columns: that it splits by.

    Raises:
        BundleError: it is too large, or no forest of plain trees over so many columns.
    """
    if len(text) > MOST_CHARACTERS:
        raise BundleError(f"trees: {len(text)} characters, {MOST_CHARACTERS} at most are read")
    body, end, _ = text.partition("\nend of trees")
    head, *parts = body.split("\nTree=")
    if not end or not head.startswith("tree\n") or len(parts) > MOST_TREES:
        raise BundleError(f"trees: no LightGBM text model of at most {MOST_TREES} trees; fit the bundle again")
    trees = [_tree(part, number, n_columns) for number, part in enumerate(parts)]
    names = " ".join(f"Column_{number}" for number in range(n_columns))
    ranges = " ".join(["[-1e308:1e308]"] * n_columns)
    opening = (
        f"tree\nversion=v4\nnum_class=1\nnum_tree_per_iteration=1\nlabel_index=0\nmax_feature_idx={n_columns - 1}\n"
        f"objective=lambdarank\nfeature_names={names}\nfeature_infos={ranges}\n\n"
    )
    return opening + "".join(f"{tree}\n\n\n" for tree in trees) + "end of trees\n"


def _tree(part: str, number: int, n_columns: int) -> str:
    lines = part.strip("\n").split("\n")
    if lines[0] != str(number):
        raise BundleError(f"trees: tree {lines[0][:20]!r} stands at the place of tree {number}; fit the bundle again")
    fields = dict(line.partition("=")[::2] for line in lines[1:])
    single = {name: _numbers(fields, name, kind, 1)[0] for name, kind in _SINGLE.items()}
    n_leaves = int(single["num_leaves"])
    if not 1 <= n_leaves <= MOST_LEAVES or single["num_cat"] or single["is_linear"]:
        raise BundleError(f"trees: tree {number} is none of 1 to {MOST_LEAVES} leaves with constant values")
    if set(fields) != {*_SINGLE, *_AT_NODES, *_AT_LEAVES} or len(fields) != len(lines) - 1:
        raise BundleError(f"trees: tree {number} has other fields than this version writes; fit the bundle again")
    leaves = {name: _numbers(fields, name, kind, n_leaves) for name, kind in _AT_LEAVES.items() if n_leaves > 1}
    nodes = {name: _numbers(fields, name, kind, n_leaves - 1) for name, kind in _AT_NODES.items() if n_leaves > 1}
    if n_leaves == 1:  # as LightGBM writes it: one value, and no number of anything else
        nodes, leaves = {name: [] for name in _AT_NODES}, {name: [] for name in _AT_LEAVES}
        leaves["leaf_value"] = _numbers(fields, "leaf_value", _REAL, 1)
    else:
        _require_tree(nodes, leaves, n_leaves, n_columns, number)
    written = {**{name: [value] for name, value in single.items()}, **nodes, **leaves}
    return "\n".join([f"Tree={number}", *(f"{name}={' '.join(map(repr, row))}" for name, row in written.items())])


def _require_tree(
    nodes: Mapping[str, Sequence[float]],
    leaves: Mapping[str, Sequence[float]],
    n_leaves: int,
    n_columns: int,
    number: int,
) -> None:
    """Every node and leaf hangs below one earlier node, and splits by a column that there is."""
    children = [*zip(range(n_leaves - 1), nodes["left_child"], strict=True)]
    children += zip(range(n_leaves - 1), nodes["right_child"], strict=True)
    below = sorted(child for _, child in children)
    right = {
        "children": below == [*range(-n_leaves, 0), *range(1, n_leaves - 1)]
        and all(child < 0 or child > parent for parent, child in children),
        "split_feature": all(0 <= column < n_columns for column in nodes["split_feature"]),
        "decision_type": all(kind in _MISSING for kind in nodes["decision_type"]),
        "counts": min(*nodes["internal_count"], *leaves["leaf_count"]) > 0,
    }
    if wrong := [name for name, is_right in right.items() if not is_right]:
        raise BundleError(f"trees: {', '.join(wrong)} of tree {number} do not fit; fit the bundle again")


def _numbers(fields: dict[str, str], name: str, kind: str, n: int) -> list[float]:
    """So many finite numbers of a field."""
    read: Callable[[str], float] = int if kind == _WHOLE else float
    try:
        values = [read(one) for one in fields[name].split()]
    except (KeyError, ValueError, OverflowError) as error:
        raise BundleError(f"trees: {name} must be {kind} ({str(error)[:80]}); fit the bundle again") from error
    too_large = kind == _WHOLE and any(abs(value) > _LARGEST for value in values)
    if len(values) != n or too_large or not all(map(math.isfinite, values)):
        raise BundleError(f"trees: {name} must be {n} finite {kind}; fit the bundle again")
    return values
