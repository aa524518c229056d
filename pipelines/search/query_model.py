"""The model that embeds a table's queries: that of the table, found again by what its metadata says. Vectors of other
weights, another tokenizer, dtype or prompt are not comparable with the table's, so everything else is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

from actors.spec import ModelSpec
from pipelines.config import StorageConfig
from pipelines.errors import TableError
from pipelines.table.schema import TableMetadata

if TYPE_CHECKING:
    from actors.embedder.embedder import Embedder


def query_embedder(metadata: TableMetadata, location: str, storage: StorageConfig) -> Embedder:
    """The loaded model. `location` names the table in messages; `storage` is how `s3://` weights are reached.

    Raises TableError when other weights than the table's are now where they were, ModelError when there are none."""
    from actors.embedder.embedder import Embedder  # torch: only when a query must be embedded
    from actors.embedder.recipe import identity

    known, model = metadata.identity, metadata.model
    spec = ModelSpec(
        weights=model["weights"],
        revision=model["resolved_revision"] or model["revision"],
        dimensions=known["dimensions"],
        max_tokens=known["max_tokens"],
        dtype=known["dtype"],
        prompt=known["prompt"],
        query_prompt=model.get("query_prompt"),  # tables of before have none
        s3=storage.for_weights(),
        digest=known["weights"],
        tokenizer_digest=known["tokenizer"],
        force_float16=True,  # if the table is in it, its maker has
    )
    differences = [k for k, here in identity(spec).items() if known.get(k) != here]
    if differences:
        raise TableError(
            f"{location} was not made with the weights that are now at {spec.weights!r}: "
            f"{', '.join(differences)} differ, so its vectors and the query's would not be comparable. Put the weights "
            "of the table back there, or embed the corpus into a new table."
        )
    return Embedder(spec)
