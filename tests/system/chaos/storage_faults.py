"""What an object store and the network before it do: bursts of failures between drivers and the store, which the judge
and the other users of the table do not see. A burst is one fault, however many requests it hits."""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.support.fault_proxy import Rule
from tests.system.chaos.setup import FAULTY, Setup
from tests.system.chaos.trial import Trial

WRITES = ("put", "put-if-absent", "multipart-complete")
SECONDS_UNTIL_HIT = 30.0


def burst(fault: str, kinds: tuple[str, ...] = (), seconds: float = 2.0) -> Callable[[Trial], bool]:
    """Some or all requests (of these kinds) fail for a while, half of the time only those for manifests. A driver may
    outlast it, or end with exit code 1 and a message; what it must not do is lose count."""

    def inflict(trial: Trial) -> bool:
        trial.working()
        for one in trial.drivers:
            one.may_fail = True
        key = "_versions/" if trial.chance.random() < 0.5 else ""
        share = trial.chance.choice((0.2, 0.5, 1.0))
        proxy = trial.proxy
        assert proxy is not None
        before = proxy.injected[fault]
        proxy.rules = [Rule(fault, kinds=kinds, key=key, probability=share, seconds=seconds)]
        deadline = time.monotonic() + SECONDS_UNTIL_HIT
        while proxy.injected[fault] == before and time.monotonic() < deadline and any(d.alive for d in trial.drivers):
            time.sleep(0.05)
        time.sleep(trial.chance.uniform(0, 3))
        proxy.rules = []
        return proxy.injected[fault] > before

    return inflict


def _faulty(setup: Setup) -> bool:
    return setup.store == FAULTY


KINDS: list[tuple[str, Callable[[Trial], bool], float, Callable[[Setup], bool]]] = [
    ("500 from the store", burst("500"), 2, _faulty),
    ("503 SlowDown", burst("slow-down"), 2, _faulty),
    ("requests time out", burst("hang"), 2, _faulty),
    ("dropped connections", burst("drop"), 2, _faulty),
    ("lost answers to writes", burst("lost-answer", WRITES), 3, _faulty),
    ("500 after writes that landed", burst("lost-answer-500", WRITES), 3, _faulty),
    ("slow reads", burst("slow-read", ("get",)), 1, _faulty),
    ("truncated reads", burst("truncated-read", ("get",)), 2, _faulty),
    ("credentials expire", burst("expired-credentials"), 1, _faulty),
]
