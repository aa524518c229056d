"""Care for a table that stands: what it holds (`status`), whether that is right (`verify`, with `scan` and `samples`),
and keeping it small and quick (`optimize`). May import: search, run, and what stands below them.
"""
