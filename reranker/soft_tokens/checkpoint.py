"""What `train prompt` leaves in a folder: a soft prompt, and what was learned beside it."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from reranker.errors import PromptError
from reranker.soft_tokens import CONTEXT_FILE, ContextMap
from reranker.soft_tokens.peft_format import load_peft
from reranker.soft_tokens.prompt import SHIPPED, SoftPrompt
from reranker.soft_tokens.prompt_bank import PromptBank

DEFAULT, UNTRAINED = "default", "untrained"
_ITEM_TOKENS = "item_tokens"


def folder_of(name: str | Path) -> Path:
    """Where a prompt lies: the shipped one for "default", unless there is a folder of that name."""
    return SHIPPED if str(name) == DEFAULT and not Path(name).exists() else Path(name)


@dataclass(frozen=True, kw_only=True, eq=False)
class Trained:
    """Learned parameters over a frozen model; an empty one is the untrained product.

    Attributes:
        prompt: the soft prompt; None is the embeddings of the written instruction.
        shipped: what stands in for it where the model is the one it was made for.
        contexts: what makes users' contexts soft tokens; None gives users none.
    """

    prompt: SoftPrompt | None = None
    shipped: SoftPrompt | None = None
    contexts: ContextMap | None = None

    @classmethod
    def default(cls, scoring: str) -> "Trained":
        """What a scorer starts from: the shipped prompt, where it was trained for that."""
        return cls(shipped=load_peft(SHIPPED) if "likelihood" in scoring else None)

    @classmethod
    def named(cls, name: str | Path, scoring: str) -> "Trained":
        """What "default" is for a scorer, nothing for "untrained", else what lies in a folder of that name.

        Raises:
            PromptError: as `load` does.
        """
        if str(name) == DEFAULT:
            return cls.default(scoring)
        return cls() if str(name) == UNTRAINED else cls.load(Path(name))

    @property
    def bank(self) -> PromptBank:
        """The prompts, for any domain."""
        return PromptBank(meta=self.prompt, shipped=self.shipped)

    @classmethod
    def load(cls, directory: Path) -> "Trained":
        """Reads a folder with a soft prompt in PEFT format.

        Raises:
            PromptError: there is no usable soft prompt, or something beside it is damaged or read by this version no
                more.
        """
        if (directory / _ITEM_TOKENS).exists():
            raise PromptError(
                f"{directory / _ITEM_TOKENS}: item tokens have left the product: delete that folder to use the prompt "
                "beside it"
            )
        contexts = directory / CONTEXT_FILE
        return cls(
            prompt=load_peft(directory),
            contexts=ContextMap.load(contexts) if contexts.exists() else None,
        )

    @cached_property
    def sha256(self) -> str:
        """Hash of all values; "" where nothing was trained."""
        parts = [f"prompt:{self.prompt.sha256}"] if self.prompt else []
        parts += [f"shipped:{self.shipped.sha256}"] if self.shipped else []
        parts += [f"contexts:{self.contexts.sha256}"] if self.contexts else []
        return hashlib.sha256("|".join(parts).encode()).hexdigest() if parts else ""
