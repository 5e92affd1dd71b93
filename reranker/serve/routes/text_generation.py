"""From a request to a written text, whole or as a stream."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from reranker.errors import RerankerError
from reranker.pipeline.llm_scorer import LLMScorer
from reranker.protocols import Generator
from reranker.serve.connection import while_connected
from reranker.serve.domains import Domain
from reranker.serve.errors import ProblemError, problem_of
from reranker.serve.generation.constraints import check_constraints
from reranker.serve.generation.limits import Limits, Tally
from reranker.serve.schemas.generation import SamplingFields
from reranker.serve.schemas.openai_responses import DONE, STREAM_HEADERS, Shape, event, usage
from reranker.serve.state import Service
from reranker.types import GenerationPiece, GenerationRequest, TokenSequence

logger = logging.getLogger(__name__)

Encode = Callable[[Generator], Sequence[Sequence[int]]]
"""The token ids of each prompt."""


async def write(
    service: Service, request: Request, body: SamplingFields, shape: Shape, limits: Limits, encode: Encode
) -> Response:
    """Writes what `body` asks for; a caller that goes away ends the work.

    Raises:
        ProblemError: with the field that is wrong.
    """
    domain, soft = service.domains.writer(body.model)
    engine = _generator(service, domain)
    limits.check(body, service.settings.max_generated_tokens)
    check_constraints(body)
    if hosted := service.hosted.get(body.model):
        tally = Tally(metrics=service.metrics, request=request)
        return await hosted.answer(service.generations, service.settings, request, body, limits, tally)
    body.refuse_others()
    prompts = await asyncio.to_thread(_prompts, domain.reranker.llm_scorer, engine, soft, encode, limits)
    window = domain.reranker.llm_scorer.engine.model.max_length
    texts = [
        _request(service, window, body, prompt, limits, number) for prompt in prompts for number in range(body.n or 1)
    ]
    written = _Written(
        metrics=service.metrics, request=request, prompt_tokens=sum(map(len, prompts)), reasons=[None] * len(texts)
    )
    pieces = _pieces(service, engine, texts, written)
    if not body.stream:
        await while_connected(request, _exhaust(pieces))
        return JSONResponse(shape.whole(written.texts, written.reasons, written.usage))
    first = await while_connected(request, _next(pieces))  # what fails before it is an ordinary error
    return StreamingResponse(
        _events(shape, first, pieces, written), media_type="text/event-stream", headers=STREAM_HEADERS
    )


@dataclass(eq=False, kw_only=True)
class _Written(Tally):
    """What was written so far."""

    reasons: list[str | None]
    texts: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.texts = [""] * len(self.reasons)

    @property
    def usage(self) -> dict[str, int]:
        return usage(self.prompt_tokens, self.tokens)

    def add(self, number: int, piece: GenerationPiece) -> None:
        self.texts[number] += piece.text
        self.reasons[number] = piece.finish_reason
        self.tokens += piece.tokens


def _generator(service: Service, domain: Domain) -> Generator:
    if not service.ready:
        raise service.not_ready
    engine = domain.reranker.llm_scorer.engine
    if not isinstance(engine, Generator):
        message = f"model: the {engine.name} engine of this server ranks and cannot write text"
        raise ProblemError(422, message, param="model", code="cannot_generate")
    return engine


def _prompts(
    reader: LLMScorer, engine: Generator, with_soft: bool, encode: Encode, limits: Limits
) -> list[TokenSequence]:
    soft = reader.soft_prompt() if with_soft else None
    vocabulary = reader.model.vocab_size
    prompts = []
    for tokens in encode(engine):
        limits.check_prompt(tokens, vocabulary)
        plain = TokenSequence.from_tokens(tokens)
        prompts.append(plain if soft is None else TokenSequence.concatenate([soft, plain]))
    return prompts


def _request(
    service: Service, window: int, body: SamplingFields, prompt: TokenSequence, limits: Limits, number: int
) -> GenerationRequest:
    cap = service.settings.max_generated_tokens
    room = window - len(prompt)
    if room < 1:
        message = f"{limits.prompt}: {len(prompt)} tokens, the model reads {window} and needs one to answer: shorten it"
        raise ProblemError(400, message, param=limits.prompt, code="context_length_exceeded")
    if limits.most == 0:
        raise ProblemError(422, f"{limits.tokens}: at least 1", param=limits.tokens, code="invalid_field")
    if limits.most is not None and limits.most > room:
        message = f"{limits.tokens}: {limits.most}, but after {len(prompt)} tokens of prompt there is room for {room}"
        raise ProblemError(400, message, param=limits.tokens, code="context_length_exceeded")
    return GenerationRequest(
        prompt=prompt,
        max_tokens=limits.most or min(limits.default or cap, cap, room),
        temperature=1.0 if body.temperature is None else body.temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        stop=body.stops,
        seed=None if body.seed is None else (body.seed + number) % 2**63,
    )


async def _pieces(
    service: Service, engine: Generator, texts: Sequence[GenerationRequest], tally: _Written
) -> AsyncGenerator[tuple[int, GenerationPiece]]:
    """(number of the text, piece), one text after the other."""
    try:
        for number, text in enumerate(texts):
            one = service.generations.pieces(partial(engine.generate, text), service.settings.generation_seconds)
            try:
                async for piece in one:
                    tally.add(number, piece)
                    yield number, piece
            finally:
                await one.aclose()
    finally:
        tally.close()


async def _next(pieces: AsyncGenerator[tuple[int, GenerationPiece]]) -> tuple[int, GenerationPiece]:
    return await anext(pieces)


async def _exhaust(pieces: AsyncGenerator[tuple[int, GenerationPiece]]) -> None:
    async for _ in pieces:
        pass


async def _events(
    shape: Shape,
    first: tuple[int, GenerationPiece],
    pieces: AsyncGenerator[tuple[int, GenerationPiece]],
    tally: _Written,
) -> AsyncIterator[str]:
    opened = -1
    try:
        number, piece = first
        while True:
            if number > opened:
                yield shape.opening(number)
                opened = number
            if piece.text or piece.finish_reason:
                yield shape.piece(number, piece.text, piece.finish_reason)
            following = await anext(pieces, None)
            if following is None:
                break
            number, piece = following
        yield shape.closing(tally.usage)
    except RerankerError as error:
        yield event(problem_of(error).body()) + DONE
    except ProblemError as problem:
        yield event(problem.body()) + DONE
    except Exception:
        logger.exception("a stream failed")
        yield event(ProblemError(500, "the server failed while it wrote", code="failed").body()) + DONE
    finally:
        await pieces.aclose()
