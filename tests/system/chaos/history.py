"""The table's versions one by one: each shows whole units only, and no run commits after a newer one began."""

from __future__ import annotations

import random
from collections.abc import Callable

import lance

from tests.system.chaos.judge import is_ours, units_of, whole_range
from tests.system.chaos.place import Place

PROVENANCE = ["_shard", "_unit", "_row", "_chunk"]
RUN = "vectormill.run"


def torn_units(dataset: lance.LanceDataset, gone: Callable[[int], set[int] | None]) -> list[str]:
    """Units of which this version shows a part. `gone(shard)`: row numbers that the owner may have deleted; None for
    shards that are not ours to judge."""
    torn = []
    if not is_ours(dataset):
        return torn
    for (shard, unit), rows in units_of(dataset.to_table(columns=PROVENANCE)).items():
        missing = gone(shard)
        if missing is not None and whole_range((shard, unit), rows, missing) is None:
            torn.append(f"version {dataset.version} shows {len(rows)} rows of unit {unit}: {min(rows)} to {max(rows)}")
    return torn


def check_versions(
    place: Place, gone: Callable[[int], set[int] | None], chance: random.Random, most: int
) -> tuple[list[str], int]:
    """(what is off, versions read). Reads `most` versions at random."""
    newest = place.open()
    if newest is None:
        return [], 0
    numbers = sorted(v["version"] for v in newest.versions())
    read = sorted(chance.sample(numbers, min(most, len(numbers))))
    off = [line for number in read for line in torn_units(newest.checkout_version(number), gone)]
    return off + _turns(newest, numbers), len(read)


def _turns(newest: lance.LanceDataset, numbers: list[int]) -> list[str]:
    """The runs in the order of their commits: once another has begun, an earlier one must not appear again."""
    over: set[str] = set()
    current = None
    for number in numbers[1:]:  # the first creates the table
        run = _run_of(newest, number)
        if run is None or run == current:
            continue
        if run in over:
            return [f"run {run} committed version {number} after run {current} had taken over"]
        if current is not None:
            over.add(current)
        current = run
    return []


def runs_since(place: Place, version: int) -> set[str]:
    """Runs that committed after this version."""
    newest = place.open()
    if newest is None:
        return set()
    runs = (_run_of(newest, number) for number in range(version + 1, newest.version + 1))
    return {run for run in runs if run}


def _run_of(dataset: lance.LanceDataset, number: int) -> str | None:
    """Who made this version; None if it was no run."""
    try:
        transaction = dataset.read_transaction(number)
    except TypeError:  # pylance 14.0.2 cannot show a compaction that rewrote an index
        return None
    return (transaction.transaction_properties or {}).get(RUN)
