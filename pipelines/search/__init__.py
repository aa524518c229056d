"""Questions to a table: one at a time (`searcher`), a file of them as a job (`bulk`, `task`), through LanceDB's own API
(`lancedb`), and how good the answers are (`evaluation/`). May import: run, and what stands below it.
"""
