"""What eval.speed.run has the engines read, and the least work that reading it can take."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from reranker import load_dataset
from reranker.engines.torch.packing import pack
from reranker.prompting import PromptRenderer, PromptSettings, TemplateSet
from reranker.protocols import Engine
from reranker.types import CandidateSpan, ScoringRequest, TokenSequence

LIKELIHOOD, LABELS, LISTWISE, PREFILL = "likelihood", "labels", "listwise", "prefill"
ENDLESS = 10**6
LABEL_WORDS = (" yes", " no")


@dataclass(frozen=True, kw_only=True)
class Load:
    """Lists of one shape.

    Attributes:
        users: lists.
        candidates: items in each list.
        history: items before it.
        soft: soft tokens of each user, different for each.
        seed: other users, histories and candidates for each.
    """

    users: int = 64
    candidates: int = 50
    history: int = 20
    soft: int = 8
    seed: int = 0

    def to_json(self) -> dict[str, int]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Work:
    """The least that must be computed, in tokens: each user's prefix once, common beginnings of candidates once.

    Attributes:
        tokens: through the layers.
        reads: through the output head.
    """

    tokens: int
    reads: int

    def flops(self, layer_parameters: int, dim: int, vocabulary: int) -> float:
        """Of the matrix products alone: two for each parameter and token. Attention is left out."""
        return 2.0 * layer_parameters * self.tokens + 2.0 * dim * vocabulary * self.reads


class Lists:
    """ml-100k's titles as histories and candidates, drawn at random: speed does not depend on taste.

    Args:
        engine: whose tokenizer and width the prompts are made for.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.items = load_dataset("ml-100k").items.drop(columns="item_id").to_dict("records")

    def renderer(self, history: int) -> PromptRenderer:
        settings = PromptSettings(family="movies", history_items=history, history_tokens=ENDLESS)
        return PromptRenderer(
            TemplateSet(settings.family, settings.language),
            self._engine.tokenizer,
            settings,
            self._engine.model.max_length,
        )

    def requests(self, load: Load, readout: str) -> list[ScoringRequest]:
        """One a user. Labels are read behind the spans whose likelihood is read; `PREFILL` strings these together."""
        renderer = self.renderer(load.history)
        rng = np.random.default_rng(list(load.to_json().values()))
        result = []
        for _ in range(load.users):
            history, candidates = (
                [self.items[number] for number in rng.choice(len(self.items), count)]
                for count in (load.history, load.candidates)
            )
            vectors = 0.1 * rng.standard_normal((load.soft, self._engine.model.dim)).astype(np.float32)
            soft = TokenSequence.from_vectors(vectors) if load.soft else None
            render = renderer.listwise if readout == LISTWISE else renderer.likelihood
            result.append(render(history, candidates, user_tokens=soft).request)
        return [_strung(one) for one in result] if readout == PREFILL else result

    def labels(self, load: Load, readout: str) -> list[int]:
        if readout == LISTWISE:
            return list(self.renderer(load.history).listwise_label_ids(load.candidates))
        return [self._engine.tokenizer.encode(word)[0] for word in LABEL_WORDS]


def least_work(requests: Sequence[ScoringRequest], readout: str) -> Work:
    """What `Work` says, of these requests."""
    rows = [row for one in requests for row in pack(one, 0, ENDLESS, labels=readout != LIKELIHOOD, group_nodes=ENDLESS)]
    return Work(tokens=sum(map(len, rows)), reads=sum(len(row.reads) for row in rows))


def _strung(request: ScoringRequest) -> ScoringRequest:
    """The same tokens as one plain prompt: what an engine does when nothing is shared or scored."""
    everything = TokenSequence.concatenate([candidate.sequence for candidate in request.candidates])
    return ScoringRequest(prefix=request.prefix, candidates=(CandidateSpan(sequence=everything),))
