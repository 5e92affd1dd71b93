"""vLLM stepped by hand, so that scoring and writing share its batches and each gets its own outputs."""

from collections import deque
from collections.abc import Sequence
from itertools import count
from typing import Any

from reranker.errors import EngineError
from reranker.types import GenerationRequest

_WRITER = "writer-"  # the ids that vLLM gives to scoring requests are numbers


class Steps:
    """Runs the requests of one `vllm.LLM`. The engine's lock guards every call.

    Args:
        llm: the model.

    Attributes:
        prompt_tokens: of all that was scored.
        cached_tokens: of them, those that came from the prefix cache.
    """

    def __init__(self, llm: Any) -> None:
        self.prompt_tokens = self.cached_tokens = 0
        self._llm = llm
        self._numbers = count()
        self._mail: dict[str, deque[Any]] = {}  # outputs of requests that write, until they are fetched
        self._running: dict[str, str] = {}  # name -> vLLM's own id, of requests that still write

    def score(
        self, prompts: Sequence[Sequence[int]], parameters: Sequence[Any], salts: Sequence[str | None]
    ) -> list[Any]:
        """The output of each prompt; texts that are being written grow meanwhile.

        Args:
            prompts: token ids.
            parameters: `vllm.SamplingParams` of each.
            salts: of each; prompts share cached blocks only with prompts of the same salt.
        """
        if not prompts:
            return []
        salted = [
            {"prompt_token_ids": list(one)} | ({} if salt is None else {"cache_salt": salt})
            for one, salt in zip(prompts, salts, strict=True)
        ]
        ids = self._llm.enqueue(salted, parameters, use_tqdm=False)
        outputs: list[Any] = []
        try:
            while len(outputs) < len(ids):
                outputs += [output for output in self._step() if output.finished]
        except BaseException:
            self._llm.llm_engine.abort_request(ids, internal=True)
            raise
        self.prompt_tokens += sum(map(len, prompts))
        self.cached_tokens += sum(output.num_cached_tokens or 0 for output in outputs)
        return sorted(outputs, key=lambda output: int(output.request_id))

    def begin(self, prompt: Sequence[int], parameters: Any, cache_salt: str | None = None) -> str:
        """Starts a text, or `parameters.n` texts; returns a name for them."""
        from vllm.inputs import tokens_input

        name = f"{_WRITER}{next(self._numbers)}"
        own = self._llm.llm_engine.add_request(name, tokens_input(list(prompt), cache_salt=cache_salt), parameters)
        self._running[name] = own
        self._mail[name] = deque()
        return name

    def fetch(self, name: str) -> list[Any]:
        """vLLM's outputs since the last call; takes one step if there are none, and may return none.

        Raises:
            EngineError: vLLM gave the text up.
        """
        mail = self._mail[name]
        if not mail and name not in self._running:
            raise EngineError("vLLM stopped writing before the text was complete")
        if not mail:
            self._step()
        outputs = list(mail)
        mail.clear()
        return outputs

    def end(self, name: str) -> None:
        """Forgets a text, and stops it if it is being written."""
        own = self._running.pop(name, None)
        if own is not None:
            self._llm.llm_engine.abort_request([own], internal=True)
        self._mail.pop(name, None)

    def finish_texts(self) -> None:
        """Steps until no text is being written: what the slots hold may change then."""
        while self._running:
            self._step()

    def _step(self) -> list[Any]:
        """Outputs of scoring requests; those of texts go to their mail."""
        others = []
        for output in self._llm.llm_engine.step():
            if not output.request_id.startswith(_WRITER):
                others.append(output)
                continue
            if output.request_id in self._mail:
                self._mail[output.request_id].append(output)
            if output.finished:
                self._running.pop(output.request_id, None)
        return others


def writing_parameters(request: GenerationRequest, end_ids: frozenset[int]) -> Any:
    """vLLM's parameters of a text; stop texts are looked for by us, for vLLM has no tokenizer here."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        max_tokens=request.max_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        seed=request.seed,
        stop_token_ids=sorted(end_ids),
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
    )
