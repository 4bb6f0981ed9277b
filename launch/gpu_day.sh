#!/usr/bin/env bash
# All that a GPU should show of this project, in parts of at most nine minutes.
#
#   launch/gpu_day.sh [--out=DIR] [--wheels=DIR] [--platform=cpu] [--quick] [PART …]
#
# Parts: smoke numerics resume decode static train quality trace; without names all of
# them run. Each writes DIR/PART.json; a part that has done so is not run again. The
# table of all parts is printed last and written to DIR/README.md. Without a network
# --wheels names a folder of wheels (docs/machines.md) and a fresh .venv is made of it.
set -uo pipefail

out=results/gpu wheels="" platform="" quick="" parts=()
for word in "$@"; do
  case $word in
    --out=*) out=${word#*=} ;;
    --wheels=*) wheels=${word#*=} ;;
    --platform=*) platform=$word ;;
    --quick) quick=--quick ;;
    -*) echo "gpu_day.sh: no option ${word%%=*}; see the head of the file" >&2; exit 2 ;;
    *) parts+=("$word") ;;
  esac
done
python=${PYTHON:-.venv/bin/python}
if [[ -n $wheels ]]; then
  python3 -m venv --system-site-packages .venv &&
    .venv/bin/pip install -q --no-index --find-links="$wheels" lightlm_jax || exit 1
fi
day() { "$python" launch/gpu_day.py --out="$out" ${platform:+"$platform"} $quick "$@"; }

mkdir -p "$out" || exit 1
if ((!${#parts[@]})); then
  read -ra parts <<< "$(day --list)" || exit 1
fi
failed=0
for part in "${parts[@]}"; do
  if [[ -f $out/$part.json ]]; then
    continue
  fi
  echo "== $part"
  # A part that hangs must not take the others' time; the next call goes on from what it saved.
  timeout -k 10 540 "$python" launch/gpu_day.py --out="$out" ${platform:+"$platform"} \
    $quick "$part" > "$out/$part.log" 2>&1 || {
    failed=1
    echo "== $part failed: $(tail -n 1 "$out/$part.log")"
  }
done
day --table
exit "$failed"
