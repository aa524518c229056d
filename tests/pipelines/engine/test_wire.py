"""What travels between processes arrives as it left."""

from collections import Counter

import pyarrow as pa

from pipelines.engine.stage import Parcel, Receipt, Tally
from pipelines.engine.wire import decode, encode


def test_a_tally_arrives_whole():
    tally = Tally(
        tokens=7,
        reasons=Counter(empty_text=2),
        seconds={"embed": 1.5},
        replicas=frozenset([("node", 12)]),
        facts=frozenset([("kernels", "torch"), ("slower", "no C compiler")]),
    )
    parcel = Parcel((), pa.table({"a": [1]}), tally)
    receipt = Receipt((), ("{}",), tally + Tally(facts=frozenset([("kernels", "triton")])))
    found = decode(encode([parcel, receipt]))
    assert [one.tally for one in found] == [parcel.tally, receipt.tally]
    assert len(found[1].tally.facts) == 3
