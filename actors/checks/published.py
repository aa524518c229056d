"""Numbers that others have published for known weights, and how near to them we must come.

None was computed by us. Embeddings: the cosine of a query's vector and a document's. Rerankers: the logit difference
yes - no, or its sigmoid, of a pair. They prove what no comparison on the same weights can: the recipe (prompt, closing
token, pooling) and the weights themselves. `vectormill doctor` shows them all; a replica of known weights checks the
cosines before it works.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from actors.tokenizer.qwen_ids import DOCUMENTS, QUERIES

# How far a right result may be from an exact number. A missing closing token moves the cosines by 0.1; the logits of
# half precision are off by up to 0.3. Nobody has published what float8 gives.
TOLERANCES = {
    "cosine": {"float32": 1e-3, "bfloat16": 5e-3, "float16": 5e-3},
    "logit": {"float32": 1e-3, "bfloat16": 0.5, "float16": 0.5},
    "score": {"float32": 1e-4, "bfloat16": 5e-3, "float16": 5e-3},
}

PLANET = ("Which planet is known as the Red Planet?",)
PLANETS = (
    "Venus is often called Earth's twin because of its similar size and proximity.",
    "Mars, known for its reddish appearance, is often referred to as the Red Planet.",
    "Jupiter, the largest planet in our solar system, has a prominent red spot.",
    "Saturn, famous for its rings, is sometimes mistaken for the Red Planet.",
)
WEATHER = ("The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium.")

README = "Qwen README, transformers float32"
CARD_EXAMPLE = "Qwen model card (a copy), transformers float32"
CARD_LOGITS = "Qwen model card (a copy), sentence-transformers bfloat16"
ST_PRETRAINED = "sentence-transformers tests/sentence_transformer/test_pretrained.py, bfloat16"
ST_RERANKER = "sentence-transformers tests/cross_encoder/test_model.py, float32"
ST_README = "sentence-transformers README, float32"
RBLN = "Qwen README pairs, float32, as reported in RBLN-SW/vllm-rbln#841"


@dataclass(frozen=True)
class Golden:
    """One published number. rounding: how far it is from exact itself, by its decimals or its half precision."""

    kind: str  # "cosine", "logit" or "score"
    query: str
    document: str
    expected: float
    source: str
    rounding: float = 0.0
    vllm: float | None = None  # what vLLM gives, where that is published beside it

    def tolerance(self, dtype: str) -> float | None:
        """How far a right result in dtype may be off; None for a dtype of which nothing is known."""
        known = TOLERANCES[self.kind].get(dtype)
        return None if known is None else max(known, self.rounding)


@dataclass(frozen=True)
class Published:
    """A model with published numbers. shape: what config.json says of the sizes below.

    The shapes of Qwen3 are nobody else's, so a copy is known by its shape; by_name: only by its name.
    """

    model_id: str
    task: str  # "embed" or "rerank"
    shape: tuple[int, ...]  # hidden, layers, heads, width of the MLP
    goldens: tuple[Golden, ...]
    architecture: str = "qwen3"
    by_name: bool = False


def _grid(
    kind: str,
    texts: tuple[Sequence[str], Sequence[str]],
    rows: Sequence[Sequence[float]],
    source: str,
    vllm: Sequence[Sequence[float]] = (),
    rounding: float = 0.0,
) -> tuple[Golden, ...]:
    """Every query of texts[0] with every document of texts[1]."""
    return tuple(
        Golden(kind, query, document, rows[i][j], source, rounding, vllm[i][j] if vllm else None)
        for i, query in enumerate(texts[0])
        for j, document in enumerate(texts[1])
    )


def _planets(values: Sequence[float]) -> tuple[Golden, ...]:
    # That test allows a hundredth of each value.
    return tuple(
        Golden("cosine", PLANET[0], document, value, ST_PRETRAINED, 0.01 * value)
        for document, value in zip(PLANETS, values, strict=True)
    )


def _card_logits(beijing: float, gravity: float) -> tuple[Golden, ...]:
    return _grid("logit", (QUERIES[:1], DOCUMENTS), [[beijing, gravity]], CARD_LOGITS, rounding=0.5)


EXAMPLE = (QUERIES, DOCUMENTS)
QWEN_0_6B, QWEN_4B, QWEN_8B = (1024, 28, 16, 3072), (2560, 36, 32, 9728), (4096, 36, 32, 12288)

PUBLISHED = (
    Published(
        "Qwen/Qwen3-Embedding-0.6B",
        "embed",
        QWEN_0_6B,
        _grid(
            "cosine",
            EXAMPLE,
            [[0.7645568251609802, 0.14142508804798126], [0.13549736142158508, 0.5999549627304077]],
            README,
            [[0.7620252966880798, 0.14078938961029053], [0.1358368694782257, 0.6013815999031067]],
        )
        + _planets([0.4838, 0.69335, 0.58793, 0.6647]),
    ),
    Published(
        "Qwen/Qwen3-Embedding-4B",
        "embed",
        QWEN_4B,
        _grid("cosine", EXAMPLE, [[0.7534, 0.1147], [0.0320, 0.6258]], CARD_EXAMPLE),
    ),
    Published(
        "Qwen/Qwen3-Embedding-8B",
        "embed",
        QWEN_8B,
        _grid(
            "cosine",
            EXAMPLE,
            [[0.7493016123771667, 0.0750647559762001], [0.08795969933271408, 0.6318399906158447]],
            CARD_EXAMPLE,
            [[0.7482624650001526, 0.07556197047233582], [0.08875375241041183, 0.6300010681152344]],
        ),
    ),
    Published(
        "Qwen/Qwen3-Reranker-0.6B",
        "rerank",
        QWEN_0_6B,
        (
            *_grid(
                "logit",
                (PLANET, PLANETS),
                [[-3.109297752380371, 7.120389938354492, -0.3787546157836914, 3.541637420654297]],
                ST_RERANKER,
            ),
            Golden("score", QUERIES[0], DOCUMENTS[0], 0.9995, RBLN),
            Golden("score", QUERIES[1], DOCUMENTS[1], 0.9972, RBLN),
            *_card_logits(7.625, -11.375),
        ),
    ),
    Published("Qwen/Qwen3-Reranker-4B", "rerank", QWEN_4B, _card_logits(6.4375, -14.375)),
    Published("Qwen/Qwen3-Reranker-8B", "rerank", QWEN_8B, _card_logits(5.0625, -14.25)),
    Published(
        "sentence-transformers/all-MiniLM-L6-v2",
        "embed",
        (384, 6, 12, 1536),
        (
            Golden("cosine", WEATHER[0], WEATHER[1], 0.6660, ST_README),
            Golden("cosine", WEATHER[0], WEATHER[2], 0.1046, ST_README),
            Golden("cosine", WEATHER[1], WEATHER[2], 0.1411, ST_README),
            *_planets([0.46371, 0.81205, 0.72828, 0.75051]),
        ),
        architecture="bert",
        by_name=True,
    ),
)
