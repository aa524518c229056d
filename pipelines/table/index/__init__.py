"""Indexes of a table: of its vectors (`vector`, built by `segments`, measured by `recall`), of ids and texts
(`columns`), and what is noted of them in the table (`records`).
"""
