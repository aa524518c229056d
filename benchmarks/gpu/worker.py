"""The second process: it runs steps one after the other and writes down at once what each gave."""

from __future__ import annotations

import faulthandler
import gc
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import faults, paths, records
from benchmarks.gpu.device import is_poisoned
from benchmarks.gpu.steps import Asked, Step
from benchmarks.gpu.supervise import POISONED


def work(asked: Asked, out: Path, steps: Sequence[Step]) -> None:
    """Runs the steps; ends early, with POISONED, when the device fails: then every further call to it would too."""
    faulthandler.enable()
    if asked.dry:
        torch.set_num_threads(1)  # more of them wait for each other where others use the cores
    paths.install(asked)
    for step in steps:
        paths.take(records.read(out), step.needs)
        records.append(out, {"step": step.name, "begins": True})
        faulthandler.dump_traceback_later(0.9 * step.limit)  # for worker.log: where a step hangs
        record, error = run(asked, step)
        faulthandler.cancel_dump_traceback_later()
        records.append(out, record | {"with": paths.words()})
        if error is not None and is_poisoned(error):
            sys.exit(POISONED)
        del error
        free()


def run(asked: Asked, step: Step) -> tuple[dict[str, Any], BaseException | None]:
    """What the step gave, or its error and where it was raised."""
    begin = time.perf_counter()
    record: dict[str, Any] = {"step": step.name}
    raised = None
    try:
        if asked.faults:
            faults.strike(step.name)
        record["result"] = step.run(asked)
    except Exception as error:  # noqa: BLE001 - whatever it was, the next steps are to run
        raised = error
        record |= {"error": f"{type(error).__name__}: {error}"[:2000], "where": where(error)}
        if found := getattr(error, "found", None):  # what parts of the step gave before the device failed
            record["result"] = {"parts": found}
    record["seconds"] = round(time.perf_counter() - begin, 2)
    return record, raised


def where(error: BaseException) -> str:
    """File and line that raised, innermost last, without folders."""
    places, trace = [], error.__traceback__
    while trace is not None:
        places.append(f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}")
        trace = trace.tb_next
    return " < ".join(places[-6:])


def free() -> None:
    """Gives back what a step left on the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
