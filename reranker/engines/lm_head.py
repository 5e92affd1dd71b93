"""The output head, read as log-probabilities: how the torch engine and vLLM's worker both do it."""

from typing import Any

import torch

_ROWS = 512  # states whose logits are held at once
_COLUMNS = {"cpu": 2048}  # tokens whose logits are held at once: 4 MB in float32, which a cache holds
_MANY_COLUMNS = 32768


class Head:
    """Reads log-probabilities of chosen tokens.

    The vocabulary is multiplied in the model's own precision and summed in float32. Where that precision is bfloat16
    the chosen tokens' own logits are computed apart in float32: rounded logits would make ties.

    Args:
        weight: (vocabulary, dim).
        bias: (vocabulary,) or None.
        scale: factor on the logits.
        softcap: bound of the logits, or None.
    """

    def __init__(
        self, weight: torch.Tensor, bias: torch.Tensor | None = None, scale: float = 1.0, softcap: float | None = None
    ) -> None:
        self._weight, self._bias, self._scale, self._softcap = weight, bias, scale, softcap

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """(..., vocabulary) logits of (..., dim) hidden states, float32."""
        return self._transform(_exact(torch.nn.functional.linear(hidden, self._weight, self._bias)))

    def log_probs(self, hidden: torch.Tensor, targets: torch.Tensor, reads: torch.Tensor | None = None) -> torch.Tensor:
        """log p of `targets` (n,) or (n, k) after `hidden[reads]`, in nats, float32.

        Args:
            hidden: (m, dim) states after the last norm.
            targets: token ids.
            reads: (n,) which state each row of targets is read at; None when there is one for each. A state's
                normaliser is computed once, however many rows read it.
        """
        normaliser = torch.cat([self._normaliser(part) for part in torch.split(hidden, _ROWS)])
        if reads is not None:
            hidden, normaliser = hidden.index_select(0, reads), normaliser.index_select(0, reads)
        weight, states = _exact(self._weight[targets]), _exact(hidden)
        logits = (weight * (states if targets.ndim == 1 else states[:, None])).sum(dim=-1)
        if self._bias is not None:
            logits = logits + _exact(self._bias[targets])
        return self._transform(logits) - (normaliser if targets.ndim == 1 else normaliser[:, None])

    def _normaliser(self, hidden: torch.Tensor) -> torch.Tensor:
        """(n, dim) -> (n,) log-sum-exp of the logits, a part of the vocabulary at a time."""
        columns = _COLUMNS.get(hidden.device.type, _MANY_COLUMNS)
        weights = torch.split(self._weight, columns)
        biases = [None] * len(weights) if self._bias is None else torch.split(self._bias, columns)
        parts = [
            _log_sum_exp(self._transform(_exact(torch.nn.functional.linear(hidden, weight, bias))))
            for weight, bias in zip(weights, biases, strict=True)
        ]
        return torch.stack(parts, dim=-1).logsumexp(dim=-1)

    def _transform(self, logits: torch.Tensor) -> torch.Tensor:
        if self._scale != 1.0:
            logits = logits * self._scale
        return logits if self._softcap is None else self._softcap * torch.tanh(logits / self._softcap)


def head_of(lm: Any) -> Head:
    """The head of a transformers causal LM."""
    config = lm.config.get_text_config()
    layer = lm.get_output_embeddings()
    divisor = getattr(config, "logits_scaling", None) or 1.0  # Granite divides the logits, Cohere multiplies them
    return Head(
        layer.weight,
        getattr(layer, "bias", None),
        scale=(getattr(config, "logit_scale", None) or 1.0) / divisor,
        softcap=getattr(config, "final_logit_softcapping", None),
    )


def _log_sum_exp(logits: torch.Tensor) -> torch.Tensor:
    """(n, vocabulary) -> (n,). By way of log_softmax, one pass on a CPU, where logsumexp takes 20 times as long."""
    return logits[:, 0] - logits.log_softmax(dim=-1)[:, 0]


def _exact(values: torch.Tensor) -> torch.Tensor:
    """float32 of lower precisions; float64, which gradients are checked in, stays."""
    return values if values.dtype == torch.float64 else values.float()
