"""What 10^9 and 10^10 rows cost on 8, 64 and 512 GPUs: arithmetic over measured constants, as Markdown tables.

    python -m benchmarks.cost_model

docs/scale.md holds what this prints, and tests/benchmarks/test_cost_model.py fails when the two differ, or when the
constants no longer give what benchmarks/scale.py found on the disk. Each constant says which script measured it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

from pipelines.engine import feed
from pipelines.run import sizing
from pipelines.table import orphans

# ---------------------------------------------------------------------- measured: 2 cores, local disk, one process

MANIFEST_BYTES, MANIFEST_BYTES_PER_FRAGMENT = 1_400, 104  # scale.py, history.py
COMMIT_CPU_SECONDS_PER_FRAGMENT = 5.1e-6  # history.py: 5.1 ms at 1,000 fragments
TRACKED_NAME_CPU_SECONDS, TRACKED_NAME_BYTES = 2.5e-6, 300  # history.py: each file of each version, as listed before
UNITS_NS_PER_ROW, BAD_NS_PER_ROW, TOTALS_NS_PER_ROW = 40, 20, 78  # history.py: CPU of the checkpoint's queries
UNIT_CPU_SECONDS = 6.4e-6  # history.py: one unit of the table, queried and matched against the corpus
UNIT_BYTES_BEFORE = 410  # a unit of the table as an object in a list: 10^7 of them took 4.1 GB
SHARD_BYTES = 1_300  # scale.py: 10^7 rows in 100,000 files less the same in 1,000
SHARD_CACHED_CPU_SECONDS = 44e-6  # planning.py: 100,000 files, counts remembered
UNIT_BYTES = 340  # of one in hand: 262,144 of them, in bundles of 256
# What Ray keeps of a span in hand, and of each that it was handed: a driver's growth over 1,500 spans of empty tasks.
SPAN_BYTES, FED_BYTES = 5_000, 700
DRIVER_BYTES = 300e6  # scale.py: a driver with Ray and nothing to do
# When Ray was chosen: 14 to 18 ms of the driver's one thread a unit of four stages, on a quiet machine.
UNITS_PER_SECOND = 60.0
# engine.py: 36 us to read, tokenise with fastokens, digest and write 1024 x float32; scale.py: Ray adds 40.
CORE_SECONDS_PER_ROW = 76e-6

# ---------------------------------------------------------------------- assumed

TOKENS_PER_ROW = 180
BUNDLE_START_SECONDS = 0.7e-3  # Ray makes the items of a dataset one after the other before the first one runs
REPLICA_START_SECONDS = 60.0  # processes, weights, warm-up and self-check; and the last units, when some have none left
PART_BYTES, PARTS_EXTRA = 5 << 20, 2  # a data file goes up in parts, and two requests more
GETS_PER_UNIT, GETS_PER_FRAGMENT_AND_QUERY = 3, 3
DOLLARS_PER_PUT_OR_LIST, DOLLARS_PER_GET, DOLLARS_PER_GB_MONTH = 5e-6, 0.4e-6, 0.023  # S3 standard, us-east-1
ROWS_PER_SHARD = 100_000
FILES_PER_LIST = 1_000


@dataclass(frozen=True)
class Model:
    """tokens_per_second: assumed, of one replica. flops_per_token: what sizing.py estimates its speed from."""

    name: str
    tokens_per_second: float
    flops_per_token: float
    dimensions: int


SMALL = Model("0.6B at 500,000 tokens/s a GPU", 500_000, 2 * 0.44e9, 1024)
LARGE = Model("8B at 40,000 tokens/s a GPU", 40_000, 2 * 6.95e9, 4096)


@dataclass(frozen=True)
class Job:
    rows: float
    gpus: int
    model: Model = SMALL

    @property
    def rows_per_second(self) -> float:
        return self.gpus * self.model.tokens_per_second / TOKENS_PER_ROW

    @property
    def hours(self) -> float:
        return self.rows / self.rows_per_second / 3600

    @property
    def shards(self) -> float:
        return self.rows / ROWS_PER_SHARD

    @property
    def rows_per_unit(self) -> int:
        estimate = sizing.tokens_per_second(self.model.flops_per_token, on_gpu=True)
        return sizing.rows_per_unit(TOKENS_PER_ROW, estimate, self.gpus)

    @property
    def units(self) -> float:
        return self.rows / self.rows_per_unit

    @property
    def units_per_second(self) -> float:
        return self.rows_per_second / self.rows_per_unit

    @property
    def fragments(self) -> float:
        return self.units / sizing.parcels_per_fragment(self.rows_per_unit, 30, self.gpus)

    @property
    def vector_bytes(self) -> float:
        return self.rows * self.model.dimensions * 4

    def commits(self, rows_at_most: float | None = None) -> float:
        """Every 30 seconds, or sooner when so many rows wait."""
        most = sizing.COMMIT_EVERY_ROWS * self.gpus if rows_at_most is None else rows_at_most
        return self.rows / min(most, 30 * self.rows_per_second)

    @property
    def manifest_bytes(self) -> float:
        return manifest_bytes(self.fragments)

    def manifests_bytes(self, rows_at_most: float | None = None) -> float:
        """Of all versions: each commit writes the whole list of fragments again."""
        return manifests_bytes(self.fragments, self.commits(rows_at_most))

    def committing(self, rows_at_most: float | None = None) -> float:
        """CPU seconds that commits at the end of the job take, of each second."""
        per_commit = self.fragments * COMMIT_CPU_SECONDS_PER_FRAGMENT
        return per_commit * self.commits(rows_at_most) / (self.hours * 3600)

    @property
    def puts(self) -> float:
        parts = ceil(self.vector_bytes / self.fragments / PART_BYTES) + PARTS_EXTRA
        return self.fragments * parts + 2 * self.commits()

    @property
    def gets(self) -> float:
        return 2 * self.shards + GETS_PER_UNIT * self.units + 4 * GETS_PER_FRAGMENT_AND_QUERY * self.fragments

    @property
    def lists(self) -> float:
        return self.commits() + self.shards / FILES_PER_LIST

    @property
    def request_dollars(self) -> float:
        return (self.puts + self.lists) * DOLLARS_PER_PUT_OR_LIST + self.gets * DOLLARS_PER_GET

    @property
    def storage_dollars_a_month(self) -> float:
        return (self.vector_bytes + self.manifests_bytes()) / 1e9 * DOLLARS_PER_GB_MONTH

    @property
    def units_per_span(self) -> float:
        """At most: a pass over a whole file."""
        return max(1.0, ROWS_PER_SHARD / self.rows_per_unit)

    @property
    def driver_bytes(self) -> float:
        spans = self.units / self.units_per_span
        in_hand = min(spans, max(feed.SPANS, feed.SPANS_PER_REPLICA * self.gpus))
        units = min(in_hand * self.units_per_span, max(feed.UNITS, feed.UNITS_PER_REPLICA * self.gpus))
        under_way = in_hand * SPAN_BYTES + units * UNIT_BYTES
        return DRIVER_BYTES + self.shards * SHARD_BYTES + spans * FED_BYTES + under_way

    @property
    def cores(self) -> float:
        """CPU cores that keep these GPUs fed."""
        return self.rows_per_second * CORE_SECONDS_PER_ROW

    # ------------------------------------------------------------------ before the first unit of a resumed run

    @property
    def resume_seconds(self) -> float:
        """CPU: counts are remembered, the checkpoint is read once, orphans are young."""
        table = self.rows * (UNITS_NS_PER_ROW + BAD_NS_PER_ROW) * 1e-9 + self.units * UNIT_CPU_SECONDS
        newest = 2 * self.fragments * TRACKED_NAME_CPU_SECONDS
        return self.shards * SHARD_CACHED_CPU_SECONDS + table + newest

    @property
    def names_of_all_versions(self) -> float:
        return self.commits(1e6) * self.fragments / 2

    @property
    def resume_seconds_before(self) -> float:
        """The checkpoint and all totals read twice, every file of every version listed."""
        table = self.rows * (UNITS_NS_PER_ROW + TOTALS_NS_PER_ROW) * 1e-9 + self.units * UNIT_CPU_SECONDS
        names = self.names_of_all_versions * TRACKED_NAME_CPU_SECONDS
        return self.shards * SHARD_CACHED_CPU_SECONDS + 2 * table + names

    @property
    def resume_bytes_before(self) -> float:
        return DRIVER_BYTES + max(self.names_of_all_versions * TRACKED_NAME_BYTES, self.units * UNIT_BYTES_BEFORE)

    @property
    def starting_share(self) -> float:
        """Of the replicas' time: they are started once."""
        return REPLICA_START_SECONDS / (self.hours * 3600 + REPLICA_START_SECONDS)

    def starting_share_before(self, rows_per_file: float = ROWS_PER_SHARD) -> float:
        """With waves of at most so many bundles and units, after each of which they were started anew, while Ray made
        the items of the next."""
        units = max(4_096, 64 * self.gpus)
        rows_per_bundle = min(self.rows_per_unit, 256 * rows_per_file)
        rows = min(self.rows, units * min(self.rows_per_unit, rows_per_file))
        working = rows / self.rows_per_second
        idle = REPLICA_START_SECONDS + rows / rows_per_bundle * BUNDLE_START_SECONDS
        return idle / (working + idle)


def manifest_bytes(fragments: float) -> float:
    return MANIFEST_BYTES + MANIFEST_BYTES_PER_FRAGMENT * fragments


def manifests_bytes(fragments: float, commits: float) -> float:
    return commits * manifest_bytes(fragments / 2)


# ---------------------------------------------------------------------- as Markdown


def number(value: float, unit: str = "") -> str:
    """Two or three digits: 12,300,000 is 12.3 M."""
    for size, letter in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{_digits(value / size)}{letter}{unit}"
    return f"{_digits(value)}{' ' if unit else ''}{unit}"


def _digits(value: float) -> str:
    return f"{value:.0f}" if value >= 99.5 else f"{value:.1f}" if value >= 9.95 else f"{value:.2g}"


def percent(value: float) -> str:
    return f"{_digits(100 * value)} %"


def seconds(value: float) -> str:
    return f"{value:.0f} s" if value < 120 else f"{value / 60:.0f} min" if value < 7200 else f"{value / 3600:.1f} h"


Line = tuple[str, str, Callable[[Job], str]]

# m: measured here at a smaller size and carried on; a: arithmetic from the layout's own rules; s: with an assumption.
LINES: tuple[Line, ...] = (
    ("hours of embedding", "s", lambda j: number(j.hours)),
    ("CPU cores that feed the GPUs", "m", lambda j: number(j.cores)),
    ("rows a unit", "a", lambda j: f"{j.rows_per_unit:,}"),
    ("units", "a", lambda j: number(j.units)),
    ("units a second (the driver's limit is 60)", "s", lambda j: f"{j.units_per_second:.0f}"),
    ("fragments", "a", lambda j: number(j.fragments)),
    ("commits, versions", "a", lambda j: number(j.commits())),
    ("newest manifest", "m", lambda j: number(j.manifest_bytes, "B")),
    ("all manifests", "m", lambda j: number(j.manifests_bytes(), "B")),
    ("vectors, float32", "a", lambda j: number(j.vector_bytes, "B")),
    ("committing at the end, of one core", "m", lambda j: percent(j.committing())),
    ("PUT", "s", lambda j: number(j.puts)),
    ("GET", "s", lambda j: number(j.gets)),
    ("LIST", "s", lambda j: number(j.lists)),
    ("requests, $", "s", lambda j: number(j.request_dollars)),
    ("storage, $ a month", "s", lambda j: number(j.storage_dollars_a_month)),
    ("driver's memory", "m", lambda j: number(j.driver_bytes, "B")),
    ("plan, counts remembered (CPU)", "m", lambda j: seconds(j.shards * SHARD_CACHED_CPU_SECONDS)),
    ("resume to first unit (CPU)", "m", lambda j: seconds(j.resume_seconds)),
    ("replicas idle while they start", "s", lambda j: percent(j.starting_share)),
)
BEFORE: tuple[Line, ...] = (
    ("names listed to find orphans", "m", lambda j: number(j.names_of_all_versions)),
    ("bytes read of manifests for it", "m", lambda j: number(j.manifests_bytes(1e6), "B")),
    ("now, at most", "a", lambda j: number(min(orphans.MANIFEST_BYTES_READ, j.manifests_bytes()), "B")),
    ("memory at resume", "m", lambda j: number(j.resume_bytes_before, "B")),
    ("now", "m", lambda j: number(j.driver_bytes, "B")),
    ("resume to first unit (CPU)", "m", lambda j: seconds(j.resume_seconds_before)),
    ("now", "m", lambda j: seconds(j.resume_seconds)),
    ("commits", "a", lambda j: number(j.commits(1e6))),
    ("now", "a", lambda j: number(j.commits())),
    ("committing at the end, of one core", "m", lambda j: percent(j.committing(1e6))),
    ("now", "m", lambda j: percent(j.committing())),
    ("replicas idle while they start", "s", lambda j: percent(j.starting_share_before())),
    ("now", "s", lambda j: percent(j.starting_share)),
    ("the same, files of 100 rows", "s", lambda j: percent(j.starting_share_before(100))),
    ("now", "s", lambda j: percent(j.starting_share)),
)


def table(lines: tuple[Line, ...], jobs: list[Job]) -> str:
    head = ["", "", *(f"10^{len(f'{j.rows:.0f}') - 1}, {j.gpus} GPUs" for j in jobs)]
    body = [[name, how, *(show(job) for job in jobs)] for name, how, show in lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *body])


def page() -> str:
    jobs = [Job(rows, gpus) for rows in (1e9, 1e10) for gpus in (8, 64, 512)]
    large = [Job(1e9, gpus, LARGE) for gpus in (64, 512)]
    parts = [
        f"{SMALL.name}, {TOKENS_PER_ROW} tokens a row:\n\n{table(LINES, jobs)}",
        f"{LARGE.name}:\n\n{table(LINES, large)}",
        f"Before and after, {SMALL.name}:\n\n{table(BEFORE, jobs)}",
    ]
    return "\n\n".join(parts)


if __name__ == "__main__":
    print(page())
