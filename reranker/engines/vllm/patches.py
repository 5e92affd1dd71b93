"""RMS norms in one pass on a CPU: vLLM ships the kernel and uses it on GPUs only.

Without it each norm is six operations over all tokens of a step, and its residual sum one more.
"""

from functools import partial
from typing import Any

import torch


def fuse_norms(model: torch.nn.Module) -> int:
    """Has the model's norms take vLLM's kernel; returns how many do: 0 where this vLLM lacks what it takes."""
    from vllm.model_executor.layers.layernorm import RMSNorm
    from vllm.platforms import current_platform

    kernels = torch.ops._C
    if not current_platform.is_cpu() or not all(hasattr(kernels, name) for name in ("rms_norm", "fused_add_rms_norm")):
        return 0
    norms: list[Any] = [module for module in model.modules() if type(module) is RMSNorm and _is_plain(module)]
    for norm in norms:
        norm._forward_method = partial(_norm, norm, norm._forward_method)
    return len(norms)


def _is_plain(norm: Any) -> bool:
    return getattr(norm, "variance_size_override", 0) is None and hasattr(norm, "_forward_method")


def _norm(norm: Any, otherwise: Any, x: torch.Tensor, residual: torch.Tensor | None = None) -> Any:
    """The norm of (n, dim) x, or, in place, that of x + residual and the sum."""
    weight = norm.weight
    if x.ndim != 2 or not x.is_contiguous() or getattr(weight, "dtype", None) != x.dtype:
        return otherwise(x, residual)
    if residual is None:
        normed = torch.empty_like(x)
        torch.ops._C.rms_norm(normed, x, weight, norm.variance_epsilon)
        return normed
    torch.ops._C.fused_add_rms_norm(x, residual, weight, norm.variance_epsilon)
    return x, residual
