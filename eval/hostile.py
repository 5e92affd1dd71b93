"""One hostile client beside polite ones: what their 99th percentile becomes (`python -m eval.serving --hostile`).

Polite clients rank lists of items, one after the other, in turns without and with a hostile client on several
connections: long documents up to the server's budget and beyond, callers that leave, headers and trailers without end,
bodies that come a byte at a time, deep JSON, and schemas and grammars that never compile. Both halves of a turn are
measured by the same clients in the same run, so a ratio says what the hostile client does, not how fast the machine is.
"""

import asyncio
import contextlib
import json
import sys
import time
from asyncio.subprocess import PIPE
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from itertools import cycle
from typing import Any

import numpy as np

POLITE, HOSTILE = 4, 4  # connections
TURNS = 3
MOST_RATIO = 3.0
_PAUSE = 0.02  # seconds between two requests of a polite client: somebody who looks at a list, in fast motion
_FLOOD = 64 << 20  # bytes of headers or trailers, if they are taken
_ATTACK_SECONDS = 5.0  # that one attack waits for its answer

Attack = Callable[[str, int], Coroutine[Any, Any, None]]


async def slowdown(url: str, bodies: Sequence[dict[str, Any]], model: str) -> tuple[float, float, Counter[str]]:
    """Polite clients' p99 in milliseconds alone and beside a hostile client, and how often each attack was made.

    Args:
        url: of the server.
        bodies: of rankings of items, some per turn.
        model: name for chats.

    Raises:
        RuntimeError: a polite client was refused.
    """
    host, port = url.removeprefix("http://").split(":")
    made = Counter[str]()
    waits: tuple[list[float], list[float]] = [], []
    share = max(1, len(bodies) // (2 * TURNS))
    await _polite(host, int(port), bodies[:share])  # what is loaded at first sight is nobody's
    for turn in range(TURNS):
        for hostile in (False, True):
            part = bodies[(2 * turn + hostile) * share :][:share]
            async with _beside(url, model, made) if hostile else contextlib.nullcontext():
                waits[hostile].extend(await _polite(host, int(port), part))
    alone, beside = (float(1000 * np.quantile(one, 0.99)) for one in waits)
    return alone, beside, made


@asynccontextmanager
async def _beside(url: str, model: str, made: Counter[str]) -> AsyncIterator[None]:
    """The hostile client is at work inside, in a process of its own: polite ones must not wait for its turns here."""
    command = [sys.executable, "-m", "eval.hostile", url, model]
    process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE)
    assert process.stdin is not None and process.stdout is not None
    await process.stdout.readline()  # it has begun
    try:
        yield
    finally:
        process.stdin.close()
        made.update(json.loads(await process.stdout.readline()))
        await process.wait()


async def attack(url: str, model: str) -> None:
    """Attacks until the standard input ends; then prints how often each attack was made."""
    host, port = url.removeprefix("http://").split(":")
    attacks, made = _attacks(model), Counter[str]()
    names = cycle(attacks)

    async def attacker() -> None:
        while True:
            name = next(names)
            made[name] += 1
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, TimeoutError, asyncio.LimitOverrunError):
                async with asyncio.timeout(_ATTACK_SECONDS):
                    await attacks[name](host, int(port))

    tasks = [asyncio.create_task(attacker()) for _ in range(HOSTILE)]
    print("begun", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    print(json.dumps(made), flush=True)


async def _polite(host: str, port: int, bodies: Sequence[dict[str, Any]]) -> list[float]:
    """Seconds of each answer."""
    waiting, waits = iter(bodies), list[float]()

    async def client() -> None:
        for body in waiting:
            begun = time.perf_counter()
            status, answer = await _asked(host, port, "/v1/rerank", json.dumps(body).encode())
            waits.append(time.perf_counter() - begun)
            if status != 200:
                raise RuntimeError(f"a polite client got {status}: {answer[:300]!r}")
            await asyncio.sleep(_PAUSE)

    await asyncio.gather(*(client() for _ in range(POLITE)))
    return waits


def _attacks(model: str) -> dict[str, Attack]:
    words = " ".join(f"word{number}" for number in range(60))
    within = {"query": "word7", "documents": [f"{number} {words}" for number in range(900)]}
    beyond = {"query": "word7", "documents": [f"{number} {words * 3}" for number in range(1900)]}
    chat = {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
    grammars = [
        {"response_format": _schema({"enum": [str(number) for number in range(40_000)]})},
        {"response_format": _schema({"enum": [f"value {number}" for number in range(499)]})},
        {"structured_outputs": {"regex": "((((a{1000}){1000}){1000}){1000})"}},
        {"structured_outputs": {"grammar": "root ::= a{900}\na ::= b{900}\nb ::= [a-z]{0,900}"}},
        {"chat_template_kwargs": {"tokenize": True, "padding": "max_length", "max_length": 10**9}},
    ]
    return {
        "documents within the budget": _posts("/v1/rerank", within),
        "documents beyond the budget": _posts("/v1/rerank", beyond),
        "leaves while it is ranked": _leaves("/v1/rerank", within),
        "headers without end": _floods(b"POST /v1/rerank HTTP/1.1\r\nhost: x\r\n", b"x-%d: " + b"y" * 1000 + b"\r\n"),
        "one header without end": _floods(b"POST /v1/rerank HTTP/1.1\r\nhost: x\r\nx: ", b"y" * 4096),
        "trailers without end": _floods(
            b"POST /v1/rerank HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n",
            b"x-t: " + b"y" * 1000 + b"\r\n",
        ),
        "a byte at a time": _drips,
        "deep JSON": _posts("/v1/rerank", b'{"query": "x", "documents": ' + b"[" * 1_900_000 + b"]" * 1_900_000 + b"}"),
        **{
            f"grammar {number}": _posts("/v1/chat/completions", {**chat, **fields})
            for number, fields in enumerate(grammars)
        },
    }


def _schema(inner: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": inner}}


def _posts(path: str, body: dict[str, Any] | bytes) -> Attack:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()

    async def attack(host: str, port: int) -> None:
        await _asked(host, port, path, content)

    return attack


def _leaves(path: str, body: dict[str, Any]) -> Attack:
    content = json.dumps(body).encode()

    async def attack(host: str, port: int) -> None:
        _, writer = await asyncio.open_connection(host, port)
        writer.write(_head(host, path, len(content)) + content)
        await writer.drain()
        await asyncio.sleep(0.3)
        writer.close()

    return attack


def _floods(begin: bytes, piece: bytes) -> Attack:
    async def attack(host: str, port: int) -> None:
        _, writer = await asyncio.open_connection(host, port)
        try:
            writer.write(begin)
            for _ in range(_FLOOD // len(piece)):
                writer.write(piece.replace(b"%d", b"7"))
                await writer.drain()  # raises once the server has hung up
        finally:
            writer.close()

    return attack


async def _drips(host: str, port: int) -> None:
    _, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(_head(host, "/v1/rerank", 4000))
        for _ in range(4000):
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.05)
    finally:
        writer.close()


async def _asked(host: str, port: int, path: str, content: bytes) -> tuple[int, bytes]:
    """Status and body of an answer, on a connection of its own."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(_head(host, path, len(content)) + content)
        head = await reader.readuntil(b"\r\n\r\n")
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
        return int(head.split(b" ", 2)[1]), await reader.readexactly(int(fields.get(b"content-length", b"0")))
    finally:
        writer.close()


def _head(host: str, path: str, length: int) -> bytes:
    fields = f"host: {host}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close"
    return f"POST {path} HTTP/1.1\r\n{fields}\r\n\r\n".encode()


if __name__ == "__main__":
    asyncio.run(attack(*sys.argv[1:]))
