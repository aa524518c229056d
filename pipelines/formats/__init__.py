"""How each file format is counted and read: one module a family, dispatched by `pipelines.source`.

A format module offers `columns(file, wanted) -> pa.Schema`, `scan(file, listing...) -> Shard` and
`pieces(file, units, wanted) -> Iterator[(first row, decoded table)]`; `rows` turns pieces into tables of units.
"""
