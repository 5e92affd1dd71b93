"""What a ranking request may hold."""

from reranker.pipeline.text_ranking import TextList
from reranker.serve.auth import Key
from reranker.serve.errors import ProblemError
from reranker.serve.rank_jobs import LONGEST_TEXT, ItemList, Job, tokens_of, too_long
from reranker.serve.schemas.rerank import RerankRequest
from reranker.serve.settings import ServeSettings


def check_request(settings: ServeSettings, body: RerankRequest) -> None:
    """Refuses (413, 422) what is empty, too long, or does not go together."""
    if body.documents is None and body.item_ids is None:
        raise ProblemError(422, "give documents, or item_ids of the catalogue", param="documents", code="missing")
    for name in ("documents", "item_ids"):
        values = getattr(body, name)
        if values is not None and not values:
            raise ProblemError(422, f"{name} is empty: nothing to rank", param=name, code="empty")
        if values is not None and len(values) > settings.max_documents:
            most = settings.max_documents
            raise ProblemError(
                413, f"{name} holds {len(values)}, at most {most} are taken", param=name, code="too_many"
            )
    if body.history is not None and len(body.history) > settings.max_history:
        most = settings.max_history
        raise ProblemError(
            413, f"history holds {len(body.history)} items, at most {most}", param="history", code="too_many"
        )
    if body.item_ids is None:
        for number, document in enumerate(body.documents or ()):
            if not (document if isinstance(document, str) else document.words).strip():
                message = f"documents.{number} has no text: give a text, or an object with text or title"
                raise ProblemError(422, message, param=f"documents.{number}", code="empty")
        for name in ("first_stage_scores", "order", "explain", "features", "context", "rules"):
            if getattr(body, name) not in (None, False):
                raise ProblemError(422, f"{name} needs item_ids", param=name, code="missing")
        return
    for name in ("documents", "first_stage_scores"):
        values = getattr(body, name)
        if values is not None and len(values) != len(body.item_ids):
            message = f"{name} holds {len(values)}, item_ids {len(body.item_ids)}: one for each"
            raise ProblemError(422, message, param=name, code="length")


def check_reader(key: Key) -> None:
    """Refuses (403) explanations of a user by a key that may not read users."""
    if not key.may("admin"):
        message = (
            f"explain: the key {key.name!r} may not read users, and explanations name what they chose: send the "
            "history with the request"
        )
        raise ProblemError(403, message, param="explain", code="scope_missing")


def check_budget(settings: ServeSettings, job: Job) -> None:
    """Refuses (413) a job that the model would read too long for."""
    if isinstance(job.ranks, TextList) and (field := too_long(job.ranks)):
        message = f"{field} has more than {LONGEST_TEXT} characters: cut it into several"
        raise ProblemError(413, message, param=field, code="too_long")
    tokens, most = tokens_of(job), settings.max_request_tokens
    if tokens > most:
        field = "item_ids" if isinstance(job.ranks, ItemList) else "documents"
        message = f"{field}: about {tokens} tokens to read, at most {most} a request: send fewer or shorter ones"
        raise ProblemError(413, message, param=field, code="too_many_tokens")
