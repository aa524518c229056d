"""`vectormill embed` with so little in hand at once that a small corpus is more, as a large one always is.

python -m tests.system.chaos.embed JOB.YAML [OPTION ...]
"""

from __future__ import annotations

import sys

SPANS = 3


def embed(arguments: list[str]) -> None:
    from pipelines.cli.app import main as vectormill
    from pipelines.engine import feed

    feed.SPANS, feed.SPANS_PER_REPLICA = SPANS, 1
    sys.argv = ["vectormill", "embed", *arguments]
    vectormill()


if __name__ == "__main__":
    embed(sys.argv[1:])
