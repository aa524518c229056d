"""A reader that looks at the table throughout, at the newest version or an older one, and searches: whole units, or it
complains."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

import numpy as np

from tests.system.chaos.history import torn_units
from tests.system.chaos.judge import is_ours
from tests.system.chaos.place import Place
from tests.system.chaos.setup import FAULTY, Setup

SECONDS_BETWEEN_READS = {"folder": 0.15, "bucket": 1.5, FAULTY: 1.5}
NEAREST = 5


class Reader(threading.Thread):
    """`looks` counts what was read, `off` holds what was seen that must not be."""

    def __init__(self, place: Place, gone: Callable[[int], set[int] | None], setup: Setup):
        super().__init__(daemon=True, name="reader")
        self._place = place
        self._gone = gone
        self._chance = random.Random(setup.seed)
        self._seconds = SECONDS_BETWEEN_READS[setup.store]
        self._ended = threading.Event()
        self.away = threading.Lock()  # held while the table is not as any reader may find it: its owner's doing
        self.looks = 0
        self.off: list[str] = []

    def run(self) -> None:
        while not self._ended.wait(self._seconds):
            try:
                with self.away:
                    self._look()
            except Exception as bad:  # noqa: BLE001 - a reader that fails is what this looks for
                self.off.append(f"reader: {type(bad).__name__}: {str(bad)[:300]}")

    def end(self) -> None:
        self._ended.set()
        self.join(60)

    def _look(self) -> None:
        dataset = self._place.open()
        if dataset is None:
            return
        if self._chance.random() < 0.25 and dataset.version > 1:
            older = self._place.open(self._chance.randint(1, dataset.version))
            if older is None or not is_ours(older):
                return  # removed, or what the owner had put in the table's place
            dataset = older
        self.off += torn_units(dataset, self._gone)
        if self._chance.random() < 0.25 and dataset.count_rows():
            size = dataset.schema.field("vector").type.list_size
            wanted = np.random.default_rng(self._chance.getrandbits(32)).normal(size=size).astype(np.float32)
            hits = dataset.scanner(
                columns=["id", "_distance"], nearest={"column": "vector", "q": wanted, "k": NEAREST}
            ).to_table()
            assert hits.num_rows <= NEAREST, hits.num_rows
        self.looks += 1
