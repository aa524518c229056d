"""A job file, and all that can be done with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipelines.config import JobConfig
from pipelines.job_file import merged, parse_job, read_job
from pipelines.progress import Silent, Snapshot

if TYPE_CHECKING:
    from pipelines.maintenance.optimize import Optimized
    from pipelines.maintenance.status import Status
    from pipelines.maintenance.verify import Verdict
    from pipelines.run.certificate import Certificate
    from pipelines.run.forecast import Forecast
    from pipelines.search.query import Hit, Mode
    from pipelines.search.searcher import Searcher
    from pipelines.table.files import TableAddress

OnProgress = Callable[[Snapshot], None]
OnMessage = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """A job, as its file says it; nothing is opened or started until a method is called.

    Whatever goes wrong is a VectormillError or a ModelError (of the weights) with one message, as the command prints
    it. Each method works in this process, with an engine that it starts and stops."""

    config: JobConfig

    @classmethod
    def from_file(cls, path: str | Path, **overrides: Any) -> Job:
        """Read a job file. overrides: sections, such as `run={"engine": "inline"}`, whose fields take the place of the
        file's; the other fields stay. Raises VectormillError that names every wrong field."""
        return cls(parse_job(merged(read_job(path), overrides), str(path)))

    @classmethod
    def from_dict(cls, sections: Mapping[str, Any], **overrides: Any) -> Job:
        """As `from_file`, of what such a file holds."""
        return cls(parse_job(merged(sections, overrides)))

    def plan(self) -> Forecast:
        """What a run would do: exact counts, estimated tokens and hours. Nothing is embedded."""
        from pipelines.run.forecast import forecast

        return forecast(self.config, Silent())

    def embed(self, on_progress: OnProgress | None = None, on_message: OnMessage | None = None) -> Certificate:
        """Run the job, or go on with it. Whatever ends it (an error, Ctrl-C, a kill), calling it again goes on.

        on_progress gets a Snapshot when the work begins, at each receipt and at each commit; on_message each line that
        the command would print. What they raise stops the run; what is committed stays.
        Raises Incomplete with too many rows without a vector; see `Certificate.adds_up` for units that failed."""
        from pipelines.run.job import embed

        return embed(self.config, _Listener(on_progress, on_message))

    def rerank(self, on_progress: OnProgress | None = None, on_message: OnMessage | None = None) -> Certificate:
        """As `embed`, for a job of task rerank."""
        from pipelines.run.job import rerank

        return rerank(self.config, _Listener(on_progress, on_message))

    def status(self, bad_rows: int = 10) -> Status:
        """What the table holds now, also while a job runs, with the first `bad_rows` that have no result."""
        from pipelines.maintenance.status import status

        return status(self._table, bad_rows)

    def verify(
        self,
        sample: int = 32,
        seed: int | None = None,
        against: str | None = None,
        vectors: Literal["exact", "rounded"] = "exact",
    ) -> Verdict:
        """Prove that the table holds each row of the corpus once, by this model; `Verdict.ok` says whether.

        sample: records to make again by the slow reference. against: the file of another certificate to compare with;
        vectors: whether its vectors must be equal in every bit."""
        from pipelines.maintenance.verify import verify

        return verify(self.config, Silent(), sample, seed, against, vectors)

    def optimize(
        self,
        index: Literal["auto", "none", "ivf_flat", "ivf_sq", "ivf_rq"] = "auto",
        min_recall: float = 0.95,
        memory_gb: float | None = None,
        full_text: str | None = None,
    ) -> Optimized:
        """Compact the table, fit its indexes and measure their recall, remove old versions; safe while a job runs.

        full_text: a column to index by words too; "auto": the stored text."""
        from pipelines.maintenance.optimize import optimize
        from pipelines.table.index.vector import IndexWanted

        return optimize(self._table, Silent(), IndexWanted(index, min_recall, memory_gb, full_text), self.config)

    def searcher(self, reranker: str | None = None) -> Searcher:
        """The table as it is now and its model, held open for many queries. reranker: weights to order hits by."""
        from actors.spec import ModelSpec
        from pipelines.search.searcher import Searcher

        if reranker is None:
            return Searcher(self._table)
        return Searcher(self._table, ModelSpec(reranker, s3=self.config.storage.for_weights()))

    def search(
        self,
        text: str,
        limit: int = 10,
        where: str | None = None,
        mode: Mode = "vector",
        reranker: str | None = None,
    ) -> list[Hit]:
        """The passages that answer `text` best. Loads the model each time: for more than one query take `searcher`.

        where: a SQL filter over the table's columns. mode: vector, text or hybrid."""
        from pipelines.search.query import Query

        return self.searcher(reranker).search(text, Query(limit, where, mode=mode))

    @property
    def _table(self) -> TableAddress:
        from pipelines.table.files import TableAddress

        return TableAddress(self.config.table.location, self.config.storage)


class _Listener(Silent):
    def __init__(self, on_progress: OnProgress | None, on_message: OnMessage | None):
        self._on_progress = on_progress
        self._on_message = on_message

    def say(self, message: str) -> None:
        if self._on_message is not None:
            self._on_message(message)

    def update(self, snapshot: Snapshot) -> None:
        if self._on_progress is not None:
            self._on_progress(snapshot)
