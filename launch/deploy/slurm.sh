#!/usr/bin/env bash
# A pair on one node, for the length of a command:
#   sbatch launch/deploy/slurm.sh RECIPE COMMAND...
#   sbatch --gres=gpu:3 launch/deploy/slurm.sh qwen2.5-7b-qwq-32b \
#       a1 eval --recipe qwen2.5-7b-qwq-32b --data data/math500.jsonl --out runs/math500
# The command finds the pair as every `a1` command does. A job that runs out of time, or is put back in the queue, goes on
# with its run when it is submitted again: nothing that was computed is lost. Slurm warns five minutes before the end.
#SBATCH --job-name=a1
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=16
#SBATCH --gres=gpu:3
#SBATCH --time=08:00:00
#SBATCH --signal=B:TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=a1-%j.log
set -euo pipefail
if [ $# -lt 2 ]; then
  echo "slurm.sh: give a launch recipe and a command, such as: pocket a1 eval --out runs/a1" >&2
  exit 2
fi
recipe=$1
shift
state=${A1_STATE:-$PWD/.a1-${SLURM_JOB_ID:-local}}
export A1_STATE=$state
command=""
stop() {
  if [ -n "$command" ]; then
    kill -TERM "$command" 2>/dev/null || true
    wait "$command" 2>/dev/null || true
  fi
  a1 launch stop --state "$state"
}
trap 'exit 143' TERM INT
trap stop EXIT
a1 launch "$recipe" --state "$state" --detach
"$@" &  # in the background, so that the warning is heard while it runs
command=$!
wait "$command" && status=0 || status=$?
command=""
exit "$status"
