"""How good a table is at answering judged queries: the parts of `vectormill evaluate`.

evaluate   puts the others together, and is the one that runs models
beir       queries and judgments from a folder in BEIR layout
measures   nDCG@10, recall@100, MRR@10 by pytrec_eval; intervals by bootstrap
stored     the vectors of the table, read part by part
forms      in what form a vector may be stored, and what a search over that form finds
nearest    the nearest documents so far
choices    every smaller dimension and stored form: bytes, quality, latency; which are efficient, which to take
page, svg  the page and its charts
"""
