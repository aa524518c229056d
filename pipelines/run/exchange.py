"""Shards that went and shards that came with the same rows: a Lance dataset that was compacted, the same bytes under
another etag, files that were renamed. To a run they are new, and it embeds them again: it says so first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from pipelines.table.checkpoint import Checkpoint
from pipelines.units import Shard


@dataclass(frozen=True)
class Exchange:
    """went, went_rows: shards in the table that are no longer in the corpus. came, came_rows: shards of the corpus of
    which nothing is in the table. same_files: of these, those with the content of one that went, under another path."""

    went: int
    went_rows: int
    came: int
    came_rows: int
    same_files: int

    def to_dict(self) -> Mapping[str, int]:
        return asdict(self)

    def __str__(self) -> str:
        rows = "as many rows" if self.came_rows == self.went_rows else f"{self.came_rows:,} rows"
        said = f"{self.went:,} shard(s) with {self.went_rows:,} rows went and {self.came:,} came with {rows}"
        if self.same_files:
            said += f"; {self.same_files:,} of them hold what one that went held, under another path"
        if self.came_rows == self.went_rows and self.same_files < self.came:
            said += "; so it is when a Lance dataset was compacted, or the same bytes were written again to a store"
        return said + ". What came is new to the table, and all of it is embedded"


def exchange(state: Checkpoint, shards: Sequence[Shard]) -> Exchange | None:
    """What looks as if shards had been exchanged for others with the same rows; None if nothing does."""
    came = [shard for shard in shards if shard.rows and shard.id not in state.done]
    went = Counter(state.stale_files.values())
    same = sum((went & Counter(shard.content for shard in came)).values())
    found = Exchange(len(state.stale), sum(state.stale.values()), len(came), sum(shard.rows for shard in came), same)
    return found if found.went and found.came and (same or found.came_rows == found.went_rows) else None
