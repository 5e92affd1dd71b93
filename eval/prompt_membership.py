"""Does a trained prompt tell whose lists it was trained on? `python -m eval.prompt_membership --data FOLDER`.

A prompt is trained on one list of each member, as `reranker train prompt` trains it, and is then read on the lists of
members and of as many users who were left out. The attacker knows prompt, model and lists, and guesses "was trained on"
the likelier the user's choice is (Yeom et al. 2018), or the more likelier training made it (Watson et al. 2022: how
hard a list is by itself is taken out). AUC 0.5 tells nothing. The positive control is the same prompt after many times
as many passes over the members' lists.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from candidate_gen import ALSGenerator
from reranker.data.builtin import load_dataset
from reranker.data.dataset import Dataset
from reranker.data.schema import USER
from reranker.engines.torch.engine import TorchEngine
from reranker.errors import DataError
from reranker.evaluation.metrics import auc
from reranker.hub import DEFAULT_MODEL
from reranker.prompting import PromptRenderer, PromptSettings, family_for_domain
from reranker.soft_tokens.prompt import SoftPrompt
from reranker.training.tasks import Episode, TaskDomain, TaskSampler
from reranker.training.torch_loss import PROMPT, TorchLoss
from reranker.utils.statistics import RESAMPLES, Interval

COEFFICIENTS = (0.0, 0.5, 1.0)
"""Of sum, mean and gain: where `train prompt` begins."""

_CLIP = 1.0  # bound on the gradient's norm, a step


@dataclass(frozen=True, kw_only=True)
class Attacked:
    """What the attacker finds after so many passes over the members' lists.

    Attributes:
        passes: over the lists.
        members, others: mean loss of a list, nats.
        by_loss, by_gain: AUC of the choice's likelihood, and of how much likelier training made it.
    """

    passes: int
    members: float
    others: float
    by_loss: Interval
    by_gain: Interval

    def __str__(self) -> str:
        cells = ", ".join(
            f"AUC {name} {one.mean:.3f} [{one.low:.3f}, {one.high:.3f}]"
            for name, one in (("by loss", self.by_loss), ("by gain", self.by_gain))
        )
        return f"{self.passes} passes: loss {self.members:.3f} of members, {self.others:.3f} of others; {cells}"


def attacked_prompts(
    reader: TorchLoss,
    start: torch.Tensor,
    members: Sequence[Episode],
    others: Sequence[Episode],
    passes: Sequence[int],
    *,
    rate: float = 0.002,
    lists_per_step: int = 8,
    seed: int = 0,
) -> Iterator[Attacked]:
    """Trains a prompt on the members' lists and attacks it on the way.

    Args:
        reader: of the lists.
        start: (k, dim) prompt.
        members: lists that are trained on, one a user.
        others: lists of users who are left out.
        passes: after which the prompt is attacked, ascending.
        rate: of Adam.
        lists_per_step: lists of one step.
        seed: of the order of the lists and of the intervals.

    Raises:
        DataError: fewer than two members or others.
    """
    if min(len(members), len(others)) < 2:
        raise DataError(
            f"membership inference: {len(members)} members and {len(others)} others, two of each are needed"
        )
    prompt = start.detach().clone().requires_grad_(True)
    optimizer, rng = torch.optim.Adam([prompt], lr=rate), np.random.default_rng(seed)
    inside = np.arange(len(members) + len(others)) < len(members)
    before = _losses(reader, prompt, [*members, *others])
    for number in range(1, max(passes) + 1):
        order = rng.permutation(len(members))
        for begin in range(0, len(order), lists_per_step):
            part = [members[at] for at in order[begin : begin + lists_per_step]]
            optimizer.zero_grad()
            for one in reader.parts({PROMPT: prompt}, part):
                (one.loss / len(part)).backward()
            torch.nn.utils.clip_grad_norm_([prompt], _CLIP)
            optimizer.step()
        if number in passes:
            after = _losses(reader, prompt, [*members, *others])
            yield Attacked(
                passes=number,
                members=float(after[inside].mean()),
                others=float(after[~inside].mean()),
                by_loss=auc_interval(-after, inside, seed),
                by_gain=auc_interval(before - after, inside, seed),
            )


def auc_interval(scores: NDArray[np.float64], inside: NDArray[np.bool_], seed: int = 0) -> Interval:
    """AUC with its percentile interval: members and others are drawn anew, each among themselves."""
    rng, mine, theirs = np.random.default_rng(seed), scores[inside], scores[~inside]
    drawn = [
        auc(np.concatenate([rng.choice(mine, len(mine)), rng.choice(theirs, len(theirs))]), np.sort(inside)[::-1])
        for _ in range(RESAMPLES)
    ]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(mean=auc(scores, inside), low=float(low), high=float(high), n=len(scores))


def _losses(reader: TorchLoss, prompt: torch.Tensor, lists: Sequence[Episode]) -> NDArray[np.float64]:
    with torch.no_grad():
        return np.array([sum(float(part.loss) for part in reader.parts({PROMPT: prompt}, [one])) for one in lists])


def drawn_lists(
    data: Dataset, renderer: PromptRenderer, members: int, negatives: int, seed: int = 0
) -> tuple[list[Episode], list[Episode]]:
    """One list each of so many members, and of as many others: what the users chose last but one.

    Raises:
        DataError: too few users have a list that holds their choice.
    """
    domain = TaskDomain.build(data, ALSGenerator(), renderer, hold_out=1)
    by_user = {one.user_id: one for one in TaskSampler([domain], negatives=negatives).fixed(len(domain.episodes))}
    if len(by_user) < 2 * members:
        raise DataError(f"{len(by_user)} users have a list that holds their choice, {2 * members} are needed")
    drawn = np.random.default_rng(seed).permutation(len(by_user))[: 2 * members].tolist()
    lists = list(by_user.values())
    return [lists[at] for at in drawn[:members]], [lists[at] for at in drawn[members:]]


def main() -> None:
    """Prints what the attacker finds after a short training and after ten times as many passes."""
    asked = argparse.ArgumentParser(description=main.__doc__)
    asked.add_argument("--data", required=True, help="a data set's name or folder")
    asked.add_argument("--domain", default="", help="its domain's name; picks the templates")
    asked.add_argument("--model", default=DEFAULT_MODEL)
    asked.add_argument("--users", type=int, default=1500, help="whose interactions are looked at, at most")
    asked.add_argument("--members", type=int, default=32)
    asked.add_argument("--passes", type=int, nargs="+", default=[2, 10, 20])
    asked.add_argument("--negatives", type=int, default=7)
    asked.add_argument("--history", type=int, default=8, help="items of the history that are read")
    given = asked.parse_args()
    began = time.time()
    data = load_dataset(given.data, domain=given.domain or None)
    known = data.interactions[USER].unique()
    users = np.random.default_rng(0).permutation(len(known))[: given.users]
    few = data.interactions[data.interactions[USER].isin(known[users])].reset_index(drop=True)
    engine = TorchEngine(given.model)
    settings = PromptSettings(family=family_for_domain(data.domain, None), history_items=given.history)
    renderer = PromptRenderer.from_settings(settings, engine.tokenizer, engine.model.max_length)
    of_few = Dataset(interactions=few, items=data.items, domain=data.domain)
    members, others = drawn_lists(of_few, renderer, given.members, given.negatives)
    start = torch.from_numpy(SoftPrompt.from_instruction(engine, renderer.instruction_token_ids(), 16).vectors.copy())
    reader = TorchLoss(engine.packed_lm, {data.domain: renderer}, COEFFICIENTS)
    for one in attacked_prompts(reader, start.to(engine.device), members, others, sorted(given.passes)):
        print(f"{one}; {time.time() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
