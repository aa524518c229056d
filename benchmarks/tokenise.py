"""Does fastokens give the ids of `tokenizers`, and how many tokens does a core make of text with each?

    python -m benchmarks.tokenise [--strings 60000] [--every-character] [--families] [--megabytes 20]
                                  [--rounds 3] [--tokenizer WEIGHTS] [--texts FOLDER]

Exactness: random texts of many scripts (tests/support/unicode_texts.py), text files of the installed packages, and with
--every-character every character of Unicode in a dozen surroundings, through both; with --families also with the
splitting and the added tokens of other byte-level tokenizers (RoBERTa, ModernBERT, and as the reranker's texts are
read). A mismatch is printed, and the exit code is 1.

Rates: tokens / CPU seconds of the process, from Python strings to numpy ids, one thread, in pieces of at most 4,000
characters. Each round loads both anew (`load_cpu_seconds`, with what actors/tokenizer/batch.py compares at its start)
and reads all texts twice: `first`, and `again`, when all words have been seen. Medians over the rounds.

--tokenizer names any weights as a job does; absent: Qwen3's, rebuilt as the tests do. --texts: your own text files in
place of the packages'.
"""

from __future__ import annotations

import functools
import json
import os
import random
import statistics
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ["RAYON_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
import numpy as np
from tokenizers import Tokenizer

from actors.spec import ModelSpec
from actors.tokenizer.batch import BatchTokenizer
from actors.weights.locate import locate
from actors.weights.tokenizer_files import tokenizer_file
from benchmarks import machine
from tests.support import qwen_tokenizer
from tests.support.unicode_texts import every_character, random_texts

NEVER = 10**18
TEXTS_PER_CALL = 1024
CHARACTERS_PER_PIECE = 4000
CHARACTERS_PER_CALL = 4_000_000
TEXT_FILES = (".py", ".pyi", ".md", ".rst", ".txt", ".json", ".html", ".css", ".js", ".h", ".po")
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
MASK = {"lstrip": True, "rstrip": False, "normalized": False, "single_word": False, "special": True}
SPACES = {"lstrip": False, "rstrip": False, "normalized": True, "single_word": False, "special": False}


def read_texts(folder: Path, megabytes: float) -> list[str]:
    """Text files below a folder, mixed, until they hold so many 10^6 characters."""
    paths = [path for path in sorted(folder.rglob("*")) if path.suffix in TEXT_FILES and path.is_file()]
    random.Random(0).shuffle(paths)
    texts: list[str] = []
    characters = 0
    for path in paths:
        if characters >= megabytes * 1e6:
            break
        texts.append(path.read_text(encoding="utf-8", errors="replace")[: int(megabytes * 1e6) - characters])
        characters += len(texts[-1])
    return texts


def kinds(definition: dict[str, Any], with_families: bool) -> Iterator[tuple[str, str]]:
    """The tokenizer.json as it is, then with the splitting and added tokens of other families."""
    yield "as it is", json.dumps(definition)
    if not with_families:
        return
    added = definition["added_tokens"]
    end = 1 + max(token["id"] for token in added)
    masked = [*added, {"id": end, "content": "[MASK]", **MASK}]
    spaced = [*masked, *({"id": end + n, "content": " " * n + "\u0301", **SPACES} for n in range(1, 9))]
    spaced_first = {**BYTE_LEVEL, "add_prefix_space": True}
    yield (
        "roberta",
        json.dumps({**definition, "normalizer": None, "pre_tokenizer": spaced_first, "added_tokens": masked}),
    )
    yield "modernbert", json.dumps({**definition, "pre_tokenizer": BYTE_LEVEL, "added_tokens": spaced})
    yield "without added tokens", json.dumps({**definition, "added_tokens": [], "post_processor": None})


def calls(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """The texts in parts of bounded size."""
    start = characters = 0
    for i, text in enumerate(texts):
        characters += len(text)
        if i - start + 1 == TEXTS_PER_CALL or characters >= CHARACTERS_PER_CALL or i + 1 == len(texts):
            yield texts[start : i + 1]
            start, characters = i + 1, 0


def compare(definition: str, texts: Sequence[str]) -> dict[str, Any]:
    """How many of the texts get other ids from fastokens; the first of them are printed."""
    slow, fast = (BatchTokenizer(Tokenizer.from_str(definition), after) for after in (NEVER, 0))
    tokens, wrong = 0, 0
    for part in calls(texts):
        (expected_T, expected_N), (found_T, found_N) = slow.content(part), fast.content(part)
        tokens += len(expected_T)
        if np.array_equal(expected_N, found_N) and np.array_equal(expected_T, found_T):
            continue
        for text in part:
            if slow.content([text])[0].tolist() != fast.content([text])[0].tolist():
                wrong += 1
                if wrong <= 5:
                    print(f"other ids for {text[:200]!r}", file=sys.stderr)
    return {"texts": len(texts), "tokens": tokens, "mismatches": wrong, "compared": fast.is_fast}


def rates(load: Callable[[], BatchTokenizer], texts: Sequence[str]) -> dict[str, float]:
    """One round of one tokenizer: seconds of its loading, tokens per CPU second of two readings."""
    begin = time.process_time()
    tokenizer = load()
    tokenizer.content(["a word, to begin with"])
    found = {"load_cpu_seconds": time.process_time() - begin}
    for name in ("first", "again"):
        begin, tokens = time.process_time(), 0
        for part in calls(texts):
            tokens += len(tokenizer.content(part)[0])
        found[name] = tokens / (time.process_time() - begin)
    return found


def tokenizer(definition: str, after: int) -> BatchTokenizer:
    return BatchTokenizer(Tokenizer.from_str(definition), after)


def measure(definition: str, texts: Sequence[str], rounds: int, with_fastokens: bool) -> dict[str, Any]:
    """Medians of the rounds, in which both take turns."""
    pieces = [text[i : i + CHARACTERS_PER_PIECE] for text in texts for i in range(0, len(text), CHARACTERS_PER_PIECE)]
    names = {"tokenizers": NEVER} | ({"fastokens": 0} if with_fastokens else {})
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(rounds):
        for name, after in names.items():
            made = functools.partial(tokenizer, definition, after)
            found[name].append(rates(made, pieces))
    return {
        name: {key: round(statistics.median(one[key] for one in each), 2) for key in each[0]}
        | {"first_each_round": [round(one["first"]) for one in each]}
        for name, each in found.items()
    }


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument("--strings", type=int, default=60_000, help="random texts")
    parser.add_argument("--every-character", action="store_true", help="all of Unicode, some minutes")
    parser.add_argument("--families", action="store_true", help="compare with other splitting and added tokens too")
    parser.add_argument("--megabytes", type=float, default=20, help="of text files")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokenizer", default=None)
    parser.add_argument("--texts", type=Path, default=None)
    options = parser.parse_args()
    facts = machine.facts()
    definition = json.loads(tokenizer_json(options.tokenizer))
    files = read_texts(options.texts or Path(sysconfig.get_path("purelib")), options.megabytes)
    texts = [*random_texts(options.strings, seed=0), *files, *(every_character() if options.every_character else ())]
    exact = {}
    for name, one in kinds(definition, options.families):
        exact[name] = compare(one, texts)
        print(f"{name:>20}: {exact[name]['mismatches']} of {len(texts):,} texts, {exact[name]['tokens']:,} tokens")
    if not exact["as it is"]["compared"]:
        print("fastokens is not installed, or does not do this tokenizer: nothing was compared")
    speed = measure(json.dumps(definition), files, options.rounds, exact["as it is"]["compared"])
    for name, rate in speed.items():
        print(f"{name:>20}: {rate['first']:12,.0f} tokens/s first, {rate['again']:12,.0f} again, "
              f"{rate['load_cpu_seconds']:.1f} s to load")  # fmt: skip
    found = machine.result("tokenise", vars(options), facts, exact=exact, tokens_per_cpu_second=speed)
    print(json.dumps(found))
    sys.exit(any(one["mismatches"] for one in exact.values()))


def tokenizer_json(name: str | None) -> str:
    """The tokenizer.json of some weights; of Qwen3, rebuilt, without a name."""
    if name is not None:
        folder = locate(ModelSpec(name), tokenizer_only=True)
        return tokenizer_file(folder).read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as made:
        return (qwen_tokenizer.write(Path(made)) / "tokenizer.json").read_text(encoding="utf-8")


if __name__ == "__main__":
    main()
