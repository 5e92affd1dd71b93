"""What vLLM is asked for a list: which beginnings are computed once, and what is left for each candidate."""

from collections.abc import Sequence

import numpy as np

from reranker.engines.vllm.backends.v1_patched import V1Patched
from reranker.engines.vllm.prompts import Branch, PromptList, PromptWriter
from reranker.engines.vllm.virtual_tokens import Aliases, SlotTable
from reranker.engines.vllm.wire import FOLLOWERS, KEPT, KEPT_TAIL, LENGTH, SCORED_FROM, TAIL, TAIL_ROWS
from reranker.types import CandidateSpan, ScoringRequest
from tests.contracts.engine import plain

VOCABULARY = 1000
BLOCK = 8


def writer(block: int = BLOCK) -> PromptWriter:
    slots = SlotTable(VOCABULARY, 4, lambda begin, rows: None, lambda: None)
    return PromptWriter(slots, Aliases(VOCABULARY, VOCABULARY + 4), block, V1Patched())


def request(owns: Sequence[Sequence[int]], prefix: int = 10) -> ScoringRequest:
    """Candidates behind `prefix` tokens and the unscored token 7."""
    return ScoringRequest(
        prefix=plain(list(range(100, 100 + prefix))),
        candidates=tuple(CandidateSpan(sequence=plain([7, *own]), scored_from=1) for own in owns),
    )


def tokens(ids: Sequence[int]) -> list[int]:
    """Without other names."""
    return [int(one) if one < VOCABULARY else (one - VOCABULARY - 4) % VOCABULARY for one in ids]


def branched(*lists: Sequence[Sequence[int]], prefix: int = 10) -> tuple[PromptWriter, list[PromptList], list[Branch]]:
    one = writer()
    written = [one.write(request(owns, prefix), likelihood=True) for owns in lists]
    return one, written, one.branches(written)


MANY = [[1, 2, number] for number in range(10, 40)]  # 30 candidates that begin with two tokens


def test_a_branch_is_computed_behind_the_prefix_and_kept() -> None:
    one, (written,), (branch,) = branched([*MANY, [3, 4]])
    token_ids, options = one.branch(branch)
    assert tokens(token_ids) == [*range(100, 110), 7, 1, 2] and token_ids[11] >= VOCABULARY
    assert branch.saves == 29 * 2
    extra = options["extra_args"]
    assert extra[SCORED_FROM] == 12 and extra[FOLLOWERS] == list(range(10, 40)) and extra[KEPT] == branch.kept
    assert written.before is not None
    kept = written.before[1]["extra_args"]["kv_transfer_params"][KEPT_TAIL]
    transfer = extra["kv_transfer_params"]
    assert (transfer[TAIL], transfer[LENGTH]) == (kept, 11) and transfer[KEPT_TAIL] != kept


def test_members_go_on_behind_their_branch() -> None:
    one, (written,), (branch,) = branched([*MANY, [1, 2], [3, 4]])
    for prompt in written.read:
        prompt.first = -1.0
    token_ids, options = one.branch(branch)
    assert options["extra_args"][FOLLOWERS] == list(range(10, 40))
    branch.hand_on(token_ids, -2.0, np.arange(30) / 10)
    *longer, whole, other = written.prompts
    assert [prompt.first for prompt in longer] == (np.arange(30) / 10 - 3).tolist()
    assert [prompt.own for prompt in longer] == [[number] for number in range(10, 40)]
    assert not any(prompt.scored for prompt in longer)  # their only token was read with the branch
    assert (whole.first, whole.own, whole.scored) == (-3.0, [], [])
    assert (other.first, other.own, other.prefix) == (-1.0, [3, 4], [*range(100, 110), 7])
    transfer = longer[0].transfer
    assert transfer[LENGTH] == len(token_ids) == 13
    assert transfer[TAIL] == options["extra_args"]["kv_transfer_params"][KEPT_TAIL]


def test_a_branch_that_fills_its_block_needs_no_tail() -> None:
    one, _, (branch,) = branched([*MANY[:25], [3]], prefix=13)
    assert KEPT_TAIL not in one.branch(branch)[1]["extra_args"]["kv_transfer_params"] and branch.behind == {}


def test_candidates_that_are_all_alike_are_read_with_their_branch() -> None:
    one, (written,), (branch,) = branched([[1, 2, 3]] * 30 + [[4]])
    token_ids, options = one.branch(branch)
    assert tokens(token_ids[11:]) == [1, 2, 3] and options["extra_args"][FOLLOWERS] == []
    branch.hand_on(token_ids, -2.0, [])
    assert all(prompt.first == -2.0 and not prompt.own for prompt in written.prompts[:30])


def test_the_branches_that_save_most_take_the_rows_that_lists_leave() -> None:
    """97 branches in each of two lists, one of them large, for 254 rows; in three lists for 253."""
    owns = [[number, 0, last] for number in range(100, 196) for last in range(3)] + MANY
    assert len(branched(owns, owns)[2]) == 2 * 97
    found = branched(owns, owns, owns)[2]
    assert len(found) == TAIL_ROWS - 3 and [one.saves for one in found[:4]] == [58, 58, 58, 4]


def test_few_tokens_are_not_worth_a_step() -> None:
    assert branched([*MANY[:16], [3]])[2] == []  # 30 tokens
    assert len(branched([*MANY[:17], [3]])[2]) == 1  # 32
    assert len(branched([*MANY[:9], [3]], [*MANY[:9], [3]])[2]) == 2  # of all lists together


def test_only_branches_that_save_more_than_a_request_costs() -> None:
    """Two candidates that share a token save one; two that end at it save nothing, for it was read with the prefix."""
    _, _, found = branched([*MANY, [3, 4], [3, 5], [6], [6], [8, 9, 1], [8, 9, 2]])
    assert [branch.own for branch in found] == [[1, 2], [8, 9]]


def test_a_label_read_has_no_branches() -> None:
    one = writer()
    assert one.branches([one.write(request(MANY), likelihood=False)]) == []
