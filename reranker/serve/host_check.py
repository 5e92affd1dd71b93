"""Which names a server answers to: a page in a browser may not reach it under a name of its own (DNS rebinding)."""

import ipaddress
from collections.abc import Sequence
from functools import lru_cache

from starlette.types import ASGIApp, Receive, Scope, Send

from reranker.serve.errors import ProblemError, refusal

_MOST_NAMES = 256  # that are remembered


class HostCheck:
    """Refuses requests (403) whose Host header names none of the hosts of this server.

    Without a list that holds for connections to a loopback address alone, where only `localhost` and loopback addresses
    are names: any page in this machine's browser can have its own name resolved to 127.0.0.1, and the browser takes the
    answers for the page's.

    Args:
        app: what gets the others.
        hosts: names and addresses without a port, of any connection; None for what is said above.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str] | None) -> None:
        self._app = app
        names = None if hosts is None else frozenset(host.lower().strip("[]") for host in hosts)

        @lru_cache(_MOST_NAMES)
        def allowed(header: bytes) -> bool:
            name = _name(header)
            return is_loopback(name) if names is None else name in names

        self._allowed = allowed
        self._of_loopback_only = hosts is None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not (self._of_loopback_only and not _local(scope)):
            host = next((value for name, value in scope["headers"] if name == b"host"), None)
            if host is not None and not self._allowed(host):
                message = (
                    f"this server does not answer to the host {_name(host)[:100]!r}: ask it as localhost, give it "
                    "keys, or name the host in its setting allowed_hosts"
                )
                await refusal(ProblemError(403, message, code="host_not_allowed"), connection="close")(
                    scope, receive, send
                )
                return
        await self._app(scope, receive, send)


def is_loopback(name: str) -> bool:
    """Whether a host's name or address is this machine's own, whatever a name server says."""
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _local(scope: Scope) -> bool:
    """The connection came to a loopback address (a path of a unix socket is none)."""
    server = scope.get("server")
    return server is not None and is_loopback(str(server[0]))


def _name(header: bytes) -> str:
    """The name in a Host header, in lower case, without port and brackets."""
    text = header.decode("latin-1").strip().lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0]
