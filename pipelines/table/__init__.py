"""Rows out: the Lance table. Whatever writes to a table stands here, and Lance is known here alone (and to the Lance
format of corpora): `table` is the door, `fence` makes rows visible and `sink` says how a run's do, `checkpoint` and
`contents` tell what is in it, `index/` are its indexes.

May import: storage, and the ground. Knows no corpus and no task.
"""
