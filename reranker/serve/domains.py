"""What one server serves: domains, a bundle each, with the users of each."""

import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from reranker.data.signals import split_by_sign
from reranker.engines.encoder import reader_of
from reranker.errors import ConfigError
from reranker.pipeline.reranker import Reranker
from reranker.protocols import UserStore
from reranker.serve.errors import ProblemError
from reranker.serve.ids import as_known, forms_of
from reranker.serve.store_calls import StoreCalls
from reranker.types import ItemId, UserInteraction, UserState

if TYPE_CHECKING:
    from reranker.serve.reloading import BundleSource


class Domain:
    """A fitted bundle under its domain's name.

    Attributes:
        name: of the domain, and of its model.
        base: name of the base model.
        items: the catalogue's ids.
        users: those whose history is in the bundle.

    Args:
        reranker: fitted.
        store: where users' new interactions go; None offers no personal state.
        source: where the bundle comes from; without it, it cannot be reloaded.
        version: name of the bundle's version; "" where it has none.
    """

    def __init__(
        self,
        reranker: Reranker,
        store: UserStore | None = None,
        source: "BundleSource | None" = None,
        version: str = "",
    ) -> None:
        self.reranker = reranker
        self.store = store
        self.source = source
        self.version = version
        self.name = reranker.llm_scorer.domain
        self.base = reranker.llm_scorer.model.model_id
        self.items = frozenset(reranker.item_ids)
        self.users = frozenset(reranker.user_ids)
        self._moving = threading.Lock()
        self._fields_read: dict[str, frozenset[str] | None] = {}

    def with_bundle(self, reranker: Reranker, version: str) -> "Domain":
        """The same domain and users behind another version of its bundle."""
        new = Domain(reranker, self.store, self.source, version)
        new._moving = self._moving  # both write to one store while requests in work end
        return new

    @property
    def dead(self) -> bool:
        """The process that runs the model is gone."""
        return self.reranker.llm_scorer.dead

    def states(self) -> UserStore:
        """The store.

        Raises:
            ProblemError: 404 where there is none.
        """
        if self.store is None:
            raise ProblemError(404, "this server keeps no users: start it with --users-db", code="no_user_store")
        return self.store

    def fields_read(self, block: str) -> frozenset[str] | None:
        """Fields of a text that a block of the templates reads; None where that cannot be told."""
        if block not in self._fields_read:
            fields = self.reranker.llm_scorer.templates.fields(block)
            self._fields_read[block] = None if fields is None else frozenset(fields)
        return self._fields_read[block]

    def user(self, given: str | int) -> str | int:
        """A user's id as the bundle has it."""
        return as_known(given, self.users)

    async def state_of(self, user: str | int, calls: StoreCalls, last: int | None = None) -> UserState | None:
        """What the store keeps of a `user`, if there is one; item ids as the bundle has them.

        Args:
            user: as the bundle has it.
            calls: in which the store is asked.
            last: interactions wanted, the newest; all by default.

        Raises:
            ProblemError: the store does not answer in time.
            StoreError: it fails.
        """
        if self.store is None:
            return None
        forms = forms_of(user)
        kept = await calls.run(partial(self.store.get, forms, last=last))
        found = next((kept[form] for form in forms if form in kept), None)
        if found is None:
            return None
        rows = tuple(
            (as_known(item, self.items) if isinstance(item, str | int) else item, *said)
            for item, *said in found.interactions
        )
        return replace(found, user_id=user, interactions=rows)

    def append(self, user: str | int, rows: Sequence[UserInteraction]) -> UserState:
        """Stores what a `user` did, behind what was stored under the form that the id had for an earlier bundle.

        That moves to the user's form here, once, however many threads ask. Another process with the same store could
        move it a second time. The answer holds no interactions.

        Raises:
            ProblemError: 404 where there is no store.
        """
        store = self.states()
        others = forms_of(user)[1:]
        if not others or not store.get(others):  # nothing to move, so nobody to wait for
            return store.append(user, rows, last=0)
        with self._moving:
            earlier = [row for state in store.get(others).values() for row in state.interactions]
            state = store.append(user, [*earlier, *rows], last=0)
            if earlier:
                store.forget(others)
        return state

    def forget(self, users: Sequence[str | int]) -> int:
        """Removes every trace of these users from the store; returns how many were there.

        Waits for an `append` that moves interactions: it would write back what it has read.

        Raises:
            ProblemError: 404 where there is no store.
        """
        store = self.states()
        with self._moving:
            return store.forget(users)

    def history(self, user: str | int, state: UserState | None) -> list[ItemId]:
        """What the user chose before the bundle was fitted and since, oldest first, without what is disliked since."""
        before = self.reranker.history(user) if user in self.users else []
        chosen, rejected = self._since(state)
        if rejected:
            disliked = set(rejected)
            before = [item for item in before if item not in disliked]
        return _continued(before, chosen)

    def disliked(self, user: str | int, state: UserState | None) -> list[ItemId]:
        """What the user disliked before and since, the last word last, without what was chosen since."""
        before = self.reranker.disliked(user) if user in self.users else []
        chosen, rejected = self._since(state)
        said = {*chosen, *rejected}
        return [item for item in before if item not in said] + rejected

    def _since(self, state: UserState | None) -> tuple[list[ItemId], list[ItemId]]:
        """Items chosen and items disliked since the bundle was fitted."""
        signals = self.reranker.signals
        return split_by_sign((row[0], signals.of_stored(row)) for row in ([] if state is None else state.interactions))

    @property
    def card(self) -> dict[str, Any]:
        """What the bundle is, for GET /v1/models."""
        config, fusion_model, contexts = (
            self.reranker.config,
            self.reranker.fusion_model,
            self.reranker.llm_scorer.contexts,
        )
        return {
            "domain": self.name,
            "version": self.version,
            **self._identity(),
            "base_model": self.base,
            "soft_tokens": config.soft_tokens,
            "context_floats": 0 if contexts is None else contexts.dim,
            "scorer": config.scorer,
            "items": len(self.items),
            "users": len(self.users),
            "serves": fusion_model.guard.serve if fusion_model else reader_of(config.engine),
            "why": fusion_model.guard.summary() if fusion_model else "",
        }

    def _identity(self) -> dict[str, str]:
        """What the score log calls the bundle; nothing of one that was never saved."""
        identity = self.reranker.identity
        if identity is None:
            return {}
        return {
            "bundle": identity.fingerprint,
            **({} if identity.fitted is None else {"fitted": identity.fitted.isoformat()}),
        }


class Domains:
    """The domains of a server, in the order given.

    Raises:
        ConfigError: there is none, or two have one name.
    """

    def __init__(self, domains: Sequence[Domain]) -> None:
        self._by_name = {one.name: one for one in domains}
        self._created = int(time.time())
        if not domains:
            raise ConfigError("there is nothing to serve: give at least one bundle")
        if len(self._by_name) < len(domains):
            names = ", ".join(one.name for one in domains)
            raise ConfigError(f"two bundles are of one domain ({names}): a server serves one bundle a domain")

    def __iter__(self) -> Any:
        return iter(self._by_name.values())

    def take(self, domain: Domain) -> None:
        """Puts a domain in the place of the one of its name."""
        self._by_name = {**self._by_name, domain.name: domain}

    @property
    def names(self) -> list[str]:
        return list(self._by_name)

    def pick(self, *, model: str | None = None, domain: str | None = None) -> Domain:
        """The domain that a request names by its model, by its field `domain`, or by being the only one.

        Raises:
            ProblemError: 404 for a name that is not here, 422 where several domains are meant or the two contradict.
        """
        named = self._by_name.get(model or "")
        if domain is not None:
            found = self._by_name.get(domain)
            if found is None:
                message = f"no domain {domain!r} here; there {_are(self.names)}"
                raise ProblemError(404, message, param="domain", code="domain_not_found")
            if named not in (None, found):
                message = f"domain: {domain!r}, but the model is that of {model!r}: leave one of them out"
                raise ProblemError(422, message, param="domain", code="invalid_field")
            if named is None:
                self.check_model(model)
            return found
        if named is not None:
            return named
        self.check_model(model)
        if len(self._by_name) > 1:
            message = f"domain: which of {_listed(self.names)}? Give it, or its name as the model"
            raise ProblemError(422, message, param="domain", code="missing")
        return next(iter(self._by_name.values()))

    def check_model(self, name: str | None) -> None:
        """Raises ProblemError (404) for a name that is neither a domain's model nor a base model."""
        if name is None or name in self._by_name:
            return
        models = [one["id"] for one in self.models()]
        if name not in models:
            message = f"no model {name!r} here; there {_are(models)}"
            raise ProblemError(404, message, param="model", code="model_not_found")

    def writer(self, model: str) -> tuple[Domain, bool]:
        """The domain whose engine writes under this name, and whether its soft prompt goes before.

        Raises:
            ProblemError: 404, as `check_model`.
        """
        self.check_model(model)
        named = self._by_name.get(model)
        return (named, True) if named else (next(one for one in self if one.base == model), False)

    def models(self) -> list[dict[str, Any]]:
        """OpenAI's records: each domain's model, which reads the domain's soft prompt before any other, then the base
        models, which do not."""
        found = {one.name: self._model(one, one.card) for one in self}
        for one in self:
            found.setdefault(one.base, self._model(one, {"base_model": one.base, "soft_tokens": 0}, one.base))
        return list(found.values())

    def _model(self, domain: Domain, card: dict[str, Any], name: str = "") -> dict[str, Any]:
        record = {"id": name or domain.name, "object": "model", "created": self._created, "owned_by": "reranker"}
        return {**record, "max_model_len": domain.reranker.llm_scorer.model.max_length, "card": card}


def _continued(before: list[ItemId], since: list[ItemId]) -> list[ItemId]:
    """One history; what a refreshed bundle knows already of what the store holds is not said twice.

    The store's rows came in the bundle's order, so the overlap is a beginning of them and an end of the bundle's.
    """
    for n in range(min(len(before), len(since)), 0, -1):
        if before[-n:] == since[:n]:
            return before + since[n:]
    return before + since


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names))


def _are(names: Sequence[str]) -> str:
    return f"{'is' if len(names) == 1 else 'are'} {_listed(names)}"
