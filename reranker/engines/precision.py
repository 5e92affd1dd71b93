"""Where a model computes, and in which precision."""

import platform
from typing import Any

from reranker.errors import ConfigError

AUTO_DTYPE = "auto"
DTYPES = ("bfloat16", "float32")
AUTO_DEVICE = "auto"


def chosen_device(device: str) -> str:
    """The device as it was given ("cpu", "cuda:1", ...); for "auto" CUDA where there is one, else the CPU."""
    if device != AUTO_DEVICE:
        return device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def torch_device(device: str) -> Any:
    """The `torch.device`, which something can be computed on here; "auto" as `chosen_device` has it.

    Raises:
        ConfigError: there is no such device.
    """
    import torch

    try:
        found = torch.device(chosen_device(device))
        torch.zeros(1, device=found).item()
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"nothing can be computed on device {device!r}: {reason}. Give 'auto', or one there is"
        ) from error
    return found


def chosen_dtype(dtype: str, device: str) -> str:
    """One of `DTYPES`.

    "auto" is bfloat16, but for x86 processors that have no instructions for it: they compute it in float32 with
    conversions around, which took 1.7 times as long as float32 itself.

    Args:
        dtype: "auto" or one of `DTYPES`.
        device: "cpu", "cuda", ...

    Raises:
        ConfigError: another dtype.
    """
    if dtype in DTYPES:
        return dtype
    if dtype != AUTO_DTYPE:
        raise ConfigError(f"unknown dtype {dtype!r}; choose one of {', '.join([AUTO_DTYPE, *DTYPES])}")
    return "float32" if device == "cpu" and not _multiplies_bfloat16() else "bfloat16"


def _multiplies_bfloat16() -> bool:
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    import torch

    asked = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    known = [getattr(torch.cpu, name) for name in asked if hasattr(torch.cpu, name)]
    return not known or any(is_supported() for is_supported in known)
