"""Many texts to ids at once: by `tokenizers` or, after some millions of characters, by `fastokens` if it is installed.

fastokens reads the same tokenizer.json and gives the ids of a byte-level BPE 20 times faster, but takes 2 s and 150 MB
to load, so a search with one query never loads it. What `tokenizers` gives is right. fastokens is used only in the
version and for the kinds of tokenizer in which it gave the same ids for all of Unicode (benchmarks/tokenise.py), and
only after it has given the same here for PROBE and for the added tokens of this very tokenizer.json.

Legend: N texts, T tokens in all.
"""

import importlib.metadata
import json
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TESTED_VERSION = "0.3.5"
# What tokenizers needs for so many characters (about 1 million tokens) is what fastokens needs to load.
FAST_AFTER_CHARACTERS = 4_000_000

# What byte-level tokenizers differ in: classes of letters, marks and digits, case, normal forms, and white space.
PROBE = (
    "",
    "The quick brown fox's 3,141 jumps - they'll, I'M, we'RE, it'ſ; don't?!\n\n\t\tdef f(x):\r\n        return x \n ",
    "Größe, coração, œuvre, İstanbul, ﬁne, ＡＢＣ, Ⅷ, ½, ² — “quoted” … naïve",
    "e\u0301 a\u0323\u0302 o\u0302\u0323 \u1e9b\u0323 \u0344 q\u0307\u0323 \u212b \u2126 \u0301start",
    "\u0958 \u0915\u093c \u0f73 \u1112\u1161\u11ab \uac00\u11a8 \u0cc6\u0cc2 \u09c7\u09be \u1b05\u1b35",
    "Ελληνικά Ёлка українська Հայերեն עִבְרִית العَرَبِيَّة فارسی اردو",
    "हिन्दी বাংলা ਪੰਜਾਬੀ ગુજરાતી தமிழ் తెలుగు ಕನ್ನಡ മലയാളം\u0d3b සිංහල",
    "ภาษาไทย ພາສາລາວ\u0eba བོད་ཡིག မြန်မာ ខ្មែរ ქართული አማርኛ ᠮᠣᠩᠭᠣᠯ",
    "今天天气不错。苹果手机真好用！日本語のテキスト、カタカナﾊﾟ 한국어 문장 \ufa0e\ufa19 𠮷𪚥 \u3099か\u3099",
    "👩‍👩‍👧‍👦🏳️‍🌈🇩🇪1️⃣👍🏽🙂\ufe0f ☕ ∑∫≠ 𝒳𝕐 \U000f0000 \ue000 \U0001fbf0",
    "0123456789 ٠١٢ ०१२ 一二三 1e-9 0x7F 12'345 ²³ ⅓",
    "   \u00a0\u2003\u3000\u200b\u200d\u2028\u2029\x85\x1c\x0b\x0c x  \n  \n\n   y\r\r\n\t z     ",
    "\x00\x01\x7f\ufffd\ufeff\ufffe\U0010ffff\u0378\u05ff",
    "<|endoftext|><|im_start|>user\n<|im_end|> <think>\n\n</think>\n\n<|endoftext| > [SEP] [MASK] <mask></s>",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa !!!!!!!!!!!!!!!!!!!!!!!! ----------------====\n" + "ab" * 300,
)


class BatchTokenizer:
    """The ids of a loaded `tokenizers.Tokenizer`, without the special tokens that its post-processor adds.

    Truncation and padding are switched off in it. fast_after: characters from which on fastokens may be used.
    """

    def __init__(self, reference: "Tokenizer", fast_after: int = FAST_AFTER_CHARACTERS) -> None:
        reference.no_truncation()
        reference.no_padding()
        self.reference = reference
        self._fast: Any = None
        self._characters_left: int | None = fast_after  # None: decided

    @property
    def is_fast(self) -> bool:
        """Whether fastokens is in use by now."""
        return self._fast is not None

    def content(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Ids int32 [T], and tokens per text int64 [N]."""
        left = self._characters_left
        if left is not None:
            left -= sum(map(len, texts))
            self._characters_left = left if left >= 0 else None
            if left < 0:
                self._fast = _proven(self.reference)
        if self._fast is not None:
            try:
                return _by_fastokens(self._fast, texts)
            except ValueError:
                pass  # a limit of its regular expressions, or half a surrogate pair: tokenizers' answer or error counts
        return _by_tokenizers(self.reference, texts)


def is_installed() -> bool:
    """Whether fastokens is here in the version whose exactness was tested."""
    try:
        return importlib.metadata.version("fastokens") == TESTED_VERSION
    except importlib.metadata.PackageNotFoundError:
        return False


def _by_tokenizers(tokenizer: "Tokenizer", texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    # encode_batch_fast leaves the character offsets out.
    rows = [found.ids for found in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]
    lengths_N = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
    return np.fromiter(chain.from_iterable(rows), dtype=np.int32, count=int(lengths_N.sum())), lengths_N


def _by_fastokens(tokenizer: Any, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    ids, offsets = tokenizer.encode_batch_flat(list(texts), add_special_tokens=False)
    return np.frombuffer(ids, dtype=np.int32), np.diff(np.frombuffer(offsets, dtype=np.int64))


def _proven(reference: "Tokenizer") -> Any:
    """A fastokens.Tokenizer that gives the same ids; None where it is not installed, not tested or not equal."""
    if not is_installed():
        return None
    import fastokens

    definition = reference.to_str()
    if not _is_tested_kind(json.loads(definition)):
        return None
    try:
        fast = fastokens.Tokenizer.from_json_str(definition)
        probe = [*PROBE, *(f"a{t}b {t}{t}\n{t}" for t in _added(reference))]
        same = map(np.array_equal, _by_fastokens(fast, probe), _by_tokenizers(reference, probe))
        return fast if all(same) else None
    except ValueError:  # it does not know some part of the definition
        return None


def _is_tested_kind(definition: dict[str, Any]) -> bool:
    model, normalizer, split = definition["model"], definition["normalizer"], definition["pre_tokenizer"]
    steps = [] if split is None else split.get("pretokenizers", [split])
    kinds = {step["type"] for step in steps}
    return (
        model["type"] == "BPE"
        and not model.get("dropout")
        and (normalizer is None or normalizer["type"] == "NFC")
        and "ByteLevel" in kinds
        and kinds <= {"ByteLevel", "Split"}
    )


def _added(reference: "Tokenizer") -> list[str]:
    return [token.content for token in reference.get_added_tokens_decoder().values()]
