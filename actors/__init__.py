"""vectormill: the model layer. Plain classes over torch, transformers, numpy and pyarrow, on any machine with a GPU.

    {doctor | replica} -> {embedder | reranker} -> checks -> {network | tokenizer} -> {weights | device} -> ground

The ground is spec, fake and packed. A room may import what stands to its right; nothing here knows pipelines, Ray,
Lance or pydantic. The package itself imports nothing.
"""
