"""The bank of soft prompts that picks one for a domain."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from reranker.errors import PromptError
from reranker.soft_tokens.peft_format import load_peft, read_json, save_peft
from reranker.soft_tokens.prompt import SHIPPED, SoftPrompt
from reranker.types import UserId
from reranker.utils.atomic_io import whole_folder

Level = Literal["user", "domain", "meta"]


_INDEX = "index.json"


@dataclass(kw_only=True, eq=False)
class PromptBank:
    """Soft prompts by level. The most specific one wins: the user's, else the domain's, else the meta prompt.

    Attributes:
        meta: for domains that have none of their own.
        domains: by the domain's name.
        users: by user.
        shipped: what comes with the product, for domains that have no prompt at all; other models than its own go
            without. A saved bank notes that there is one, and gets that of the product that loads it.
    """

    meta: SoftPrompt | None = None
    domains: dict[str, SoftPrompt] = field(default_factory=dict)
    users: dict[UserId, SoftPrompt] = field(default_factory=dict)
    shipped: SoftPrompt | None = None

    def add_meta(self, prompt: SoftPrompt) -> None:
        """Sets the prompt for domains that have none of their own."""
        self._require_width(prompt)
        self.meta = prompt

    def add_domain(self, domain: str, prompt: SoftPrompt) -> None:
        """Sets the prompt of one domain."""
        self._require_width(prompt)
        self.domains[domain] = prompt

    def add_user(self, user_id: UserId, prompt: SoftPrompt) -> None:
        """Sets the prompt of one user."""
        self._require_width(prompt)
        self.users[user_id] = prompt

    def remove_domain(self, domain: str) -> None:
        """Forgets a domain's prompt, if there is one."""
        self.domains.pop(domain, None)

    def remove_user(self, user_id: UserId) -> None:
        """Forgets a user's prompt, if there is one."""
        self.users.pop(user_id, None)

    def resolve(self, domain: str | None = None, user_id: UserId | None = None) -> SoftPrompt | None:
        """The prompt to use; None when there is not even a meta prompt. `level` says where it comes from."""
        if user_id is not None and user_id in self.users:
            return self.users[user_id]
        if domain is not None and domain in self.domains:
            return self.domains[domain]
        return self.meta

    def level(self, domain: str | None = None, user_id: UserId | None = None) -> Level | None:
        """Which level `resolve` takes the prompt from; None when it finds none."""
        if user_id is not None and user_id in self.users:
            return "user"
        if domain is not None and domain in self.domains:
            return "domain"
        return None if self.meta is None else "meta"

    def save(self, directory: Path) -> None:
        """Writes every prompt in PEFT's format and an index. An older bank there is replaced as a whole.

        Raises:
            PromptError: a user id is neither text nor an integer, or `directory` holds something else than a bank.
            OSError: the disk refused; what stood there is untouched.
        """
        for user_id in self.users:
            if not isinstance(user_id, str | int) or isinstance(user_id, bool):
                raise PromptError(f"the prompt of user {user_id!r} cannot be saved: the id must be str or int")
        if directory.exists() and any(directory.iterdir()) and not (directory / _INDEX).is_file():
            raise PromptError(f"{directory} exists and is not a prompt bank: choose another folder")
        with whole_folder(directory) as fresh:
            self._write(fresh)

    @classmethod
    def load(cls, directory: Path) -> "PromptBank":
        """Reads what `save` wrote. Raises PromptError when something is missing or damaged."""
        index = read_json(directory / _INDEX)
        bank = cls()
        try:
            if index["meta"] is not None:
                bank.add_meta(load_peft(_within(directory, index["meta"])))
            for domain, folder in index["domains"]:
                bank.add_domain(domain, load_peft(_within(directory, folder)))
            for user_id, folder in index["users"]:
                bank.add_user(user_id, load_peft(_within(directory, folder)))
            if index.get("shipped"):
                bank.shipped = load_peft(SHIPPED)
        except (KeyError, TypeError, ValueError) as error:
            raise PromptError(f"{directory / _INDEX} is damaged ({error!r}): save the bank again") from error
        return bank

    def _write(self, directory: Path) -> None:
        # Folders are numbered because domains and user ids may not be legal file names.
        index: dict[str, Any] = {"meta": None, "domains": [], "users": [], "shipped": self.shipped is not None}
        if self.meta is not None:
            index["meta"] = "meta"
            save_peft(self.meta, directory / "meta")
        levels: list[tuple[str, dict[Any, SoftPrompt]]] = [("domains", self.domains), ("users", self.users)]
        for level, prompts in levels:
            for number, (key, prompt) in enumerate(prompts.items()):
                folder = f"{level}/{number:06d}"
                save_peft(prompt, directory / folder)
                index[level].append([key, folder])
        (directory / _INDEX).write_text(json.dumps(index, indent=1, ensure_ascii=False), encoding="utf-8")

    def _require_width(self, prompt: SoftPrompt) -> None:
        others = [other for other in (self.meta, *self.domains.values()) if other is not None]
        if others and others[0].dim != prompt.dim:
            raise PromptError(
                f"soft prompt {prompt.name!r} has width {prompt.dim}, those in the bank have {others[0].dim}: one bank "
                "belongs to one base model"
            )


def _within(directory: Path, folder: str) -> Path:
    """A folder of the bank.

    Raises:
        PromptError: it lies outside.
    """
    found = (directory / folder).resolve()
    if not found.is_relative_to(directory.resolve()):
        raise PromptError(f"{directory / _INDEX} is damaged: {folder!r} lies outside the bank")
    return found
