"""Requests made of the server's own OpenAPI schema, sound and broken ones: none makes it fail."""

import pytest
from hypothesis import HealthCheck, given, settings

from reranker.serve.app import create_app
from reranker.stores import SqliteUserStore
from tests.pipeline import toys
from tests.serve.live import serving, wait_until_ready

schemathesis = pytest.importorskip("schemathesis")
checks = pytest.importorskip("schemathesis.specs.openapi.checks")

CASES = 100  # of each operation, sound ones and as many broken ones
MODES = schemathesis.GenerationMode
AS_DESCRIBED = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]


@pytest.fixture(scope="module")
def schema(tmp_path_factory):
    app = create_app(toys.fitted(), store=SqliteUserStore(tmp_path_factory.mktemp("users") / "u.db"))
    with serving(app) as url:
        wait_until_ready(url)
        yield schemathesis.openapi.from_url(f"{url}/openapi.json")


def aim(case):
    """A model that is there and fields that go together, or every made-up request would end at the first check."""
    if isinstance(case.body, dict):
        if isinstance(case.body.get("model"), str):
            case.body["model"] = "toy"
        if isinstance(case.body.get("domain"), str):
            case.body["domain"] = "toy"
        if case.body.get("documents"):
            case.body.pop("item_ids", None)
            case.body.pop("first_stage_scores", None)


def statuses(operation, mode):
    """Of the answers to `CASES` requests. Schemathesis 4.32's own pytest plugin does not work with pytest 9.2."""
    seen = []

    @settings(max_examples=CASES, deadline=None, derandomize=True, database=None, suppress_health_check=HealthCheck)
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case):
        aim(case)
        answer = case.call(timeout=30)
        seen.append(answer.status_code)
        assert answer.status_code < 500, f"{case.as_curl_command()}\n{answer.text}"
        case.validate_response(answer, checks=AS_DESCRIBED)

    ask()
    return seen


@pytest.mark.parametrize("mode", [MODES.POSITIVE, MODES.NEGATIVE], ids=["sound", "broken"])
def test_no_request_makes_the_server_fail(schema, mode):
    operations = [found.ok() for found in schema.get_all_operations()]
    if mode is MODES.NEGATIVE:  # a path is any text: it cannot be broken
        operations = [one for one in operations if one.body or list(one.query)]
    seen = {one.label: statuses(one, mode) for one in operations}
    assert {"POST /v1/rerank", "POST /v1/users/{user}/interactions", "GET /playground/list"} <= seen.keys()
    assert len(seen["POST /v1/rerank"]) >= CASES
    assert (200 if mode is MODES.POSITIVE else 422) in seen["POST /v1/rerank"]
