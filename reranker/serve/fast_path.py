"""A short road to the routes that are asked most."""

from collections.abc import Sequence

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from reranker.errors import RerankerError
from reranker.serve.errors import ProblemError, problem_of, refusal


class ShortRoad:
    """Answers POST requests to some routes itself and hands the others on.

    What FastAPI puts between its middleware and a handler (exception and exit-stack layers, the search for the route)
    takes the event loop as long as all that a ranking needs of it, and every other caller waits for the loop.

    Args:
        app: whatever else there is; under a path prefix these routes, too.
        routes: with fixed paths, whose handlers read the request by themselves.
    """

    def __init__(self, app: ASGIApp, routes: Sequence[APIRoute]) -> None:
        self._app = app
        self._routes = {route.path: (route, route.get_route_handler()) for route in routes}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = self._routes.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if found is None:
            await self._app(scope, receive, send)
            return
        scope["route"], handle = found
        try:
            response = await handle(Request(scope, receive))
        except (ProblemError, RerankerError, RequestValidationError) as error:
            response = refusal(problem_of(error))
        await response(scope, receive, send)
