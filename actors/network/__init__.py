"""The forward pass over packed sequences: attention, Qwen3 by hand, other models through transformers, pooling.

Imports weights, for the recipe, and the ground.
"""
