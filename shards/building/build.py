"""Builds shards from raw images: in parallel, byte-identical for any number of workers, and resumable.

Each finished shard has a hidden record beside it. ``index.npy`` and ``manifest.json`` are written last: a folder with a
manifest is complete, one without can be finished by the same call.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from shards.building.dedup import leave_out_duplicates
from shards.building.pack import pack_shard
from shards.building.publish import (
    HIDDEN,
    LOCK,
    OPTIONS,
    PARTIAL,
    PLAN,
    delete,
    explain_errors,
    missing_shards,
    publish,
)
from shards.building.recipe import Options, Recipe, differences
from shards.building.worker import run_workers
from shards.common.errors import InputError, require
from shards.common.files import atomic_write, file_lock
from shards.common.processes import available_cores
from shards.common.urls import refuse_url
from shards.format.manifest import DUPLICATES, MANIFEST, NOT_IMAGES, Manifest, read_manifest
from shards.sources.source import Source

WAITING = "Waiting for another build in {out}.\n"
LISTING = "listing"  # of the options in ``OPTIONS``: the digest of the raw images
DEFAULTS = Options()


def build(source: Source, out: Path, options: Options = DEFAULTS, workers: int | None = None) -> Manifest:
    """Build ``source`` into the folder ``out`` with ``workers`` processes (None: one per core), or resume that build.

    The class of ``source`` must be importable by name. If ``out`` is complete, its manifest is returned; if another
    process is building there, this call waits for it. Parts that :func:`shards.building.parts.build_part` finished are
    kept.

    Raises:
        InputError: the source, an image, ``out`` or an option is not usable; ``out`` was built with other options; a
            worker was killed. Finished shards stay, and the same call resumes from them.
    """
    check_workers(workers)
    with explain_errors(out):
        recipe = Recipe(source, out, options, len(source))
        if not (out / MANIFEST).exists():
            prepare_folder(recipe)
            with file_lock(out / LOCK, mode=0o666, waiting=WAITING.format(out=out)):
                if not (out / MANIFEST).exists():
                    return _run(recipe, workers)
                delete(out, *HIDDEN)  # the process that wrote the manifest may have been killed before it did
        return read_complete(recipe)


def check_workers(workers: int | None) -> None:
    """Raise ``InputError`` if ``workers`` is not a number of processes."""
    if workers is not None and workers < 1:
        raise InputError(f"--workers is {workers}; it must be at least 1.")


def prepare_folder(recipe: Recipe) -> None:
    """Make the folder of a build; raise ``InputError`` if the build cannot begin there."""
    out, source = recipe.out, recipe.source
    refuse_url(out)
    if recipe.options.dedup:
        require("dedup", "imagehash")
    if source.unreadable and not recipe.options.skip_bad:
        folder, why = next(iter(source.unreadable.items()))
        raise InputError(f"{folder} cannot be read ({why}). --skip-bad leaves such folders out.")
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is not a folder. Build into a new or empty one.")
    visible = sorted(path.name for path in out.glob("[!.]*"))
    if visible and not (out / OPTIONS).exists() and not (out / MANIFEST).exists():
        raise InputError(f"{out} contains other files, such as {visible[0]}. Build into a new or empty folder.")
    out.mkdir(parents=True, exist_ok=True)


def read_complete(recipe: Recipe) -> Manifest:
    """The manifest of a finished build; raises ``InputError`` if that was another one."""
    manifest = read_manifest(recipe.out)
    recorded = {name: value for name, value in manifest.build.items() if name not in (DUPLICATES, NOT_IMAGES)}
    requested = json.loads(json.dumps({"source": recipe.source.name, **recipe.build_options()}))
    if different := differences({"source": manifest.source, **recorded}, requested):
        raise InputError(f"{recipe.out} was built with other options: {different}. Build into another folder.")
    return manifest


def pack_missing(recipe: Recipe, shards: Sequence[int], workers: int | None) -> None:
    """Pack those of ``shards`` that are not finished."""
    missing = missing_shards(recipe.out, shards)
    order = recipe.order() if missing else np.empty(0, np.int64)
    indexes = {shard: order[recipe.positions(shard).start : recipe.positions(shard).stop] for shard in missing}
    images = sum(len(recipe.positions(shard)) for shard in shards)
    run_workers(pack_shard, recipe, indexes, images, workers or available_cores(), "images")


def describe_options(recipe: Recipe) -> bytes:
    """The text of ``OPTIONS``: what an unfinished build must not change."""
    options = {"source": recipe.source.name, **recipe.build_options(paths=True), LISTING: recipe.source.digest()}
    return json.dumps(options, indent=1).encode()


def check_options(out: Path, recorded: bytes, requested: bytes, *, upscale_later: bool = True) -> None:
    """Raise ``InputError`` if the options that the build in ``out`` ``recorded`` are not those ``requested``."""
    before, now = json.loads(recorded), json.loads(requested)
    listing = now.pop(LISTING)
    began_with = before.pop(LISTING, listing)  # earlier versions did not record it
    if different := differences(before, now, upscale_later=upscale_later):
        raise InputError(
            f"{out} holds an unfinished build with other options: {different}. "
            "Finish it with its own options, build into another folder, or delete it."
        )
    if began_with != listing:
        raise InputError(
            f"{out} holds an unfinished build of other raw images: there were as many, but their names, labels or "
            "attributes differ. Give those that it began with, build into another folder, or delete it."
        )


def _run(recipe: Recipe, workers: int | None) -> Manifest:
    _record_options(recipe)
    delete(recipe.out, PARTIAL)  # of a killed build, whose space may be needed
    try:
        if recipe.options.dedup:
            recipe = leave_out_duplicates(recipe, workers or available_cores())
        pack_missing(recipe, range(recipe.shards), workers)
        return publish(recipe.manifest(), recipe.shards, recipe.out)
    finally:
        delete(recipe.out, PARTIAL)


def _record_options(recipe: Recipe) -> None:
    """Write the options down, unless an unfinished build began with other ones."""
    path, options = recipe.out / OPTIONS, describe_options(recipe)
    if path.exists() and any(recipe.out.glob(".*.npz")):
        check_options(recipe.out, path.read_bytes(), options)
    delete(recipe.out, PLAN)  # this build does the work of all parts; later ones may be of another number
    with atomic_write(path) as file:
        file.write(options)
