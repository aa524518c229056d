"""What a model, or a table, is judged by: layouts, numbers that others have published (published, goldens), and how a
verdict is said (check).

Imports tokenizer, weights and the ground; the models that are judged come in through protocols.
"""
