"""What to measure."""

from dataclasses import dataclass

from actors.spec import ModelError

# Every way that is not ours, by task, and which of ours it is compared with.
AGAINST = {
    "embed": {"transformers": "from_ids", "st": "from_texts", "st-best": "from_texts"},
    "rerank": {"card": "reuse", "cross-encoder": "reuse"},
}
WAYS = {"embed": ("from_ids", "from_texts"), "rerank": ("reuse", "whole")}


@dataclass(frozen=True)
class Options:
    """`python -m benchmarks.model --help` explains each. ways: some of ours only; () = all. tried_texts: by each mode
    of sentence-transformers, to find its fastest. Raises ModelError."""

    model: str = "0.6B"
    mix: str = "short"
    tokens: int = 1_000_000
    task: str = "embed"
    tokenizer: str | None = None
    dtype: str = "auto"
    device: str | None = None
    threads: int | None = None
    token_budget: int | None = None
    path: str = "fused"
    peers: tuple[str, ...] = ()
    rounds: int = 3
    seed: int = 0
    price: float | None = None
    ceiling_seconds: float = 5.0
    ways: tuple[str, ...] = ()
    tried_texts: int = 1024  # some batches of 256

    def __post_init__(self) -> None:
        known = AGAINST[self.task]
        for name in self.peers:
            if name not in known:
                raise ModelError(f"there is no peer {name!r} for --task {self.task}; there are {', '.join(known)}")
            assert not self.ways or known[name] in self.ways, name
        if self.rounds < 1 or self.tokens < 1:
            raise ModelError("rounds and tokens must be at least 1")
