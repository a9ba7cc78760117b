#!/usr/bin/env bash
# Trains on one machine without SLURM: one rank per GPU, or RANKS ranks (default 1) on the CPU. Takes the trainer's flags:
#   launch/single_node.sh celeba --data.shards data/celeba64 --out runs/celeba
#   RANKS=2 launch/single_node.sh mnist
set -euo pipefail

die() { echo "error: $*" >&2; exit 2; }
: "${LAUNCH:=.venv/bin/accelerate launch -q --config_file accelerate_config.yaml}"
visible() { if [ "${CUDA_VISIBLE_DEVICES+set}" ]; then tr ',' '\n' <<<"$CUDA_VISIBLE_DEVICES"; else nvidia-smi -L; fi; }
: "${GPUS:=$({ visible 2>/dev/null || true; } | grep -c '[0-9]' || true)}"
: "${RANKS:=$((GPUS > 0 ? GPUS : 1))}"
[ -f trainer/run.py ] || die "start this script in the root of the repository, not in $PWD"
command -v "${LAUNCH%% *}" >/dev/null || die "${LAUNCH%% *} does not exist: run uv sync, or set LAUNCH"
[[ $GPUS =~ ^[0-9]+$ ]] || die "GPUS is '$GPUS'; it must be a number"
[[ $RANKS =~ ^[1-9][0-9]*$ ]] || die "RANKS is '$RANKS'; it must be a number of ranks"

flags=(--num_processes "$RANKS")
# Port 0 selects a free port. --multi_gpu also starts CPU ranks; with --cpu accelerate silently starts one rank.
[ "$RANKS" = 1 ] || flags+=(--multi_gpu --main_process_port 0)
[ "$GPUS" != 0 ] || export ACCELERATE_USE_CPU=true
# shellcheck disable=SC2086  # LAUNCH holds several words
exec $LAUNCH "${flags[@]}" trainer/run.py "$@"
