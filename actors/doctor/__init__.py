"""Examines weights on a machine by hand (examine, inspection, diagnosis), and lends our models to MTEB (mteb).

Imports all rooms but replica; only commands import it.
"""
