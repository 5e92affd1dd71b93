"""Variants of model and prompt, as the experiments name them on the command line."""

from collections.abc import Iterable
from dataclasses import dataclass

from reranker.config import RerankerConfig
from reranker.errors import ConfigError
from reranker.pipeline.lazy_engine import engine_of
from reranker.protocols import Engine
from reranker.soft_tokens.checkpoint import Trained, folder_of

UNTRAINED = "untrained"
SYNTAX = (
    "name=SETTING=VALUE[,prompt.SETTING=VALUE][,soft_prompt=DIR][,adapt_steps=N]: settings of "
    "RerankerConfig (fit_users before --fit-users); a prompt with the users' contexts that lie beside "
    "it ({domain} in DIR stands for the domain, DIR=default for the shipped prompt); steps that adapt contexts (2)"
)
_SOFT_PROMPT, _ADAPT_STEPS, _DOMAIN = "soft_prompt", "adapt_steps", "{domain}"
_OF_ALL = ("windows", "min_history", "n_candidates")  # lists are made once, for all variants


@dataclass(frozen=True, kw_only=True)
class Variant:
    """What is judged under one name.

    Attributes:
        folder: of the trained prompt, perhaps with {domain} in it; "" for none.
        adapt_steps: gradient steps on a user's context, where there is one.
    """

    name: str
    config: RerankerConfig
    folder: str = ""
    adapt_steps: int = 2

    @classmethod
    def parse(cls, text: str, engine: str = "auto", family: str = "") -> "Variant":
        """From `SYNTAX`; `UNTRAINED` alone is the default model with its written instruction.

        Raises:
            ConfigError: not of that form, or a setting that does not exist.
        """
        name, _, given = text.partition("=")
        prompt: dict[str, object] = {"family": family} if family else {}
        values: dict[str, object] = {"engine": engine, "prompt": prompt}
        own: dict[str, str] = {}
        for pair in filter(None, given.split(",")):
            key, equals, value = pair.partition("=")
            if not equals:
                raise ConfigError(f"--variant {name}: {pair!r} is not SETTING=VALUE")
            if key in (_SOFT_PROMPT, _ADAPT_STEPS):
                own[key] = value
            elif key.startswith("prompt."):
                prompt[key.removeprefix("prompt.")] = value
            else:
                values[key] = value
        steps = own.get(_ADAPT_STEPS, "2")
        if not steps.isdigit():
            raise ConfigError(f"--variant {name}: adapt_steps must be a whole number from 0 on, got {steps!r}")
        if shared := [key for key in _OF_ALL if key in values]:
            raise ConfigError(f"--variant {name}: {', '.join(shared)} cannot differ, all variants read the same lists")
        config = RerankerConfig.from_mapping(values)
        return cls(
            name=name,
            config=config,
            folder=own.get(_SOFT_PROMPT, ""),
            adapt_steps=int(steps),
        )

    def load_engine(self) -> Engine:
        """The engine that reads for this variant."""
        return engine_of(self.config)

    def trained(self, domains: Iterable[str]) -> dict[str, Trained]:
        """Domain -> what it reads; nothing for an untrained variant.

        Raises:
            PromptError: a folder without a usable prompt.
        """
        if not self.folder:
            return {}
        folders = {domain: folder_of(self.folder.replace(_DOMAIN, domain)) for domain in domains}
        loaded = {folder: Trained.load(folder) for folder in set(folders.values())}
        return {domain: loaded[folder] for domain, folder in folders.items()}
