"""What the endpoint costs beside the engine: `python -m eval.serving --out DIR`.

A `reranker serve` in a process of its own, asked by 16 clients at once over bare sockets (an HTTP library would take
longer than the server). Overhead is the time a client waits less the time in the queue and in the engine's thread,
which the server reports for each request. Features and tables are made in that thread too, so they are not overhead
here: the scripted engine's own scoring is next to nothing, and what a batch takes is printed. Answers are looked at
after the clock has stopped: what the client does then is not the server's. Where Linux tells, the event loop's own time
a request is printed, and how long it waited for a processor that something else had.

With the real model, 16 clients at once are compared with one after another, in turns, after every list was read once:
titles' priors are computed at first sight and kept, so the way that went first would pay for both. The target is for
likelihoods, which the model reads for every list. By the default scorer it has read every item before: what company
gains there is the endpoint's own, and is told beside it. Where Playwright and a Chromium are installed, a new user
likes some items in the playground, too. `--hostile ENGINE` measures one thing alone: polite clients beside a hostile
one (`eval.hostile`). By the default scorer their lists cost no pass of the model; with `--hostile-reads` each of them
does, and with vllm always, which computes all layers. Writes DIR/serving.json and exits 0 when it ran.
"""

import asyncio
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import httpx
import numpy as np
import typer
from numpy.typing import NDArray

from candidate_gen import ALSGenerator
from eval.checks import at_least, at_most, machine, report, reported
from eval.hostile import MOST_RATIO, slowdown
from eval.liking import seconds_a_like
from reranker import Reranker, load_dataset

CLIENTS = 16
LIKES = 10
REAL = {"default": {}, "likelihood": {"scorer": "likelihood"}}  # bundles of the real model, and their settings
LENGTH = re.compile(rb"content-length: (\d+)")
LOOP_TIMES = ("at work", "kept from a processor")
PROGRAM = "from reranker.cli import main; main()"


def main(
    out: Annotated[Path, typer.Option(help="folder for serving.json")] = Path("out/serving"),
    requests: Annotated[int, typer.Option(min=CLIENTS, help="where the model reads no list")] = 800,
    real: Annotated[int, typer.Option(min=CLIENTS, help="where it reads every list, in each of the two ways")] = 32,
    candidates: Annotated[int, typer.Option(min=2, help="length of the lists")] = 50,
    hostile: Annotated[
        str | None, typer.Option(help="only polite clients beside a hostile one, on this engine")
    ] = None,
    hostile_reads: Annotated[
        bool, typer.Option("--hostile-reads", help="with --hostile: polite clients' lists are read by likelihood")
    ] = False,
) -> None:
    """Measures overhead and batching; prints and writes the checks."""
    work = out / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    if hostile is not None:
        _hostile(out, work, hostile, requests, candidates, reads=hostile_reads or hostile == "vllm")
        return
    bodies = _bundles(work, max(requests, real), candidates)
    with _server(work / "scripted", "scripted") as (url, process):
        asyncio.run(_ask(url, bodies[:CLIENTS], CLIENTS))
        before = _loop_times(process)
        rows = np.array(asyncio.run(_ask(url, bodies[:requests], CLIENTS))[1])
        loop = (_loop_times(process) - before) / requests
    overhead, worked = 1000 * rows[:, 0] - rows[:, 1] - rows[:, 2], rows[:, 2]
    with _server(work / "default", "torch") as (url, _):
        known, liking = _gain_of_company(url, bodies[:requests]), seconds_a_like(url, LIKES)
    with _server(work / "likelihood", "torch") as (url, _):
        read, liking_read = _gain_of_company(url, bodies[:real]), seconds_a_like(url, LIKES)
    likes = {"default scorer": liking, "likelihood": liking_read}
    checks = [
        at_most("overhead at 16 clients, p50", float(np.quantile(overhead, 0.5)), 5.0, "ms"),
        at_most("overhead at 16 clients, p99", float(np.quantile(overhead, 0.99)), 25.0, "ms"),
        reported("batch in the engine's thread, p50", float(np.median(worked)), "ms"),
        reported("latency at 16 clients, p50", float(1000 * np.median(rows[:, 0])), "ms"),
        *(
            reported(f"event loop, a request: {what}", float(ms), "ms")
            for what, ms in zip(LOOP_TIMES, loop, strict=False)
        ),
        at_least("real model: 16 at once over one by one", read, 2, "x"),
        reported("default scorer, no pass of the model: 16 at once over one by one", known, "x"),
        *(
            at_most(f"playground: slowest of {LIKES} likes, {name}", max(seconds), 2.0, "s")
            for name, seconds in likes.items()
            if seconds
        ),
    ]
    if not liking:
        typer.echo("the playground was not timed: pip install playwright, and a Chromium", err=True)
    environment = machine(("reranker", "fastapi", "uvicorn", "torch"), clients=CLIENTS, candidates=candidates)
    report(checks, out / "serving.json", environment, typer.echo)
    shutil.rmtree(work)


def _hostile(out: Path, work: Path, engine: str, requests: int, candidates: int, reads: bool) -> None:
    """Polite clients' p99 beside a hostile client over theirs alone."""
    name = "scripted" if engine == "scripted" else "likelihood" if reads else "default"
    bodies = _bundles(work, requests, candidates, (name,))
    with _server(work / name, engine) as (url, _):
        model = httpx.get(f"{url}/v1/models").json()["data"][0]["id"]
        alone, beside, made = asyncio.run(slowdown(url, bodies, model))
    checks = [
        reported("polite clients alone, p99", alone, "ms"),
        reported("polite clients beside a hostile one, p99", beside, "ms"),
        at_most("p99 beside a hostile client over alone", beside / alone, MOST_RATIO, "x"),
        *(reported(f"attacks: {what}", count, "") for what, count in made.items()),
    ]
    report(checks, out / "hostile.json", machine(("reranker", "uvicorn"), engine=engine), typer.echo)
    shutil.rmtree(work)


def _gain_of_company(url: str, bodies: list[dict[str, object]]) -> float:
    """How many times as many lists a second 16 clients get as one, from the real model."""
    asyncio.run(_ask(url, bodies, CLIENTS))
    halves = bodies[: len(bodies) // 2], bodies[len(bodies) // 2 :]
    seconds = [[asyncio.run(_ask(url, half, at_once))[0] for at_once in (1, CLIENTS)] for half in halves]
    one_by_one, together = map(sum, zip(*seconds, strict=True))
    return one_by_one / together


def _bundles(
    work: Path, requests: int, candidates: int, names: Sequence[str] = ("scripted", *REAL)
) -> list[dict[str, object]]:
    """Fitted bundles, scripted and real, and bodies of requests for different users."""
    data = load_dataset("ml-100k")
    generator = ALSGenerator().fit(data.interactions)
    # The scripted engine by the scorer that asks it for every list.
    known = {"scripted": {"engine": "scripted", "scorer": "likelihood"}, **REAL}
    for name, settings in ((name, known[name]) for name in names):
        reranker = Reranker.from_pretrained("default", fit_users=20, **settings).fit(data, generator)
        # Whatever the guard found on twenty lists: what is measured here is the order that costs most.
        reranker.fusion_model = replace(reranker.fusion_model, guard=reranker.fusion_model.guard.overruled("fused"))
        reranker.save(work / name)
    users = data.interactions["user_id"].unique().tolist()
    lists = generator.recommend(users, n=candidates)
    bodies = [
        {
            "user": str(user),
            "item_ids": part["item_id"].astype(str).tolist(),
            "first_stage_scores": part["score"].tolist(),
        }
        for user, part in lists.groupby("user_id", sort=False)
    ]
    return [bodies[number % len(bodies)] for number in range(requests)]


@contextmanager
def _server(bundle: Path, engine: str) -> Iterator[tuple[str, int]]:
    """URL and process id, once it is ready."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    limits = bundle.with_suffix(".yaml")
    limits.write_text("timeout_seconds: 1800\n")  # a slow machine is to be measured, not refused
    flags = ["--bundle", str(bundle), "--engine", engine, "--port", str(port), "--config", str(limits)]
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, "serve", *flags], stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        while process.poll() is None:
            try:
                answer = httpx.get(f"{url}/ready")
                if answer.status_code == 200:
                    break
                if (error := answer.json()["error"])["code"] == "not_loaded":
                    raise RuntimeError(error["message"])
            except httpx.TransportError:
                pass
            time.sleep(0.2)
        yield url, process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def _loop_times(process: int) -> NDArray[np.float64]:
    """(2,) milliseconds since it started that the server's first thread, the event loop, ran and was kept from running;
    (0,) where the system does not tell."""
    try:
        times = Path(f"/proc/{process}/task/{process}/schedstat").read_text()
    except OSError:
        return np.zeros(0)
    return np.array(times.split()[:2], dtype=np.float64) / 1e6


async def _ask(url: str, bodies: list[dict[str, Any]], clients: int) -> tuple[float, list[tuple[float, float, float]]]:
    """(seconds in all, a row a request: seconds waited by the client, ms in the queue, ms in the engine's thread)."""
    answers: list[tuple[float, int, bytes, bytes]] = []
    waiting = iter([(len(body["item_ids"]), json.dumps(body).encode()) for body in bodies])
    host, port = url.removeprefix("http://").split(":")

    async def client() -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        for items, body in waiting:
            started = time.perf_counter()
            head = f"POST /v1/rerank HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
            writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            length = LENGTH.search(answer)
            assert length is not None, answer
            content = await reader.readexactly(int(length[1]))
            answers.append((time.perf_counter() - started, items, answer, content))
        writer.close()
        await writer.wait_closed()

    started = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return time.perf_counter() - started, [(one[0], *_times(*one[1:])) for one in answers]


def _times(items: int, answer: bytes, content: bytes) -> tuple[float, float]:
    if b" 200 " not in answer or content.count(b'"index"') != items:
        raise RuntimeError(f"an answer is no permutation of its request: {content[:300]!r}")
    queue, engine = map(float, re.findall(rb"dur=([\d.]+)", answer))
    return queue, engine


if __name__ == "__main__":
    typer.run(main)
