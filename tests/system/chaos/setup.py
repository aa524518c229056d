"""What a trial is made of, drawn from its seed."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.system.chaos.corpus import FORMATS, MAX_TOKENS, OVERLAP
from tests.system.chaos.place import Place

# By what a trial costs: one on Ray, or in a bucket, takes the CPU of five others.
ENGINES = {"inline": 0.95, "ray": 0.05}
FAULTY = "faulty-bucket"
STORES = {"folder": 0.85, "bucket": 0.05, FAULTY: 0.1}  # faulty: behind a proxy that fails
TOKENS_A_ROW = {False: 7, True: 32}  # by whether it is chunked


@dataclass(frozen=True)
class Setup:
    seed: int
    engine: str
    store: str
    format: str
    chunked: bool
    files: int
    rows_per_file: int
    rows_per_unit: int
    seconds_per_unit: float
    commit_every_seconds: float
    stale_rows: str
    faults: int

    @classmethod
    def draw(cls, seed: int, engine: str | None = None, store: str | None = None) -> Setup:
        """The same seed draws the same set-up; `engine` and `store` overrule what it drew."""
        chance = random.Random(seed)
        drawn = {
            "engine": _choose(chance, ENGINES),
            "store": _choose(chance, STORES),
            "format": chance.choice(FORMATS),
            "chunked": chance.random() < 0.25,
            "files": chance.randint(3, 12),
            "rows_per_file": chance.randint(20, 150),
            "rows_per_unit": chance.choice((8, 16, 24, 48)),
            "seconds_per_unit": chance.uniform(0.03, 0.12),
            "commit_every_seconds": chance.choice((0.02, 0.1, 0.3)),
            "stale_rows": chance.choice(("keep", "delete")),
            "faults": chance.randint(12, 18),
        }
        drawn.update({name: value for name, value in (("engine", engine), ("store", store)) if value})
        if drawn["engine"] == "ray":  # work enough to outlive its start
            drawn.update(files=drawn["files"] + 6, seconds_per_unit=0.2)
        if drawn["store"] != "folder":  # a read of a bucket is work for its server, which has one core
            drawn.update(files=min(drawn["files"], 6), commit_every_seconds=max(drawn["commit_every_seconds"], 0.1))
        return cls(seed, **drawn)

    def write_job(self, path: Path, place: Place) -> None:
        speed = round(self.rows_per_unit * TOKENS_A_ROW[self.chunked] / self.seconds_per_unit)
        job: dict[str, Any] = {
            "corpus": {"uri": f"{place.root}/corpus", "id": "doc_id", "text": "text", "columns": ["n"]},
            "model": {"weights": f"fake:{speed}"},
            "table": {"uri": f"{place.root}/db", "name": "t"},
            "run": {
                "engine": self.engine,
                "rows_per_unit": self.rows_per_unit,
                "commit_every_seconds": self.commit_every_seconds,
                "stale_rows": self.stale_rows,
                "max_bad_rows": 0.5,
            },
        }
        if self.chunked:
            job["chunking"] = {"max_tokens": MAX_TOKENS, "overlap_tokens": OVERLAP}
        if place.job_endpoint:
            job["storage"] = {"endpoint_url": place.job_endpoint, "region": "us-east-1"}
        path.write_text(yaml.safe_dump(job))

    def __str__(self) -> str:
        words = [self.engine, self.store, self.format, f"units of {self.rows_per_unit}"]
        words += ["chunked"] * self.chunked
        return " ".join(words)


def _choose(chance: random.Random, shares: dict[str, float]) -> str:
    return chance.choices(list(shares), list(shares.values()))[0]
