"""A bundle is data from elsewhere: what acts, or lies outside it, comes from who loads it."""

import contextlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reranker.config import RerankerConfig
from reranker.engines import AUTO, available_engines, reads_a_model
from reranker.errors import BundleError
from reranker.hub import available_models

MANIFEST = "bundle.yaml"
_DEEPEST = 8  # folders within folders
_LONGEST_TEXT, _LARGEST = 4096, 1 << 62  # characters of a name; any size of a model: words are numbered up to here
BASE_URL, BASE_URL_VARIABLE = "base_url", "OPENAI_BASE_URL"
TEMPLATES, TEMPLATES_VARIABLE = "templates", "RERANKER_TEMPLATES"
MODELS_VARIABLE = "RERANKER_MODELS"

_HARMLESS = frozenset(
    {
        "compiled",
        "device",
        "dim",
        "enforce_eager",
        "gpu_memory_utilization",
        "kv_cache_gib",
        "max_batch_tokens",
        "max_length",
        "max_num_batched_tokens",
        "max_num_seqs",
        "model_id",
        "prompts_a_request",
        "slots",
        "tensor_parallel_size",
        "tokenizer",
    }
)
"""Options of engines that a bundle may bring along: sizes and speeds, nothing that runs code or reaches a host."""


def require_plain(directory: Path) -> None:
    """Refuses links, devices and pipes: a bundle may not point at files of whoever loads it, nor never end."""
    folders = [directory]
    while folders:
        folder = folders.pop()
        if len(folder.parts) - len(directory.parts) > _DEEPEST:
            raise BundleError(f"{folder} lies deeper than anything in a bundle does")
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # replaced meanwhile
            for path in folder.iterdir():
                kind = path.lstat().st_mode
                if stat.S_ISDIR(kind):
                    folders.append(path)
                elif not stat.S_ISREG(kind):
                    raise BundleError(
                        f"{path} is a link or no ordinary file, and a bundle holds ordinary files alone: copy what it "
                        "points to into its place (`cp -rL`)"
                    )


def require_plain_fields(path: Path, manifest: Mapping[str, Any]) -> None:
    """Refuses a manifest whose domain, templates or model are of other types than this version writes."""
    model = manifest["model"]
    texts = {name: manifest[name] for name in ("domain", "templates_sha256")}
    texts |= {f"model.{name}": model[name] for name in ("model_id", "sha256")}
    sizes = {f"model.{name}": model[name] for name in ("dim", "vocab_size", "max_length")}
    wrong = [name for name, value in texts.items() if not isinstance(value, str) or len(value) > _LONGEST_TEXT]
    wrong += [name for name, value in sizes.items() if type(value) is not int or not 0 <= value <= _LARGEST]
    if wrong:
        raise BundleError(f"{path} is damaged: {', '.join(wrong)} cannot be what it says. Save the bundle again")


def require_own_templates(directory: Path, config: RerankerConfig, mine: Path | str | None) -> Path | None:
    """The folder of own templates that a bundle is read with; None where it was fitted with the packaged ones.

    Args:
        directory: of the bundle.
        config: its settings.
        mine: folder of who loads it; by default what RERANKER_TEMPLATES says.

    Raises:
        BundleError: it was fitted with own templates, and who loads it names no folder.
    """
    fitted_with = config.prompt.directory
    if fitted_with is None:
        return None
    folder = mine or os.environ.get(TEMPLATES_VARIABLE)
    if not folder:
        raise BundleError(
            f"{directory / MANIFEST} was fitted with the templates in {str(fitted_with)!r}, and a bundle may not point "
            f"at folders of this machine: if they are yours, say {TEMPLATES_VARIABLE}={fitted_with}, or "
            f"trusted_options={{{TEMPLATES!r}: {str(fitted_with)!r}}} to Reranker.load"
        )
    return Path(folder)


def require_known_engine(directory: Path, config: RerankerConfig) -> None:
    """Refuses a bundle that names an engine which there is not.

    Args:
        directory: of the bundle.
        config: its settings.

    Raises:
        BundleError: the engine has no such name.
    """
    if config.engine not in (AUTO, *available_engines()):
        raise BundleError(
            f"{directory / MANIFEST} names the engine {config.engine!r}, which there is not: give an engine to "
            f"Reranker.load, one of {', '.join([AUTO, *available_engines()])} or your own"
        )


def require_own_model(directory: Path, config: RerankerConfig) -> None:
    """Refuses a bundle whose model is none that comes with the product and none that who loads it named.

    A bundle could have whoever loads it fetch any repository, or open any folder.

    Args:
        directory: of the bundle.
        config: its settings.

    Raises:
        BundleError: it names another model than those in RERANKER_MODELS, with commas between them.
    """
    model = str(config.model)
    mine = [name.strip() for name in os.environ.get(MODELS_VARIABLE, "").split(",")]
    if not reads_a_model(config.engine) or model in available_models() or model in mine:
        return
    raise BundleError(
        f"{directory / MANIFEST} names the model {model!r}. A bundle may not choose a folder or a repository: if you "
        f"trust it, say {MODELS_VARIABLE}={model}, or model={model!r} to Reranker.load"
    )


def require_harmless(directory: Path, config: RerankerConfig, trusted: Mapping[str, Any]) -> None:
    """A bundle is data from elsewhere: addresses and options that act come from who loads it.

    Args:
        directory: of the bundle.
        config: its settings.
        trusted: options of who loads it, which stand in for the bundle's.

    Raises:
        BundleError: it names an engine option that it may not set; the message says how to give it.
    """
    mine = {BASE_URL: os.environ.get(BASE_URL_VARIABLE)}
    acting = {
        name: value
        for name, value in config.engine_options.items()
        if name not in _HARMLESS and name not in trusted and (value is None or mine.get(name) != value)
    }
    if acting:
        shown = ", ".join(f"{name}={value!r}" for name, value in acting.items())
        raise BundleError(
            f"{directory / MANIFEST} sets {shown} for the engine {config.engine!r}. A bundle may not choose that: if "
            f"you trust it, give it yourself, as trusted_options={acting!r} to Reranker.load, or "
            f"--base-url (or {BASE_URL_VARIABLE}) for an address"
        )
