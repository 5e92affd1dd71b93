#!/usr/bin/env bash
# Builds the wheel, installs it with its core dependencies only (no torch, no vLLM) into a clean environment outside the
# checkout, and uses it there. Needs the .venv that `make test` makes.
set -euo pipefail
checkout="$(cd "$(dirname "$0")/.." && pwd)"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

# By way of a source distribution, so that files left in build/ cannot slip in.
"$checkout/.venv/bin/python" -m build --outdir "$work/dist" "$checkout" >"$work/build.log" 2>&1 || {
  tail -n 30 "$work/build.log" >&2
  exit 1
}
"$checkout/.venv/bin/python" -m venv "$work/venv"
"$work/venv/bin/python" -m pip --disable-pip-version-check install -qq "$work"/dist/*.whl
cd "$work"
"$work/venv/bin/python" -I "$checkout/tools/check_installed.py"
"$work/venv/bin/reranker" --help >/dev/null
echo "the wheel works outside the checkout"
