"""Queries and documents to scores: Reranker, its model and fake, the slow reference, the self-check, what a score
depends on (recipe); and prompt, batches and head, which only pairs need.

Imports checks and all below; has the same file names as embedder, of which it knows nothing.
"""
