"""Where the rows of a run go: workers write them, the driver commits what they wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from pipelines.table.fence import Fence
from pipelines.table.files import TableAddress, write_rows


class Sink(Protocol):
    """Small and picklable, it travels to the workers."""

    @property
    def location(self) -> str:
        """As the user wrote it."""

    @property
    def schema(self) -> pa.Schema:
        """Of the rows it takes."""

    def write(self, rows: pa.RecordBatchReader) -> tuple[str, ...]:
        """Called by a worker: write what nobody can see yet, and say in JSON what that was. Raises OSError when the
        store fails; what was written then is never committed."""

    def commit(self, fence: Fence, written: Sequence[str], properties: Mapping[str, str]) -> None:
        """Called by the driver: make what `write` gave visible, all or none. Raises Superseded, StorageError."""


@dataclass(frozen=True)
class AppendRows:
    """New records of a table: each call of `write` is a fragment. run: whose."""

    address: TableAddress
    schema: pa.Schema
    run: str

    @property
    def location(self) -> str:
        return self.address.location

    def write(self, rows: pa.RecordBatchReader) -> tuple[str, ...]:
        return write_rows(self.address, rows, self.run)

    def commit(self, fence: Fence, written: Sequence[str], properties: Mapping[str, str]) -> None:
        fence.commit(written, properties)
