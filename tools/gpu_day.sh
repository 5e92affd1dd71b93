#!/usr/bin/env bash
# Everything that is to be measured on a GPU, with no thinking while the clock runs; one JSON file at the end.
#   tools/gpu_day.sh [OUT]             the environment, then all steps; give it again to go on after a cut
#   tools/gpu_day.sh --dry-run [OUT]   the same steps in miniature on a CPU: does the script itself run?
#   tools/gpu_day.sh --plan            the commands and their limits
#   tools/gpu_day.sh --check           could each of them begin? In a minute, without a GPU; with --dry-run of those
# PYTHON=... takes an environment that is there, in place of `make EXTRA=gpu`.
set -euo pipefail
cd "$(dirname "$0")/.."
extra=gpu; arguments=()
while [ $# -gt 0 ]; do
  case "$1" in
    --dry-run) extra=cpu; arguments+=(--dry-run) ;;
    --plan | --check) arguments+=("$1") ;;
    -*) echo "gpu_day.sh: no option $1; there are --dry-run, --plan and --check" >&2; exit 2 ;;
    *) arguments+=(--out "$1") ;;
  esac
  shift
done
if [ -z "${PYTHON:-}" ]; then
  make EXTRA=$extra ".venv/.stamp-$extra"
  PYTHON=.venv/bin/python
fi
export OPENBLAS_NUM_THREADS=1 PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
if command -v nvidia-smi >/dev/null; then nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader; fi
exec "$PYTHON" -m eval.speed.gpu_day "${arguments[@]}"
