"""Texts to vectors: Embedder, its model and fake, the slow reference, the self-check, and what a vector depends on
(recipe).

Imports checks and all below; has the same file names as reranker, of which it knows nothing.
"""
