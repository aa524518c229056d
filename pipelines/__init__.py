"""vectormill: the data layer. Corpora in, exactly-once LanceDB tables out.

Its rooms, from the top, each importing only what stands below it: cli, maintenance, search, run, tasks; engine, corpus
and table, which do not know one another; storage; and the modules of this folder, which know nothing but one another.
"""

__version__ = "0.1.0"
