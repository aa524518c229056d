"""What a pool of actors runs: tables of token ids in, the same rows with vectors (embed) or scores (rerank) out.

Imports embedder, reranker and the ground. The tables are Arrow's; who made them is not known here.
"""
