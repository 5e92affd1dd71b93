"""What the vLLM engine asks of vLLM for a list: a prompt for each candidate, and one for what they all begin with."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from reranker.engines.vllm.backends.base import Backend
from reranker.engines.vllm.calls import LOG_PROBS, Call, Prompt, extra, stopping
from reranker.engines.vllm.virtual_tokens import Aliases, SlotTable
from reranker.engines.vllm.wire import (
    FOLLOWERS,
    KEPT,
    KEPT_TAIL,
    LENGTH,
    SCORED_FROM,
    TAIL,
    TAIL_ROWS,
    UNREAD,
)
from reranker.types import ScoringRequest

LISTS = TAIL_ROWS // 2
"""Lists that are read together: each takes a row of the connector, and their branches take the others."""

_BRANCH_SAVES = 2  # tokens: one request more costs about one
_BRANCHES_SAVE = 32  # tokens of all branches: one step more costs about as many


@dataclass(kw_only=True, eq=False)
class Branch(Prompt):
    """What some candidates of a list begin with, as a prompt of its own; the first token was read with the prefix.

    Attributes:
        members: their prompts.
        longer: those that go on behind it.
        kept: number under which the worker keeps log p of the tokens that these go on with.
        keep: kv_transfer_params by which its end is kept.
        behind: kv_transfer_params by which it is found computed.
    """

    members: list[Prompt]
    longer: list[Prompt]
    kept: int
    keep: dict[str, Any]
    behind: dict[str, Any]

    @property
    def saves(self) -> int:
        """Tokens that its members need not compute, less those that it computes itself."""
        return sum(min(len(member.own) - 1, len(self.own)) for member in self.members) - len(self.own)

    def hand_on(self, token_ids: list[int], value: float, followers: Iterable[float]) -> None:
        """Has the members go on behind it.

        Args:
            token_ids: the whole prompt, as vLLM was given it.
            value: Σ log p of its own scored tokens, in nats.
            followers: log p of the next token of each of `longer`.
        """
        for member in self.members:
            member.prefix, member.own, member.transfer = token_ids, member.own[len(self.own) :], self.behind
            member.first += value
        for member, follower in zip(self.longer, followers, strict=True):
            member.first += follower


@dataclass(kw_only=True, eq=False)
class PromptList:
    """The prompts of one list.

    Attributes:
        prompts: one a candidate.
        before: computes the prefix; runs before the prompts. None where vLLM's cache is enough.
        kept: number under which the worker keeps log p of the first scored tokens, read with the prefix; None if not.
        read: the prompts that these belong to.
    """

    prompts: list[Prompt]
    before: Call | None = None
    kept: int | None = None
    read: list[Prompt] = field(default_factory=list)


class PromptWriter:
    """Writes prompts.

    Args:
        slots: ids of vectors.
        aliases: other ids of tokens.
        block: tokens of a cache block whose beginning can be shared (`partial_blocks`); 0 where only whole ones can.
        backend: how the worker is asked.

    Attributes:
        numbers: for what the worker or the connector keeps.
    """

    def __init__(self, slots: SlotTable, aliases: Aliases, block: int, backend: Backend) -> None:
        self.numbers = count()
        self._slots, self._aliases = slots, aliases
        self._block = block
        self._backend = backend

    def write(self, request: ScoringRequest, *, likelihood: bool, layer: int | None = None) -> PromptList:
        """A prompt a candidate. What all candidates begin with joins the prefix, but for the last unscored token.

        A prefix that does not fill its last cache block is computed before the candidates. For a likelihood, where all
        candidates are scored from behind the same tokens, these join the prefix whole, and the first scored token of
        every candidate is read there: no candidate computes the state that it follows again.

        Args:
            request: the list.
            likelihood: whether the scored tokens' log-probabilities are asked for.
            layer: how many layers are computed where states are asked for; None for all.
        """
        owns = [self._slots.token_ids(candidate.sequence) for candidate in request.candidates]
        starts = [candidate.scored_from for candidate in request.candidates]
        shared = min(_common_length(owns), min(starts))
        scored = [place for place, own in enumerate(owns) if len(own) > shared]
        reads = (
            self._backend.reads_followers and self._block > 0
        )  # else each candidate computes the prefix's last block anyway
        together = likelihood and reads and len(scored) > 1 and shared == max(starts)
        if not together:
            shared = min(shared, min(starts) - 1)
        prefix = self._slots.token_ids(request.prefix) + owns[0][:shared]
        keep, behind = self._tail(len(prefix)) if len(owns) > 1 else ({}, {})
        result = PromptList(
            prompts=[
                Prompt(
                    prefix=prefix, own=own[shared:], scored_from=start - shared + together, transfer=behind, layer=layer
                )
                for own, start in zip(owns, starts, strict=True)
            ]
        )
        if together:
            result.kept = next(self.numbers)
            result.read = [result.prompts[place] for place in scored]
            followers = {FOLLOWERS: [one.own[0] for one in result.read], KEPT: result.kept}
            result.before = prefix, LOG_PROBS | extra(keep, followers | {UNREAD: True})
        elif keep:
            result.before = prefix, extra(keep, {UNREAD: True} | stopping(layer))
        return result

    def branches(self, lists: Sequence[PromptList]) -> list[Branch]:
        """Beginnings that candidates share within their scored tokens, where computing them once saves most.

        Args:
            lists: at most `LISTS`, whose prefixes were read.
        """
        found: list[Branch] = []
        for one in lists:
            beginnings: dict[int, list[Prompt]] = defaultdict(list)
            for prompt in one.read:
                beginnings[prompt.own[0]].append(prompt)
            found += [self._branch(members) for members in beginnings.values() if len(members) > 1]
        found = sorted((one for one in found if one.saves >= _BRANCH_SAVES), key=lambda one: one.saves, reverse=True)
        found = found[: TAIL_ROWS - len(lists)]
        return found if sum(one.saves for one in found) >= _BRANCHES_SAVE else []

    def branch(self, branch: Branch) -> Call:
        """For the tokens of a branch, and those that may follow it."""
        first, *others = branch.own
        followers = {FOLLOWERS: [member.own[len(branch.own)] for member in branch.longer], KEPT: branch.kept}
        arguments = extra(branch.transfer | branch.keep, followers | {SCORED_FROM: branch.start, UNREAD: True})
        return [*branch.prefix, self._aliases.fresh(first), *others], LOG_PROBS | arguments

    def span(self, prompt: Prompt) -> Call:
        """For the scored tokens' log-probabilities."""
        return self._backend.span(prompt, self._aliases.fresh)

    def states(self, prompt: Prompt, number: int) -> Call:
        """For the sum of the states that the scored tokens follow, kept under a number."""
        return self._backend.states(prompt, number, self._aliases.fresh)

    def labels(self, prompt: Prompt, labels: list[int]) -> Call:
        """For the log-probabilities of labels behind the candidate."""
        return prompt.prefix + prompt.own, {"logprob_token_ids": labels} | extra(prompt.transfer)

    def _branch(self, members: list[Prompt]) -> Branch:
        shared = _common_length([member.own for member in members])
        one = members[0]
        keep, behind = self._tail(len(one.prefix) + shared)
        return Branch(
            prefix=one.prefix,
            own=one.own[:shared],
            scored_from=1,
            transfer=one.transfer,
            members=members,
            longer=[member for member in members if len(member.own) > shared],
            kept=next(self.numbers),
            keep=keep,
            behind=behind,
        )

    def _tail(self, length: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """kv_transfer_params of the request that computes a prefix, and of those that begin with it."""
        if not self._block or length % self._block == 0:
            return {}, {}
        number = next(self.numbers)
        return {KEPT_TAIL: number}, {TAIL: number, LENGTH: length}


def _common_length(sequences: Sequence[Sequence[int]]) -> int:
    """How many items all sequences begin with."""
    columns = zip(*sequences, strict=False)
    return next((place for place, column in enumerate(columns) if len(set(column)) > 1), min(map(len, sequences)))
