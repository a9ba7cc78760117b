#!/usr/bin/env bash
# End-to-end test of about a minute: build drawn faces, train on two CPU ranks, resume on one, check the run folder.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

uv run python -m shards build faces "$work/shards" --count 256 --size 32
flags=(--data.shards "$work/shards" --out "$work/run" --batch-size 16 --checkpoint.every 10 --log-every 5 --evaluate.samples 100)
ACCELERATE_USE_CPU=true uv run accelerate launch --multi_gpu --num_processes 2 --main_process_port 0 \
  trainer/run.py "${flags[@]}" --steps 10
uv run accelerate launch --config_file accelerate_config.yaml trainer/run.py "${flags[@]}" --steps 20

grep -q '"state": "done", "step": 20, "position": 320' "$work/run/status.json"
[ "$(wc -l < "$work/run/metrics.jsonl")" = 6 ] # four reports, two evaluations
grep -q '"checkpoint": "step-000000020".*"swd-32"' "$work/run/scores.jsonl"
[ -s "$work/run/samples/step-000000020.png" ]
echo "smoke: trained on two ranks, resumed on one, wrote samples and scores"
