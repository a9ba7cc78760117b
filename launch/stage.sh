#!/usr/bin/env bash
# Copies a folder of shards to this node's disk, unless a whole copy exists. train.sbatch calls it on every node:
#   launch/stage.sh SHARDS STAGE/shardgan-UID/COPY
# STAGE may be open to other users, who could place files of a predictable name in it. So all copies are in one folder,
# which only this user can read and write.
set -euo pipefail
shards=$1 copy=$2 private=${2%/*}

mkdir -p "$(dirname "$private")"
umask 077
mkdir "$private" 2>/dev/null || true
if [ -L "$private" ] || ! [ -d "$private" ] || ! [ -O "$private" ] || (($(stat -c '0%a & 077' "$private"))); then
  echo "error: $private must be your own folder, closed to others (chmod 700), or not exist yet" >&2
  exit 2
fi
exec 9>"$copy.lock"
# Another job on this node may be copying the same shards.
flock 9 || echo "warning: $private has no file locks: start only one job at a time on this node" >&2
list() { # the sizes and names of what a training reads
  cd "$1" 2>/dev/null && find -L . -type f \( -name '*.tar' -o -name index.npy \) -printf '%s %p\n' | LC_ALL=C sort
}
# There is no copy, or a job that cleans disks removed files of it.
if ! cmp -s "$shards/manifest.json" "$copy/manifest.json" || [ "$(list "$shards")" != "$(list "$copy")" ]; then
  rm -rf "$copy.part"
  cp -rL "$shards" "$copy.part" || { rm -rf "$copy.part"; exit 1; }
  rm -rf "$copy"
  mv -T "$copy.part" "$copy" # makes the copy complete
fi
