"""tools/readme_commands.py: a document's blocks run in order, or the check fails."""

import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parent.parent / "tools" / "readme_commands.py"

DOCUMENT = """\
# Title
```bash
echo one > file
```

<!-- ci: skip -->
```bash
exit 3
```

```text
not run
```

```python
from pathlib import Path
print(Path("file").read_text() + "two")
```
"""


def run(document: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(TOOL), str(document), *arguments], capture_output=True, text=True)


@pytest.fixture
def document(tmp_path):
    path = tmp_path / "DOC.md"
    path.write_text(DOCUMENT)
    return path


def test_blocks_are_found_and_skipped(document):
    assert run(document, "--list").stdout.splitlines() == [f"{document}:2 bash", f"{document}:15 python"]


def test_blocks_share_one_directory_that_is_not_the_documents(document):
    result = run(document)
    assert result.returncode == 0
    assert "one\ntwo" in result.stdout
    assert "2 blocks ran" in result.stdout
    assert [file.name for file in document.parent.iterdir()] == ["DOC.md"]


@pytest.mark.parametrize("code", ["false\necho reached", "exit 5", "reranker-no-such-command"])
def test_a_failing_block_fails_the_check(tmp_path, code):
    path = tmp_path / "DOC.md"
    path.write_text(f"```bash\n{code}\n```\n```bash\necho later\n```\n")
    result = run(path)
    assert result.returncode == 1
    assert f"{path}:1 failed" in result.stderr
    assert "reached" not in result.stdout
    assert "later" not in result.stdout


def test_documents_share_the_directory_in_their_order(tmp_path):
    first, second = tmp_path / "A.md", tmp_path / "B.md"
    first.write_text("```bash\necho made by A > file\n```\n")
    second.write_text("```bash\ncat file\n```\n")
    result = subprocess.run([sys.executable, str(TOOL), str(first), str(second)], capture_output=True, text=True)
    assert result.returncode == 0
    assert "made by A" in result.stdout
    assert run(second).returncode == 1
