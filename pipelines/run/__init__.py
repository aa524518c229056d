"""One run of a job: what is decided before (`prepare`, `sizing`), the work (`run`, `workload`, what is tried again,
when it is committed), and the account of it (`certificate`). `job` is the door, for any task.

May import: tasks, engine, corpus, table, storage, and the ground.
"""
