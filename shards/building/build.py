"""Raw images to shards: in parallel, byte-identical for any number of workers, and resumable.

Shards come first, each with a hidden record beside it; ``index.npy`` and ``manifest.json`` come last. A folder with a
manifest is whole, one without can be finished by the same call.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from shards.building.dedup import HASHES, leave_out_duplicates
from shards.building.options import Options
from shards.building.recipe import Recipe, differences
from shards.building.record import load_record
from shards.building.worker import explain
from shards.building.worker_pool import run_crew
from shards.common.cores import available_cores
from shards.common.errors import InputError
from shards.common.files import atomic_write
from shards.common.progress import Progress
from shards.format.manifest import INDEX, MANIFEST, Manifest, read_manifest, write_manifest
from shards.sources.item import Source

DUPLICATES = "duplicates"
"""Among the manifest's build options: how many were left out, when that was asked for."""
NOTES = ".build.json"
LOCK = ".build.lock"
DEFAULTS = Options()


def build(source: Source, out: Path, options: Options = DEFAULTS, workers: int | None = None) -> Manifest:
    """Build ``source`` into the folder ``out`` with ``workers`` processes (None: one per core), or finish that.

    The class of ``source`` must be importable by name. When ``out`` is finished already this only reads its manifest;
    when another process is building there, it waits for that one first.

    Raises:
        InputError: the source, an image, ``out`` or an option is not usable; ``out`` was built with other options; a
            worker was killed. Whatever was finished stays, and the same call goes on from there.
    """
    if workers is not None and workers < 1:
        raise InputError(f"--workers is {workers}; it must be at least 1.")
    try:
        recipe = Recipe(source, out, options, len(source))
        if (out / MANIFEST).exists():
            return _finished(recipe)
        _refuse_foreign(out)
        out.mkdir(parents=True, exist_ok=True)
        with _claim(out):
            if (out / MANIFEST).exists():
                manifest = _finished(recipe)
                _tidy(out)  # whoever published may have been killed before
                return manifest
            return _run(recipe, workers or available_cores())
    except OSError as error:
        raise explain(error, out) from error


def _finished(recipe: Recipe) -> Manifest:
    manifest = read_manifest(recipe.out)
    found = {name: value for name, value in manifest.build.items() if name != DUPLICATES}
    wanted = json.loads(json.dumps({"source": recipe.source.name, **recipe.choices()}))
    if other := differences({"source": manifest.source, **found}, wanted):
        raise InputError(f"{recipe.out} was built with other options: {other}. Build into another folder.")
    return manifest


def _refuse_foreign(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is not a folder. Build into a new or empty one.")
    if out.is_dir() and not (out / NOTES).exists() and not (out / MANIFEST).exists():
        visible = sorted(path.name for path in out.iterdir() if not path.name.startswith("."))
        if visible:
            raise InputError(f"{out} holds something else, such as {visible[0]}. Build into a new or empty folder.")


@contextmanager
def _claim(out: Path) -> Iterator[None]:
    """One build at a time in ``out``. The system frees the lock when its holder dies, however it does."""
    path = out / LOCK
    while True:
        with path.open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"Waiting for another build in {out}.", file=sys.stderr, flush=True)
                fcntl.flock(lock, fcntl.LOCK_EX)
            # A build that ended meanwhile took its lock away; another may lock a new one.
            if _inode(path) == os.fstat(lock.fileno()).st_ino:
                yield
                return


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None


def _run(recipe: Recipe, workers: int) -> Manifest:
    _take_notes(recipe)
    _sweep(recipe.out, ".*.partial")
    try:
        if recipe.options.dedup:
            recipe = leave_out_duplicates(recipe, workers)
        todo = [shard for shard in range(recipe.shards) if not _is_done(recipe, shard)]
        left = sum(len(recipe.positions(shard)) for shard in todo)
        if todo:
            with Progress(recipe.samples, recipe.samples - left) as progress:
                run_crew(recipe, todo, workers, progress.add)
        return _publish(recipe)
    finally:
        _sweep(recipe.out, ".*.partial")


def _take_notes(recipe: Recipe) -> None:
    """Hold an unfinished build to the options that it began with."""
    path = recipe.out / NOTES
    wanted = {"source": recipe.source.name, **recipe.choices(), **recipe.places()}
    text = json.dumps(wanted, indent=1).encode()
    begun = path.exists() and any(recipe.out.glob(".*.npz"))
    if begun and (other := differences(json.loads(path.read_bytes()), json.loads(text))):
        raise InputError(
            f"{recipe.out} holds an unfinished build with other options: {other}. "
            "Finish it with its own, build into another folder, or delete it."
        )
    with atomic_write(path) as file:
        file.write(text)


def _is_done(recipe: Recipe, shard: int) -> bool:
    """Recorded, which happens after the tar was synced and named; only a stranger's hand can part the two."""
    return recipe.record(shard).exists() and recipe.tar(shard).exists()


def _publish(recipe: Recipe) -> Manifest:
    records = [load_record(recipe.record(shard)) for shard in range(recipe.shards)]
    kept = [record for record in records if record.shard.samples]
    skipped = tuple(origin for record in records for origin in record.skipped)
    if not kept:
        raise InputError(f"None of the {len(skipped)} images can be used; the first is {skipped[0]}.")
    index = io.BytesIO()
    np.lib.format.write_array(index, np.concatenate([record.rows for record in kept]), allow_pickle=False)
    with atomic_write(recipe.out / INDEX) as file:
        file.write(index.getbuffer())
    manifest = Manifest(
        source=recipe.source.name,
        format=recipe.format,
        size=recipe.options.size,
        channels=recipe.source.channels,
        shards=tuple(record.shard for record in kept),
        index_sha256=hashlib.sha256(index.getbuffer()).hexdigest(),
        classes=recipe.source.classes,
        build=recipe.choices() | ({DUPLICATES: len(recipe.duplicates)} if recipe.options.dedup else {}),
        skipped=skipped,
    )
    write_manifest(manifest, recipe.out)
    _tidy(recipe.out)
    return manifest


def _tidy(out: Path) -> None:
    """Remove what a finished build no longer needs."""
    for path in out.glob(".shard-*.npz"):
        record = load_record(path)
        if not record.shard.samples:
            (out / record.shard.name).unlink(missing_ok=True)
        path.unlink()
    _sweep(out, HASHES)
    for name in (NOTES, LOCK):
        (out / name).unlink(missing_ok=True)


def _sweep(out: Path, pattern: str) -> None:
    for path in out.glob(pattern):
        path.unlink(missing_ok=True)
