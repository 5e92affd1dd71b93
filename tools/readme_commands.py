"""Runs what documents tell their reader to run: their ```bash and ```python blocks, in order, in one new directory.

Usage: python tools/readme_commands.py README.md [MORE.md ...] [--list]

A block right below a line `<!-- ci: skip -->` is left out. `bin/` of the running Python comes first on PATH. Exit code
1 when a block fails.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

TIMEOUT_SECONDS = 900
SKIP = "<!-- ci: skip -->"
FENCE = re.compile(r"^```(?P<language>bash|python)[^\n]*\n(?P<code>.*?)^```\s*$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Block:
    """One fenced block: its language, its text and the line its fence stands on (from 1)."""

    language: str
    code: str
    line: int


def find_blocks(text: str) -> list[Block]:
    """The blocks to run, in order."""
    blocks = []
    for match in FENCE.finditer(text):
        before = text[: match.start()]
        if before.rstrip().endswith(SKIP):
            continue
        blocks.append(Block(language=match["language"], code=match["code"], line=before.count("\n") + 1))
    return blocks


def run_block(block: Block, directory: Path) -> int:
    """Runs one block in `directory`; returns its exit code, 124 when it ran out of time."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    interpreter = ["bash", "-euo", "pipefail", "-c"] if block.language == "bash" else [sys.executable, "-c"]
    try:
        return subprocess.run(
            [*interpreter, block.code], cwd=directory, env=environment, timeout=TIMEOUT_SECONDS, check=False
        ).returncode
    except subprocess.TimeoutExpired:
        return 124


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("documents", type=Path, nargs="+", metavar="document")
    parser.add_argument("--list", action="store_true", help="print the blocks that would run, run nothing")
    arguments = parser.parse_args()

    blocks = [
        (document, block)
        for document in arguments.documents
        for block in find_blocks(document.read_text(encoding="utf-8"))
    ]
    if arguments.list:
        for document, block in blocks:
            print(f"{document}:{block.line} {block.language}")
        return 0
    with tempfile.TemporaryDirectory() as directory:
        for document, block in blocks:
            place = f"{document}:{block.line}"
            print(f"-- {place} ({block.language})", flush=True)
            begin = time.monotonic()
            code = run_block(block, Path(directory))
            if code != 0:
                print(f"{place} failed with exit code {code}:\n{block.code}", file=sys.stderr)
                return 1
            print(f"-- {place} done in {time.monotonic() - begin:.0f} s", flush=True)
    print(f"{len(blocks)} blocks ran")
    return 0


if __name__ == "__main__":
    sys.exit(main())
