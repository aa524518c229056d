"""The chaos suite: random faults over small jobs, and a judge that reads the table with lance alone.

python -m tests.system.chaos --help        (or `make chaos`)

__main__   trials side by side, one line each, one JSON line at the end
setup      what a trial is made of, drawn from its seed
trial      one corpus, one table, many drivers: faults, a last undisturbed run, the judge
faults     what dies; table_faults: what lives beside a run; storage_faults: what the store does. A new kind is a
               function of a trial and a line in KINDS
corpus     generated files, and what each of their rows must become
place      where corpus and table lie: a folder, or a bucket of a moto server
drivers    `vectormill embed` processes; seams: one that stops itself at a named line; processes: /proc
judge      the table against the expectation; history: its versions one by one; readers: while it is written
"""
