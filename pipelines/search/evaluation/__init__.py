"""How good a table is at answering judged queries: the parts of `vectormill evaluate`. None of them runs a model.

beir       queries and judgments from a folder in BEIR layout
measures   nDCG@10, recall@100, MRR@10 by pytrec_eval; intervals by bootstrap
forms      in what form a vector may be stored, and what a search over that form finds
best       the best candidates so far, over a table read part by part
choices    every smaller dimension and stored form: bytes, quality, latency; which are efficient, which to take
svg, page  the page; terminal: the tables
"""
