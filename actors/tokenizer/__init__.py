"""From texts to token ids, on CPUs: text, batch, cutting, and the ids that were published for Qwen3 (qwen_ids).

Imports weights and the ground and never torch: ids are made in other processes than vectors.
"""
