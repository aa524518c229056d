"""How each file format is counted and read: one module a family, chosen by `dispatch`.

A format module offers `columns(file, wanted)` (the types of the carried columns), `scan(file, reader)` (a Shard) and
`pieces(file, units, wanted)` (decoded tables); `rows` turns pieces into one table a unit. `listing` finds the files.
"""
