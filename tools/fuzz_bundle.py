"""Loads thousands of damaged and hostile bundles: `python -m tools.fuzz_bundle [--cases 10000] [--seed 0]`.

Every file of two small bundles is changed (`bundle_mutations`), most of the time with the hashes and the checksum set
right again, as an attacker would. A case passes where loading raises BundleError, or the bundle loads and ranks a list
to a permutation with finite scores (or an error of the product). Prints each case that fails, then PASS or FAIL for
outcomes, time and memory; exit code 1 where one fails. A case is told by its number and the seed.
"""

import argparse
import hashlib
import logging
import resource
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pandas as pd
import yaml

from candidate_gen import ALSGenerator
from reranker import BundleError, Dataset, Reranker
from reranker.errors import RerankerError
from reranker.pipeline.manifest import seal
from reranker.soft_tokens import CONTEXT_FILE, ContextMap
from tools.bundle_mutations import mutated

MOST_SECONDS, MOST_BYTES = 2.0, 500 << 20
_MANIFEST = "bundle.yaml"
_SHOWN = 50
_TOGETHER = 100
_MOST_ADDRESSES = 8 << 30


@dataclass
class Outcome:
    """What the cases came to.

    Attributes:
        counts: word -> cases.
        failures: a line each.
        seconds: of the processor, the dearest case.
        grown: bytes that the process's peak grew by.
    """

    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0
    grown: int = 0

    def add(self, other: "Outcome") -> None:
        """Takes in what other cases came to."""
        self.counts += other.counts
        self.failures += other.failures
        self.seconds, self.grown = max(self.seconds, other.seconds), max(self.grown, other.grown)


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="the number of one case, whose error is then raised")
    given = parser.parse_args()
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="fuzz-bundle-") as folder:
        bundles = whole_bundles(Path(folder))
        if given.only is not None:
            print(run_case(bundles, given.seed, given.only, raises=True))
            return 0
        outcome = fuzz(bundles, range(given.cases), given.seed, apart=True)
    for line in outcome.failures[:_SHOWN]:
        print(line)
    print(", ".join(f"{word}: {count}" for word, count in sorted(outcome.counts.items())))
    lines = {
        f"{len(outcome.failures)} of {given.cases} cases ended otherwise than refused or ranked": not outcome.failures,
        f"dearest case {outcome.seconds:.2f} s of the processor (at most {MOST_SECONDS:g})": outcome.seconds
        <= MOST_SECONDS,
        f"peak memory grew by {outcome.grown >> 20} MiB (at most {MOST_BYTES >> 20})": outcome.grown <= MOST_BYTES,
    }
    for line, passed in lines.items():
        print("PASS " if passed else "FAIL ", line)
    return 0 if all(lines.values()) else 1


def whole_bundles(work: Path) -> list[Path]:
    """Two bundles that together have every kind of file."""
    rng = np.random.default_rng(0)
    rows = [
        {"user_id": f"u{user}", "item_id": f"i{item}", "timestamp": 100 * user + step}
        for user in range(24)
        for step, item in enumerate(rng.choice(12, 5, replace=False))
    ]
    items = pd.DataFrame(
        {"item_id": [f"i{n}" for n in range(12)], "title": [f"title {n}" for n in range(12)], "category": "a|b"}
    )
    data = Dataset(interactions=pd.DataFrame(rows), items=items, domain="toy")
    generator = ALSGenerator(factors=4).fit(data.interactions)
    made = []
    for scoring in ("embedding", "likelihood"):
        settings = {"engine": "scripted", "n_candidates": 8, "fit_users": None, "soft_tokens": 2, "scorer": scoring}
        reranker = Reranker.from_pretrained("default", **settings).fit(data, generator)
        reranker.save(work / scoring)
        made.append(work / scoring)
    dim = reranker.llm_scorer.model.dim
    ContextMap.initial(np.ones(dim, dtype=np.float32), 2, 3).save(made[1] / CONTEXT_FILE)
    sign(made[1])
    return made


def sign(bundle: Path) -> None:
    """Sets the hashes of all files and the checksum right."""
    manifest = yaml.safe_load((bundle / _MANIFEST).read_text())
    manifest["files"] = {
        path.relative_to(bundle).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(bundle.rglob("*"))
        if path.is_file() and path.name != _MANIFEST
    }
    (bundle / _MANIFEST).write_text(yaml.safe_dump(seal(manifest)))


def fuzz(bundles: list[Path], cases: range, seed: int, apart: bool = False) -> Outcome:
    """Runs cases; a case changes copies only.

    Args:
        bundles: of `whole_bundles`.
        cases: numbers.
        seed: the same seed and number are the same case.
        apart: in processes of their own, so that a case that kills its process is told, too.
    """
    if not apart:
        return _run(bundles, cases, seed)
    outcome = Outcome()
    for begin in range(cases.start, cases.stop, _TOGETHER):
        some = range(begin, min(begin + _TOGETHER, cases.stop))
        try:
            outcome.add(_run_apart(bundles, some, seed))
        except BrokenProcessPool:
            for number in some:
                try:
                    outcome.add(_run_apart(bundles, range(number, number + 1), seed))
                except BrokenProcessPool:
                    outcome.counts["failed"] += 1
                    outcome.failures.append(f"case {number}: its process died")
        print(f"{some.stop} cases, {len(outcome.failures)} failed", file=sys.stderr, flush=True)
    return outcome


def _run_apart(bundles: list[Path], cases: range, seed: int) -> Outcome:
    with ProcessPoolExecutor(1, mp_context=get_context("fork"), initializer=_bounded) as pool:
        return pool.submit(_run, bundles, cases, seed).result()


def _bounded() -> None:
    """Others use this machine, too."""
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_ADDRESSES, _MOST_ADDRESSES))


def _run(bundles: list[Path], cases: range, seed: int) -> Outcome:
    outcome = Outcome()
    for bundle in bundles:
        ranked(bundle)  # what is loaded once is no case's
    before = _peak()
    for number in cases:
        begun = time.process_time()
        try:
            word = run_case(bundles, seed, number)
        except Exception as error:
            word = "failed"
            outcome.failures.append(f"case {number}: {type(error).__name__}: {str(error)[:200]}")
        outcome.seconds = max(outcome.seconds, time.process_time() - begun)
        outcome.counts[word] += 1
    outcome.grown = _peak() - before
    return outcome


def run_case(bundles: list[Path], seed: int, number: int, raises: bool = False) -> str:
    """How it ended: "refused", "ranked" or "refused at ranking".

    Raises:
        Exception: whatever else came out.
    """
    random = Random(f"{seed} {number}")
    with tempfile.TemporaryDirectory(prefix="fuzz-case-") as folder:
        bundle = Path(folder) / "bundle"
        shutil.copytree(random.choice(bundles), bundle)
        for _ in range(random.choice([1, 1, 1, 2])):
            _change(bundle, random)
        try:
            with warnings.catch_warnings(action="ignore"):
                return ranked(bundle)
        except BundleError:
            return "refused"


def ranked(bundle: Path) -> str:
    """Loads and ranks; whatever is served has to be sound.

    Raises:
        AssertionError: it is not.
        Exception: of loading.
    """
    reranker = Reranker.load(bundle, engine="scripted")
    asked = pd.DataFrame({"user_id": "u1", "item_id": [f"i{n}" for n in range(9)], "score": np.arange(9.0)})
    orders: list[Any] = ["fused", "baseline", None]
    try:
        for order in orders:
            found = reranker.rerank(asked, order=order).to_frame()
            assert sorted(found["item_id"]) == sorted(asked["item_id"]), "no permutation"
            assert np.isfinite(found["score"]).all(), f"scores of {order} that are not finite"
    except RerankerError:
        return "refused at ranking"
    return "ranked"


def _change(bundle: Path, random: Random) -> None:
    """Changes a file, or which there are."""
    names = sorted(path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file())
    name = random.choice(names)
    path = bundle / name
    what = random.random()
    if what < 0.03:
        path.unlink()
        if random.random() < 0.5:
            path.symlink_to(random.choice(["/dev/zero", "/etc/hostname", str(bundle), "nowhere"]))
    elif what < 0.05:
        path.unlink()
        path.mkdir()
    elif what < 0.07:
        (bundle / random.choice(["prompts", "generator", "."]) / random.choice(["x.json", "x.npz", "a b"])).write_bytes(
            b"x"
        )
    elif what < 0.1:
        path.write_bytes((bundle / random.choice(names)).read_bytes())
    else:
        try:
            path.write_bytes(mutated(name, path.read_bytes(), random))
        except Exception:  # a file that was changed before is not of its kind any more
            path.write_bytes(random.randbytes(64))
    if (random.random() < 0.85 or name == _MANIFEST) and (bundle / _MANIFEST).is_file():
        try:
            sign(bundle)
        except Exception:  # a manifest that cannot be signed stays as it is
            return


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    sys.exit(main())
