"""CAVIA (Zintgraf et al. 2019) over users: what is shared learns, only the context is adapted.

Each list is read under soft tokens of its user, whose context was moved by inner steps on the user's own history. The
outer gradient is of first order: it goes through where contexts start, how far they move and what they become, not
through the directions of the inner gradients.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch

from reranker.engines.torch.packed_lm import PackedLM
from reranker.prompting import PromptRenderer
from reranker.soft_tokens import SUPPORT_ITEMS, ContextMap, history_features
from reranker.soft_tokens.user_adaptation import SupportReader, context_tensors, span_tokens, unit, user_tokens
from reranker.training.tasks import Episode
from reranker.training.torch_loss import PROMPT, Part, TorchLoss, Values, prompt_in, stand_in

_PREFIX = "context."


def context_leaves(contexts: ContextMap, device: torch.device) -> dict[str, torch.Tensor]:
    """Parameters that an optimizer moves."""
    return {_PREFIX + name: value for name, value in context_tensors(contexts, device).items()}


def context_map(values: Values, base_model_id: str = "", base_model_sha256: str = "") -> ContextMap:
    """The map of trained parameters."""
    arrays = {name: value.detach().float().cpu().numpy().copy() for name, value in _own(values).items()}
    return ContextMap(**arrays, base_model_id=base_model_id, base_model_sha256=base_model_sha256)


class ContextReader:
    """An `TorchLoss` under which every user has soft tokens of their own.

    Args:
        reader: reads the lists.
        lm: the frozen model.
        renderers: domain -> how its prompts are written.
        steps: inner steps on a user's history.
        max_tokens: of the rows read together in an inner step.
    """

    def __init__(
        self,
        reader: TorchLoss,
        lm: PackedLM,
        renderers: Mapping[str, PromptRenderer],
        steps: int,
        max_tokens: int = 2048,
    ) -> None:
        self._reader, self._lm, self._renderers, self._steps = reader, lm, renderers, steps
        self._support = SupportReader(lm, max_tokens)

    def parts(self, values: Values, episodes: Sequence[Episode]) -> Iterator[Part]:
        """As `TorchLoss.parts`, each user's context adapted first."""
        own = _own(values)
        k, dim = own["base"].shape
        counts = torch.tensor([len(one.history) for one in episodes], device=own["base"].device)
        with_history = [number for number, one in enumerate(episodes) if one.history]
        placeholder = stand_in(*values[PROMPT].shape)
        requests = {
            number: self._renderers[episodes[number].domain]
            .continuation(episodes[number].history, placeholder, stand_in(k, dim), SUPPORT_ITEMS)
            .request
            for number in with_history
        }
        embeddings = [
            self._lm.embed(span_tokens(requests[number]) if number in requests else []).detach().float().cpu().numpy()
            for number in range(len(episodes))
        ]
        features = torch.from_numpy(history_features(embeddings, counts.tolist())).to(own["base"])
        fixed = {name: value.detach() for name, value in own.items()}
        moves = features.new_zeros((len(episodes), len(own["rates"])))

        def contexts(of: Mapping[str, torch.Tensor], numbers: Sequence[int]) -> torch.Tensor:
            return features[list(numbers)] @ of["amortise"] - of["rates"] * moves[list(numbers)]

        by_domain: dict[str, list[int]] = {}
        for number in with_history:
            by_domain.setdefault(episodes[number].domain, []).append(number)
        for _ in range(self._steps):
            for domain, mine in by_domain.items():

                def tokens(leaf: torch.Tensor, places: Sequence[int], mine: list[int] = mine) -> torch.Tensor:
                    return user_tokens(fixed, leaf, counts[[mine[place] for place in places]])

                prompt = prompt_in(domain, values, self._reader.shifts)
                now = contexts(fixed, mine)
                gradient, _ = self._support.gradients([requests[number] for number in mine], now, prompt, tokens)
                moves[mine] += unit(gradient)
        yield from self._reader.parts(
            values,
            episodes,
            lambda numbers: user_tokens(own, contexts(own, numbers), counts[list(numbers)]),
            k,
        )


def _own(values: Values) -> dict[str, torch.Tensor]:
    return {name.removeprefix(_PREFIX): value for name, value in values.items() if name.startswith(_PREFIX)}
