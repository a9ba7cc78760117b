"""A build in parts: processes on many nodes build one data set, and share nothing but its folder.

Part I of N packs the shards I - 1, I - 1 + N, I - 1 + 2 N, ... of the build without parts, so the bytes are the same.
Images are shuffled over the shards before: any shard costs the same, and no part reads an image of another. Parts hold
the lock of the build shared, the last step and a build without parts hold it exclusively.

A shard replaces the same shard, whole, so a part that runs again or twice at once does no harm.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from shards.building.build import (
    DEFAULTS,
    WAITING,
    check_options,
    check_workers,
    describe_options,
    pack_missing,
    prepare_folder,
    read_complete,
)
from shards.building.publish import HIDDEN, LOCK, OPTIONS, PLAN, delete, explain_errors, missing_shards, publish
from shards.building.recipe import Options, Recipe, differences
from shards.common.errors import InputError
from shards.common.files import create_once, file_lock
from shards.format.manifest import MANIFEST, NOT_IMAGES, Manifest, read_manifest
from shards.sources.source import Source

SHOWN = 20  # parts that a message names
SHARD = re.compile(r"\.+shard-(\d+)\.")  # start of the name of a file that is being written, with its number


@dataclass(frozen=True)
class Share:
    """Part ``part`` of ``parts``, counted from 1. Raises ``InputError`` if there is no such part."""

    part: int
    parts: int

    def __post_init__(self) -> None:
        if self.parts < 1:
            raise InputError(f"--parts is {self.parts}; it must be at least 1.")
        if not 1 <= self.part <= self.parts:
            raise InputError(f"--part is {self.part}; it must be from 1 to --parts {self.parts}.")

    def __str__(self) -> str:
        return f"part {self.part} of {self.parts}"

    def shards(self, total: int) -> range:
        """The numbers of its shards, of ``total``; none if there are fewer shards than parts."""
        return range(self.part - 1, total, self.parts)


@dataclass(frozen=True)
class Plan:
    """What the parts of a build have in common, and all that the last step needs, without the raw images."""

    parts: int
    shards: int
    manifest: Manifest  # without its shards

    def to_json(self) -> bytes:
        return json.dumps(asdict(self), indent=1).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Plan:
        try:
            fields = json.loads(data)
            manifest = fields.pop("manifest")
            manifest |= {name: tuple(manifest[name]) for name in ("shards", "classes", "skipped")}
            return cls(**fields, manifest=Manifest(**manifest))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{PLAN} is not of this version of shardgan ({error!r}). Delete it and run the parts again, or build "
                "without --part."
            ) from error

    def describe_missing(self, out: Path) -> str:
        """How many shards are not finished, and of which parts; empty if all are."""
        missing = missing_shards(out, range(self.shards))
        parts = sorted({shard % self.parts + 1 for shard in missing})
        if not parts:
            return ""
        named = ", ".join(map(str, parts[:SHOWN])) + (", ..." if len(parts) > SHOWN else "")
        of = f"part{'s' * (len(parts) > 1)} {named} of {self.parts}"
        return f"{len(missing):,} of {self.shards:,} shards, of {of}"


def build_part(
    source: Source, out: Path, share: Share, options: Options = DEFAULTS, workers: int | None = None
) -> Manifest | None:
    """Build the shards of ``share``, as :func:`shards.building.build.build` does, or resume that.

    Returns the manifest if this completed the data set, or it was complete; None if other parts are not finished. If
    another process builds the same part, this call waits for it.

    Raises:
        InputError: as ``build``; also if other parts were built from other images, with other options or with another
            number of parts, and for ``dedup``.
    """
    check_workers(workers)
    if options.dedup:
        raise InputError(
            "--dedup compares all images before the first shard, so no part can begin alone. "
            "Build without --part, or without --dedup."
        )
    with explain_errors(out):
        recipe = Recipe(source, out, options, len(source))
        if (out / MANIFEST).exists():
            return read_complete(recipe)
        prepare_folder(recipe)
        with _part_of_build(out, share):
            if (out / MANIFEST).exists():
                delete(out, *HIDDEN)
                return read_complete(recipe)
            plan = _agree(recipe, share)
            shards = share.shards(recipe.shards)
            _delete_partial(out, share)
            try:
                pack_missing(recipe, shards, workers)
            finally:
                _delete_partial(out, share)
        missing = plan.describe_missing(out) and not (out / MANIFEST).exists()
        return None if missing else join(out)


def join(out: Path) -> Manifest:
    """The last step: write index and manifest of the data set in ``out``, whose parts are all built.

    If it is complete, its manifest is returned. Raises ``InputError`` if there are no parts or some are not finished,
    and names these.
    """
    with explain_errors(out):
        if not (out / MANIFEST).exists():
            try:
                _read_finished(out)
                waiting = f"Waiting for a part that runs a second time in {out}.\n"
                with file_lock(out / LOCK, mode=0o666, waiting=waiting):
                    if not (out / MANIFEST).exists():
                        plan = _read_finished(out)
                        return publish(plan.manifest, plan.shards, out)
                    delete(out, *HIDDEN)
            except (InputError, FileNotFoundError):  # another process may have been faster and deleted what is hidden
                if not (out / MANIFEST).exists():
                    raise
        return read_manifest(out)


@contextmanager
def _part_of_build(out: Path, share: Share) -> Iterator[None]:
    """Hold the lock of the build with other parts, and that of the part alone."""
    twin = f"Waiting for another process that builds {share} in {out}.\n"
    with (
        file_lock(out / LOCK, mode=0o666, waiting=WAITING.format(out=out), shared=True),
        file_lock(out / f".part-{share.part}.lock", mode=0o666, waiting=twin),
    ):
        yield


def _agree(recipe: Recipe, share: Share) -> Plan:
    """Record options and plan, or compare them with those of the first part."""
    out, options = recipe.out, describe_options(recipe)
    check_options(out, create_once(out / OPTIONS, options), options, upscale_later=False)
    plan = Plan(share.parts, recipe.shards, recipe.manifest())
    recorded = Plan.from_json(create_once(out / PLAN, plan.to_json()))
    if recorded.parts != share.parts:
        raise InputError(
            f"{out} is built in {recorded.parts} parts, not {share.parts}. Give --parts {recorded.parts}, or build "
            "without --part, which builds all that is missing."
        )
    if different := differences(_facts(recorded), _facts(plan)):
        raise InputError(f"The raw images are not those of the other parts in {out}: {different}.")
    return plan


def _facts(plan: Plan) -> dict[str, Any]:
    """What parts must agree on beyond their options: nodes may have copies of the raw images, or lack permissions."""
    manifest = plan.manifest
    return {"classes": manifest.classes, "skipped": manifest.skipped, NOT_IMAGES: manifest.build.get(NOT_IMAGES)}


def _read_finished(out: Path) -> Plan:
    """The plan of the build in ``out``; raises ``InputError`` unless all its shards are finished."""
    if not (out / PLAN).exists():
        if (out / OPTIONS).exists():
            raise InputError(f"{out} holds an unfinished build, not in parts. Run it again.")
        how = f"python -m shards build SOURCE_KIND RAW {out} --part I --parts N"
        raise InputError(f"{out} holds no parts of a build. Build them with: {how}")
    plan = Plan.from_json((out / PLAN).read_bytes())
    if missing := plan.describe_missing(out):
        raise InputError(f"{out} lacks {missing}. Build these, then join.")
    return plan


def _delete_partial(out: Path, share: Share) -> None:
    """Delete what a killed process left of this part, whose space may be needed; other parts may be at work."""
    for path in out.glob(".*shard-*.partial"):
        number = SHARD.match(path.name)
        if number and int(number[1]) % share.parts == share.part - 1:
            path.unlink(missing_ok=True)
