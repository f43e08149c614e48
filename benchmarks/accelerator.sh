#!/usr/bin/env bash
# What an accelerator is worth while it is at hand, the most first: the tests of torch and of jax,
# then the benchmarks of jax and of torch, in float32 and in bfloat16.
#
#     benchmarks/accelerator.sh DIR
#
# A run ends after eight minutes (or SECONDS_AT_HAND). The next goes on where it stopped: DIR keeps
# the log and the exit status of each piece, and the results. It installs nothing.
set -uo pipefail
out=$(realpath -m "$1")
cd "$(dirname "$0")/.." && mkdir -p "$out"
export KERAS_UNPATCHIFY_DEVICE=${DEVICE:-gpu} PYTHONPATH=$PWD TF_CPP_MIN_LOG_LEVEL=3
end=$((SECONDS + ${SECONDS_AT_HAND:-480}))

piece() {  # NAME COMMAND...
    local name=$1 left=$((end - SECONDS)) status
    shift
    [ -e "$out/$name.status" ] && return
    [ "$left" -gt 0 ] || exit 0
    echo "$name: $left s left"
    timeout "$left" "$@" >"$out/$name.log" 2>&1
    status=$?
    [ "$status" -eq 124 ] || echo "$status" >"$out/$name.status"
}

for backend in torch jax; do
    export KERAS_BACKEND=$backend
    for file in tests/test_*.py; do
        piece "$backend-$(basename "$file" .py)" python -m pytest -q "$file"
    done
done
for dtype in float32 mixed_bfloat16; do
    for backend in jax torch; do
        export KERAS_BACKEND=$backend
        piece "bench-$backend-$dtype" python benchmarks/bench.py --out "$out" --dtype "$dtype" \
            --batch 16 --rounds 5 --speed-only --resume
    done
done
echo "All pieces have run."
