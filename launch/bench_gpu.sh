#!/usr/bin/env bash
# What A1 gains on one GPU, in published shapes and without weights: `a1 launch` puts both runtimes on the one device, then
# `a1 bench rho` and `a1 bench` with 1, 4, 16 and 64 chains a question, chunks of a fixed length and a gate that hands
# over exactly alpha. On a machine without a GPU the same script runs on the CPU engine, in the pocket pair's shapes.
#
#   bash launch/bench_gpu.sh [OUT]            # OUT: figures and logs, runs/gpu by default
#
# A pair that is launched in OUT already (`a1 launch ... --state OUT`) is measured, and left running.
#
# Settings, from the environment:
#   TARGET, DRAFT     shapes of launch/shapes.py  [qwen2.5-32b where 120 GiB of memory are there, else qwen2.5-14b; qwen2.5-7b]
#   FLAGS             SGLang's, of both servers  [--context-length 8192 --max-running-requests 256 on a GPU]
#   FIXED, ALPHA, CHAINS, TOKENS   lengths as TURNSxTOKENS, rate, numbers of chains, tokens written in a run by one arm
#   REPEATS, IN_FLIGHT, SECONDS_FOR_RHO   rounds, chains at once, and how long rho may take  [2; 64, or CHAINS if more; 90]
#   PYTHON            [python3]; SGLang and what the library needs must be importable, an installed a1-sgl need not be
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "${1:-runs/gpu}"
out=$(cd "${1:-runs/gpu}" && pwd)
PYTHON=$(command -v "${PYTHON:-python3}")
case $PYTHON in /*) ;; *) PYTHON=$PWD/$PYTHON ;; esac
cd "$out"  # python -m looks here first, and in the checkout a1_sgl is one room of several
if ! "$PYTHON" -c 'import a1_sgl.evals' 2>/dev/null; then  # not installed: the rooms, as installed, from this checkout
  mkdir -p "$out/rooms/a1_sgl"
  ln -sfn "$root"/a1_sgl/* "$root/programs" "$root/evals" "$root/launch" "$out/rooms/a1_sgl/"
  export PYTHONPATH="$out/rooms${PYTHONPATH:+:$PYTHONPATH}"
fi
missing=$("$PYTHON" - <<'PY'
import importlib.util
wanted = "sglang torch transformers numpy scipy sortedcontainers aiohttp orjson uvloop greenlet httpx tenacity pydantic psutil yaml jinja2 typer rich latex2sympy2_extended"
print(*(name for name in wanted.split() if importlib.util.find_spec(name) is None))
PY
)
if [ -n "$missing" ]; then echo "bench_gpu: not importable by $PYTHON: $missing; install them, or put them on PYTHONPATH" >&2; exit 2; fi

if command -v nvidia-smi >/dev/null; then
  card=$(nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader | head -1)
  gib=$(nvidia-smi --query-gpu=memory.total --format=csv,noheader,nounits | head -1 | awk '{print int($1 / 1024)}')
  TARGET=${TARGET:-$([ "$gib" -ge 120 ] && echo qwen2.5-32b || echo qwen2.5-14b)}
  DRAFT=${DRAFT:-qwen2.5-7b}
  FLAGS=${FLAGS---context-length 8192 --max-running-requests 256}
  FIXED=${FIXED:-8x128} TOKENS=${TOKENS:-65536}
else
  card="no GPU, $(nproc) CPUs, CPU engine"
  TARGET=${TARGET:-large} DRAFT=${DRAFT:-small} FLAGS=${FLAGS-}
  FIXED=${FIXED:-4x32} TOKENS=${TOKENS:-8192}
fi
ALPHA=${ALPHA:-0.25} CHAINS=${CHAINS-1 4 16 64}

export A1_STATE="$out"
a1() { "$PYTHON" -m a1_sgl.cli "$@"; }
whole() {  # whole CHAINS: a1_sync hands over a whole number of chains, and runs where alpha of them is one
  "$PYTHON" -c "n = $ALPHA * $1; print('--arm a1_sync' if round(n) >= 1 and abs(n - round(n)) < 1e-9 else '')"
}

if ! a1 launch status >/dev/null 2>&1; then
  for shape in "$TARGET" "$DRAFT"; do "$PYTHON" -m a1_sgl.launch.shapes "$shape" "$out/models/$shape"; done
  trap 'a1 launch stop' EXIT
  trap 'exit 130' INT TERM
  # shellcheck disable=SC2086
  a1 launch --target "$out/models/$TARGET" --draft "$out/models/$DRAFT" --detach -- --load-format dummy $FLAGS
fi

{
  echo "target $TARGET, draft $DRAFT, no weights; $card"
  "$PYTHON" -c 'from importlib.metadata import version; print("sglang", version("sglang"), "torch", version("torch"))'
  a1 bench rho --alpha "$ALPHA" --chunk "${FIXED#*x}" --seconds "${SECONDS_FOR_RHO:-90}"
  each=$((${FIXED%x*} * ${FIXED#*x}))
  for chains in $CHAINS; do
    questions=$(( TOKENS / each / chains )); [ "$questions" -ge 1 ] || questions=1
    echo; echo "== $chains chains a question"
    rm -rf "$out/bench-$chains"  # of another machine or other flags, maybe
    a1 bench --out "$out/bench-$chains" --fixed "$FIXED" --paced --alpha "$ALPHA" --questions "$questions" \
      --chains "$chains" --in-flight "${IN_FLIGHT:-$(( chains > 64 ? chains : 64 ))}" --repeats "${REPEATS:-2}" --quiet \
      --arm target --arm draft --arm a1 --arm a1_lookahead $(whole "$chains")
  done
} 2>&1 | tee "$out/log.txt"
"$PYTHON" - "$out" "$card" $CHAINS <<'PY' | tee "$out/table.md"
import json, pathlib, sys

out, card, *chains = sys.argv[1:]
print(f"| chains | in flight | target s | a1 s | x target | a1_lookahead | a1_sync | rho | limit | efficiency |\n|{'---|' * 10}")
for m in chains:
    found = json.loads((pathlib.Path(out) / f"bench-{m}" / "results.json").read_text())
    def wall(arm):
        walls = sorted(run["wall_s"] for run in found["runs"] if run["arm"] == arm)
        return walls[(len(walls) - 1) // 2] if walls else None
    def ratio(arm):
        return f"{found['speed_up'][arm]['mean']:.2f}" if arm in found["speed_up"] else "-"
    costs, limit = found["costs"], found["limits"].get("a1")
    print(f"| {m} | {found['settings']['in_flight']} | {wall('target'):.1f} | {wall('a1'):.1f} | {ratio('a1')} | "
          f"{ratio('a1_lookahead')} | {ratio('a1_sync')} | " + (f"{costs['verify'] / costs['target']:.3f} | " if costs else "- | ")
          + (f"{limit['speed_up']:.2f} | {limit['efficiency']:.2f} |" if limit else "- | - |"))
PY
