"""Files in: what a corpus is, how its files are listed and counted, how rows are read from them.

`corpus` is the door; `formats/` has a module a file format. May import: storage, and the ground. Knows no table.
"""
