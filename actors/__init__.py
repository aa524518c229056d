"""The model layer: plain classes over torch, transformers, numpy and pyarrow, which run on a bare GPU machine.

    {doctor | replica} -> {embedder | reranker} -> checks -> {network | tokenizer} -> {weights | device} -> ground

The ground is spec, fake and packed. A room may import what stands to its right; nothing here knows pipelines, Ray,
Lance or pydantic. The package itself imports nothing.
"""
