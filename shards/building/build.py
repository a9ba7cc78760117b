"""Builds shards from raw images: in parallel, byte-identical for any number of workers, and resumable.

Each finished shard has a hidden record beside it. ``index.npy`` and ``manifest.json`` are written last: a folder with a
manifest is complete, one without can be finished by the same call.
"""

from __future__ import annotations

import json
from pathlib import Path

from shards.building.dedup import HASHES, leave_out_duplicates
from shards.building.pack import Record, pack_shard
from shards.building.recipe import Options, Recipe, differences
from shards.building.worker import run_workers
from shards.common.errors import InputError, require
from shards.common.files import atomic_write, file_lock
from shards.common.processes import available_cores
from shards.format.index import write_index
from shards.format.manifest import DUPLICATES, MANIFEST, NOT_IMAGES, Manifest, read_manifest, write_manifest
from shards.sources.source import Source

OPTIONS = ".build.json"
LOCK = ".build.lock"  # deleted only from a complete data set: processes that still wait for it then read the manifest
HIDDEN = (".shard-*.npz", HASHES, OPTIONS, LOCK)  # a complete data set does not need them; the lock comes last
PARTIAL = ".*.partial"
DEFAULTS = Options()


def build(source: Source, out: Path, options: Options = DEFAULTS, workers: int | None = None) -> Manifest:
    """Build ``source`` into the folder ``out`` with ``workers`` processes (None: one per core), or resume that build.

    The class of ``source`` must be importable by name. If ``out`` is complete, its manifest is returned; if another
    process is building there, this call waits for it.

    Raises:
        InputError: the source, an image, ``out`` or an option is not usable; ``out`` was built with other options; a
            worker was killed. Finished shards stay, and the same call resumes from them.
    """
    if workers is not None and workers < 1:
        raise InputError(f"--workers is {workers}; it must be at least 1.")
    try:
        recipe = Recipe(source, out, options, len(source))
        if not (out / MANIFEST).exists():
            if options.dedup:
                require("dedup", "imagehash")
            if source.unreadable and not options.skip_bad:
                folder, why = next(iter(source.unreadable.items()))
                raise InputError(f"{folder} cannot be read ({why}). --skip-bad leaves such folders out.")
            _check_folder(out)
            out.mkdir(parents=True, exist_ok=True)
            with file_lock(out / LOCK, mode=0o666, waiting=f"Waiting for another build in {out}.\n"):
                if not (out / MANIFEST).exists():
                    return _run(recipe, workers or available_cores())
                _delete(out, *HIDDEN)  # the process that wrote the manifest may have been killed before it did
        return _read_complete(recipe)
    except OSError as error:
        what = f"{error.filename or out}: {error.strerror or error}."
        raise InputError(f"{what} Finished shards stay; fix this and run the same command again.") from error


def _read_complete(recipe: Recipe) -> Manifest:
    manifest = read_manifest(recipe.out)
    recorded = {name: value for name, value in manifest.build.items() if name not in (DUPLICATES, NOT_IMAGES)}
    requested = json.loads(json.dumps({"source": recipe.source.name, **recipe.build_options()}))
    if different := differences({"source": manifest.source, **recorded}, requested):
        raise InputError(f"{recipe.out} was built with other options: {different}. Build into another folder.")
    return manifest


def _check_folder(out: Path) -> None:
    """Raise ``InputError`` if ``out`` contains anything but an unfinished build."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is not a folder. Build into a new or empty one.")
    visible = sorted(path.name for path in out.glob("[!.]*"))
    if visible and not (out / OPTIONS).exists() and not (out / MANIFEST).exists():
        raise InputError(f"{out} contains other files, such as {visible[0]}. Build into a new or empty folder.")


def _run(recipe: Recipe, workers: int) -> Manifest:
    _record_options(recipe)
    _delete(recipe.out, PARTIAL)  # of a killed build, whose space may be needed
    try:
        if recipe.options.dedup:
            recipe = leave_out_duplicates(recipe, workers)
        missing = {
            shard: len(recipe.positions(shard))
            for shard in range(recipe.shards)  # a record without its tar: somebody deleted that
            if not (recipe.record_path(shard).exists() and recipe.tar_path(shard).exists())
        }
        run_workers(pack_shard, recipe, missing, recipe.samples, workers, "images")
        return _publish(recipe)
    finally:
        _delete(recipe.out, PARTIAL)


def _record_options(recipe: Recipe) -> None:
    """Write the options down; raise ``InputError`` if an unfinished build began with other ones."""
    path = recipe.out / OPTIONS
    requested = {"source": recipe.source.name, **recipe.build_options(paths=True)}
    text = json.dumps(requested, indent=1).encode()
    started = path.exists() and any(recipe.out.glob(".*.npz"))
    if started and (different := differences(json.loads(path.read_bytes()), json.loads(text))):
        raise InputError(
            f"{recipe.out} holds an unfinished build with other options: {different}. "
            "Finish it with its own options, build into another folder, or delete it."
        )
    with atomic_write(path) as file:
        file.write(text)


def _publish(recipe: Recipe) -> Manifest:
    source = recipe.source
    records = [Record.load(recipe.record_path(shard)) for shard in range(recipe.shards)]
    filled = [record for record in records if record.shard.samples]
    skipped = (*source.unreadable, *(origin for record in records for origin in record.skipped))
    if not filled:
        raise InputError(f"None of the {len(skipped)} images can be used; the first is {skipped[0]}.")
    _delete(recipe.out, *(record.shard.name for record in records if not record.shard.samples))
    manifest = Manifest(
        source=source.name,
        format=recipe.format,
        size=recipe.options.size,
        channels=source.channels,
        shards=tuple(record.shard for record in filled),
        index_sha256=write_index([record.rows for record in filled], recipe.out),
        classes=source.classes,
        build=recipe.build_options()
        | ({DUPLICATES: len(recipe.duplicates)} if recipe.options.dedup else {})
        | ({NOT_IMAGES: dict(source.passed_over)} if source.passed_over else {}),
        skipped=skipped,
    )
    write_manifest(manifest, recipe.out)
    _delete(recipe.out, *HIDDEN)
    return manifest


def _delete(out: Path, *patterns: str) -> None:
    for pattern in patterns:
        for path in out.glob(pattern):
            path.unlink(missing_ok=True)
