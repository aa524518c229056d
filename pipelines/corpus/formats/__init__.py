"""How each file format is counted and read, a module each. To add one: a module with what `Format` in `registry` asks
for, its line in `FORMATS` there, its name in `Format` of `pipelines/config.py`.

`scan` gives exact counts, a content version, and where a reader may start cheaply. `pieces` yields decoded tables; a
record that cannot be decoded is a row with a reason, never an exception and never left out. Lance is imported only when
a corpus is in it. `lines` is what text formats share.
"""
