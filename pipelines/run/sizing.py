"""How large a work unit should be, about ten seconds of one replica's work; and how units are packed: small ones into
bundles, and bundles into spans that one pass over a stretch of a file reads.

A unit is what a crash costs, and one driver schedules 60-70 units a second, so the size follows the model's speed:
128 rows for a large model on a CPU, 65,536 for a small one on a GPU. The estimate may be off by a factor of three
without harm; it is made once and stored with the table.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import prod
from pathlib import Path

from safetensors import SafetensorError, safe_open

from actors.spec import ModelError
from pipelines.engine.nodes import ModelSize
from pipelines.units import PARCEL_BYTES, UNIT_BYTES, UNSEEKABLE, Bundle, Span, Unit

SECONDS_PER_UNIT = 10.0
# For all replicas together. One driver schedules 60 a second, but the estimate of their speed may be half of it, and
# the rounding down to a power of two makes up to twice as many units of it.
UNITS_PER_SECOND_MOST = 15.0
ROWS_PER_FRAGMENT = 65_536
# A replica: half a minute's work of 512 replicas must not be forty commits, each of which rewrites the whole manifest.
COMMIT_EVERY_ROWS = 1_000_000
SMALLEST_UNIT, LARGEST_UNIT = 128, 65_536  # records; of rows fewer where each gives many
ROWS_IF_FREE = 8_192  # a model without weights (the fake one)
# Each pass over a file also reads its footer, and what lies between where reading can begin and its first row. So it
# has so many bytes of the file's rows, and this part of the file, at least: together they read a file at most twice.
SPAN_BYTES, SPANS_PER_FILE = 16 << 20, 8
BUNDLES_PER_SPAN = 16_384  # of what can only be read from its beginning; behind so many it is begun once more

# Sustained FLOP/s a replica reaches in practice: MiniLM in fp32 does 4,000 tokens/s of 21 MFLOP on one core; a
# data-centre GPU reaches at least this much with small micro-batches in bf16.
CPU_FLOPS_PER_CORE = 8e10
GPU_FLOPS = 2e14
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "float8": 1}  # of a parameter


def model_size(weights_folder: Path, dtype: str) -> ModelSize:
    """Read from the headers of the safetensors files. A token's FLOPs: 2 x the parameters outside embedding tables.

    Raises ModelError for a file that is none."""
    parameters = embeddings = 0
    for file in weights_folder.glob("*.safetensors"):
        try:
            with safe_open(file, framework="np") as opened:
                sizes = {name: prod(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{file} could not be read: {error}. Fetch the weights again") from error
        in_tables = sum(size for name, size in sizes.items() if "embed" in name or "lm_head" in name)
        embeddings += in_tables
        parameters += sum(sizes.values()) - in_tables
    return ModelSize(2.0 * parameters, (parameters + embeddings) * BYTES[dtype])


def tokens_per_second(flops: float, on_gpu: bool, threads: int = 1) -> float | None:
    """Expected speed of one replica, on a CPU with so many threads; None if a token costs nothing."""
    if flops == 0:
        return None
    return (GPU_FLOPS if on_gpu else CPU_FLOPS_PER_CORE * threads) / flops


def rows_per_unit(tokens_per_row: float, speed: float | None, replicas: int = 1, records_per_row: float = 1.0) -> int:
    """A power of two, so that small changes of the estimate do not change it. Longer units for more than 150 replicas:
    the driver must keep up with all of them."""
    if speed is None:
        return ROWS_IF_FREE
    seconds = max(SECONDS_PER_UNIT, replicas / UNITS_PER_SECOND_MOST)
    smallest = _power_of_two(SMALLEST_UNIT / max(records_per_row, 1.0))
    return max(smallest, min(LARGEST_UNIT, _power_of_two(seconds * speed / max(tokens_per_row, 1.0))))


def rows_of_few_bytes(bytes_per_row: float) -> int:
    """The most rows for a unit of rows of so many bytes, as they are read: a power of two."""
    return _power_of_two(PARCEL_BYTES / max(bytes_per_row, 1.0))


def _power_of_two(wanted: float) -> int:
    """The largest one that is not more, at least 1."""
    return 1 << max(0, round(wanted).bit_length() - 1)


def parcels_per_fragment(rows: int, seconds_between_commits: float, replicas: int) -> int:
    """How many parcels of `rows` rows one Lance fragment should hold: enough for a healthy size, but no more than the
    replicas finish between two commits."""
    by_size = ROWS_PER_FRAGMENT // max(rows, 1)
    by_time = int(seconds_between_commits / SECONDS_PER_UNIT * replicas)
    return max(1, min(by_size, by_time))


def rows_per_commit(replicas: int) -> int:
    """How many rows may wait for a commit."""
    return COMMIT_EVERY_ROWS * replicas


def bundles(units: Iterable[Unit], rows_per_bundle: int, units_per_bundle: int = 256) -> Iterator[Bundle]:
    """Pack neighbouring small units so that many tiny files do not become many tiny tasks."""
    held: list[Unit] = []
    rows = share = 0
    for unit in units:
        full = rows + unit.rows > rows_per_bundle or share + unit.share > UNIT_BYTES or len(held) == units_per_bundle
        if held and full:
            yield tuple(held)
            held, rows, share = [], 0, 0
        held.append(unit)
        rows += unit.rows
        share += unit.share
    if held:
        yield tuple(held)


def spans(packed: Iterable[Bundle]) -> Iterator[Span]:
    """Join bundles that one pass over a file reads: by their bytes, where reading can begin anew behind them; all of a
    row group, of a record batch, of a compressed stream."""
    held: list[Bundle] = []
    share = 0
    for bundle in packed:
        if held and (len(held) == BUNDLES_PER_SPAN or not _joins(held[-1][-1], bundle[0], share)):
            yield tuple(held)
            held, share = [], 0
        held.append(bundle)
        share += sum(unit.share for unit in bundle)
    if held:
        yield tuple(held)


def _joins(last: Unit, first: Unit, share: int) -> bool:
    """Whether a pass that ends with `last` goes on with `first`. share: bytes of its rows in the file, about."""
    if last.path != first.path or first.start < last.stop:
        return False
    if first.stretch == UNSEEKABLE:
        return True
    begins = first.stretch != last.stretch or first.seek[0] > last.seek[0]
    return not begins or share < max(SPAN_BYTES, first.size // SPANS_PER_FILE)
