"""How fast, and how close to what the machine can do: `python -m eval.speed.run [--quick] [--gpu] --out DIR`.

Each engine runs in a process of its own; they take turns, and before and after each turn a plain matrix product of the
model's own shape is timed. The floor of a load is the least work it can take (`speed_load.Work`) at that rate: 1.0 is a
program that does nothing but the necessary matrix products, with nothing for attention. Ratios are taken within a
round and their medians reported. Where other programs are running, the fraction in processor time is the steadier one:
it counts the seconds of processor cores, of the engine's processes and of the matrix product. Writes DIR/speed.json,
DIR/speed.csv and DIR/speed.svg, and exits 0 when it ran, whatever passed.

Every turn goes to DIR/turns.jsonl as it ends. A run that was cut off, or that --minutes ended, goes on from there when
the same command is given again.

Reading a catalogue (`eval.speed.catalogue`) and how `fit` grows (`eval.scale`) are part of it, as ratios; the goals of
large catalogues are those two programs' own.
"""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer
from scipy.stats import kendalltau

from eval.checks import Check, at_least, at_most, machine, report, reported
from eval.scale import growth_checks
from eval.speed.catalogue import catalogue_checks
from eval.speed.load import LABELS, LIKELIHOOD, LISTWISE, PREFILL, Load
from eval.speed.machine import Engines, Machine
from eval.speed.plot import plot
from eval.speed.turns import FairLock
from eval.speed.worker import ADAPT, COMPILED

SYSTEMS = {
    "naive transformers": ("naive", LIKELIHOOD),
    "torch likelihood": ("torch", LIKELIHOOD),
    "torch compiled": (COMPILED, LIKELIHOOD),
    "vllm likelihood": ("vllm", LIKELIHOOD),
    "vllm labels": ("vllm", LABELS),
    "vllm listwise": ("vllm", LISTWISE),
    "vllm plain prefill": ("vllm", PREFILL),
}
COMPILERS = ("g++", "clang++", "c++")
SWEPT = ("torch likelihood", "vllm likelihood")
AXES = {
    "candidates": (10, 50, 100, 200),
    "history": (5, 20, 50, 200),
    "users": (1, 4, 16, 64, 256),
    "soft": (0, 8, 32),
}
QUICK_AXES = {"candidates": (10, 50, 100, 200), "history": (5, 40)}
SWEPT_USERS = 4  # lists a point of an axis other than users: their shape is what is varied
DEFAULT = "default"
LONG = "candidates, long history"  # whether the history is paid once
LONG_CANDIDATES = (10, 50)
SLOPE_BOUND = 1.1
ONCE_BOUND = 2.0  # 1.2 by the floor; 5 if each candidate paid for the history
TAU_BOUND, NATS_BOUND = 0.8, 1e-3


def main(
    out: Annotated[Path, typer.Option(help="folder for the results")] = Path("out/speed"),
    quick: Annotated[bool, typer.Option("--quick", help="fewer users, rounds and points; minutes")] = False,
    gpu: Annotated[bool, typer.Option("--gpu", help="vLLM on CUDA, made-up weights of Llama 1B and 8B")] = False,
    tiny: Annotated[bool, typer.Option("--tiny", help="with --gpu: one tiny shape on any machine, to try it")] = False,
    users: Annotated[int, typer.Option(min=0, help="lists a turn; 0: 64, and 2 with --quick")] = 0,
    rounds: Annotated[int, typer.Option(min=0, help="0: 3, and 2 with --quick")] = 0,
    adapt: Annotated[int, typer.Option(min=0, help="measure only what adapting so many users costs")] = 0,
    minutes: Annotated[float, typer.Option(min=0, help="stop after the turn that reaches this; 0: never")] = 0,
) -> None:
    """Measures, prints the table and PASS or FAIL of each target, writes the results."""
    out.mkdir(parents=True, exist_ok=True)
    if gpu:
        from eval.speed.gpu import measure

        checks = measure(out, users or 256, rounds or 3, tiny)
        report(checks, out / "speed.json", _environment(), typer.echo)
        return
    if adapt:
        report(adaptation_cost(adapt), out / "speed.json", _environment(), typer.echo)
        return
    load = Load(users=users or (2 if quick else 64))
    rounds = rounds or (2 if quick else 3)
    turns = FairLock(out / "turns.jsonl", seconds=60 * minutes)
    systems = _systems()
    with Engines(tuple(dict.fromkeys(engine for engine, _ in systems.values()))) as engines:
        gauge = Machine(engines.model)
        planned = _planned(list(systems), load, rounds, quick)
        rows = [turns.take(one.key, partial(_timed, engines, gauge, one)) for one in planned]
        few = 8 if quick else 200
        adapted = turns.take(f"adapt {few}", partial(_adaptation, engines, few))
        agreed = turns.take("agreement", partial(_agreement, engines, 2 if quick else 16))
        more: dict[str, object] = {"dtype": engines.dtype, "gemm": gauge.summary()}
    read = catalogue_checks() if quick else catalogue_checks(rounds=4, texts=200)
    read += growth_checks(out / "scale")
    table = pd.DataFrame(rows)
    table.to_csv(out / "speed.csv", index=False)
    _print_table(table, load)
    checks = [*ratios(table), *slopes(table), *paid_once(table), *_adapted(adapted), *_agreed(agreed), *read]
    plot(table, out / "speed.svg")
    more |= {"load": load.to_json(), "rounds": rounds}
    report(checks, out / "speed.json", _environment(**more), typer.echo)
    turns.forget()


def adaptation_cost(users: int) -> list[Check]:
    """What adapting so many users costs beside bare forward and backward passes of the same tokens."""
    with Engines(("naive",)) as engines:
        return _adapted(_adaptation(engines, users))


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One system and what it is given; `axis` and `number` say what for, and in which round."""

    system: str
    load: Load
    axis: str
    number: int

    @property
    def key(self) -> str:
        return f"{self.axis} {self.number} {self.system} {self.load.to_json()}"


def _systems() -> dict[str, tuple[str, str]]:
    """Those that can run here: compiling for a CPU takes a C++ compiler."""
    if any(map(shutil.which, COMPILERS)):
        return SYSTEMS
    typer.echo(f"no compiled torch: none of {', '.join(COMPILERS)} is here", err=True)
    return {name: one for name, one in SYSTEMS.items() if one[0] != COMPILED}


def _planned(systems: Sequence[str], load: Load, rounds: int, quick: bool) -> Iterator[Turn]:
    """Systems take turns. Each has users of its own, and each axis, too: they would find others' prefixes cached."""
    for number in range(rounds):
        for place, name in enumerate(systems):
            mine = replace(load, seed=number * len(systems) + place)
            yield Turn(system=name, load=mine, axis=DEFAULT, number=number)
    small = replace(load, users=min(load.users, SWEPT_USERS))
    for place, (axis, values) in enumerate((QUICK_AXES if quick else AXES).items()):
        for number in range(1 if quick or axis == "users" else 3):
            for value in values:
                shape = replace(small, **{axis: value}, seed=100 + 10 * place + number)
                yield from (Turn(system=name, load=shape, axis=axis, number=number) for name in SWEPT)
    for number in range(1 if quick else 3):
        for value in LONG_CANDIDATES:
            shape = replace(small, history=40 if quick else 100, candidates=value, seed=200 + number)
            yield from (Turn(system=name, load=shape, axis=LONG, number=number) for name in SWEPT)


def _timed(engines: Engines, gauge: Machine, turn: Turn) -> dict[str, Any]:
    """One timing, with the floor of its load at the rate around it."""
    engine, readout = SYSTEMS[turn.system]
    load = turn.load
    before = gauge.rate()
    answer = engines.time(engine, readout, load)
    after = gauge.rate()
    rate, processor = (before.wall + after.wall) / 2, (before.processor + after.processor) / 2
    flops, seconds = gauge.flops(answer), answer["seconds"]
    cores = answer["processor_seconds"]
    fractions = flops / rate / seconds, flops / processor / cores
    said = f"{seconds:.1f} s, {cores:.1f} processor s; of the floor {fractions[0]:.2f}, {fractions[1]:.2f}"
    typer.echo(f"{turn.key}: {said}", err=True)
    return {
        "axis": turn.axis,
        "round": turn.number,
        "system": turn.system,
        **load.to_json(),
        "tokens_per_user": answer["tokens"] / load.users,
        "reads_per_user": answer["reads"] / load.users,
        "seconds_per_user": seconds / load.users,
        "users_per_second": load.users / seconds,
        "fraction": fractions[0],
        "fraction_processor": fractions[1],
        "floor_flops": flops / load.users,
        "gemm_flops": rate,
    }


def ratios(table: pd.DataFrame) -> list[Check]:
    """The systems against each other and the floor, on the default load."""
    default = table[table["axis"] == DEFAULT]
    cost = default.pivot(index="round", columns="system", values="seconds_per_user")
    fraction = default.groupby("system")["fraction"].median()
    processor = default.groupby("system")["fraction_processor"].median()
    naive, likelihood, prefill = (
        cost[name] for name in ("naive transformers", "vllm likelihood", "vllm plain prefill")
    )
    checks = [
        at_most("vllm likelihood, time over vllm labels", median(likelihood / cost["vllm labels"]), 1.3, "x"),
        at_least("vllm likelihood, fraction of floor", fraction["vllm likelihood"], 0.55, ""),
        at_least("vllm likelihood over naive", median(naive / likelihood), 8, "x"),
        at_least("torch likelihood, fraction of floor", fraction["torch likelihood"], 0.5, ""),
        reported("vllm likelihood, fraction of floor in processor time", processor["vllm likelihood"], ""),
        reported("torch likelihood, fraction of floor in processor time", processor["torch likelihood"], ""),
        reported("torch likelihood over naive", median(naive / cost["torch likelihood"]), "x"),
        reported(
            "vllm likelihood, time over plain prefill of its tokens",
            median(likelihood / prefill),
            "x",
        ),
    ]
    if "torch compiled" in cost:
        ratio = median(cost["torch compiled"] / cost["torch likelihood"])
        checks.append(reported("torch compiled, time over torch likelihood", ratio, "x"))
    return checks


def slopes(table: pd.DataFrame) -> list[Check]:
    """The slope of a user's cost along an axis against the floor's.

    Lines are fitted to the cost, in multiples of what the same matrix product took at the moment, and to the floor,
    each in multiples of its mean over the axis: 1.0 is a cost that is proportional to the floor. Along the history it
    is told only, for attention, which is not in the floor, grows with the square of it.
    """
    return [
        *(at_most(name, slope, SLOPE_BOUND, "x floor's") for name, slope in _slopes(table, "candidates")),
        *(reported(name, slope, "x floor's") for name, slope in _slopes(table, "history")),
    ]


def _slopes(table: pd.DataFrame, axis: str) -> Iterator[tuple[str, float]]:
    """Per system: what was measured, and the slope."""
    for system in SWEPT:
        one = table[(table["axis"] == axis) & (table["system"] == system)]
        floor = one.groupby(axis)["floor_flops"].median()
        cost = floor / one.groupby(axis)["fraction"].median()
        name = f"{system}, slope along {axis} {cost.index[0]}-{cost.index[-1]}"
        yield name, _relative_slope(cost) / _relative_slope(floor)


def paid_once(table: pd.DataFrame) -> list[Check]:
    """What the longest list behind a long history costs over the shortest: as many times as it is long if each
    candidate paid for the history."""
    checks = []
    for system in SWEPT:
        one = table[(table["axis"] == LONG) & (table["system"] == system)]
        seconds = one.pivot(index="round", columns="candidates", values="seconds_per_user")
        few, many = LONG_CANDIDATES
        name = f"{system}, time of {many} over {few} candidates behind {one['history'].iloc[0]} items"
        checks.append(at_most(name, median(seconds[many] / seconds[few]), ONCE_BOUND, "x"))
    return checks


def _relative_slope(values: "pd.Series[float]") -> float:
    """Of the line through values over their index, in multiples of their mean."""
    return float(np.polyfit(values.index.to_numpy(dtype=float), values.to_numpy(), 1)[0] / values.mean())


def _adaptation(engines: Engines, users: int) -> dict[str, Any]:
    job = {"readout": ADAPT, "users": users, "interactions": 10, "steps": 2, "seed": 0}
    return engines.ask("naive", job) | {"users": users, "dtype": engines.dtype}


def _adapted(answer: dict[str, Any]) -> list[Check]:
    name = f"adapting {answer['users']} users with 10 interactions, {answer['dtype']}, time over bare passes"
    ratio, rate = answer["seconds"] / answer["bare"], answer["users"] / answer["seconds"]
    return [at_most(name, ratio, 1.3, "x"), reported("adapting, two steps", rate, "users/s")]


def _agreement(engines: Engines, users: int) -> dict[str, Any]:
    """Scores of the engines on one load, and of the two precisions of the torch engine, against each other."""
    load = Load(users=users, seed=1000)
    job = {"readout": LIKELIHOOD, "load": load.to_json()}
    torch_scores, vllm_scores = (engines.ask(name, job)["scores"] for name in ("torch", "vllm"))
    gap = float(np.abs(np.concatenate(torch_scores) - np.concatenate(vllm_scores)).max())
    other = "bfloat16" if engines.dtype == "float32" else "float32"
    pairs = zip(torch_scores, engines.ask_at(other, job)["scores"], strict=True)
    tau = float(np.mean([kendalltau(ours, theirs).statistic for ours, theirs in pairs]))
    return {"dtype": engines.dtype, "gap": gap, "tau": tau}


def _agreed(answer: dict[str, Any]) -> list[Check]:
    name = f"torch and vllm in {answer['dtype']}, max |Δ| sum of title log p"
    gap = answer["gap"]
    return [
        at_most(name, gap, NATS_BOUND, "nats") if answer["dtype"] == "float32" else reported(name, gap, "nats"),
        at_least("bfloat16 ranking against float32, Kendall tau", answer["tau"], TAU_BOUND, ""),
    ]


def _print_table(table: pd.DataFrame, load: Load) -> None:
    typer.echo(
        f"{load.users} users x {load.candidates} candidates, {load.history} items of history, {load.soft} soft tokens"
    )
    columns = ["users_per_second", "fraction", "fraction_processor", "tokens_per_user", "reads_per_user"]
    default = table[table["axis"] == DEFAULT].groupby("system")[columns].median()
    typer.echo(default.loc[[name for name in SYSTEMS if name in default.index]].round(3).to_string())
    for axis in (*AXES, LONG):
        swept = table[table["axis"] == axis]
        if len(swept):
            varied = "candidates" if axis == LONG else axis
            typer.echo(f"along {axis}, fraction of floor")
            typer.echo(swept.pivot_table("fraction", varied, "system", aggfunc="median").round(3).to_string())


def _environment(**more: object) -> dict[str, object]:
    return machine(("reranker", "torch", "transformers"), **more)


if __name__ == "__main__":
    typer.run(main)
