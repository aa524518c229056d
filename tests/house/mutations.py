"""Switch off one loss-prevention rule at a time and see the suite catch it; exit 1 if a mutation survives.

    python -m tests.house.mutations [NAME ...]        (or `make mutations`: all of them, some minutes)

Each mutation is a few exact replacements in a copy of the tree, never in place, and fails loudly when the source no
longer holds what it replaces (tests/house/test_mutations.py checks that in CI). Then a slice of the chaos suite, or the
tests of the rule, run on the copy and must fail. On a copy without the mutation the same command must pass, or its
failure would prove nothing; where a mutation needs a provocation (an engine that delivers twice), that stays.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TREE = ("vectormill", "pipelines", "actors", "tests", "benchmarks", "pyproject.toml")
LONGEST_SECONDS = 900
Edit = tuple[str, str, str]  # file, what stands there once, what stands there instead


@dataclass(frozen=True)
class Mutation:
    """rule: what is switched off. catch: the command that must fail, after `python`. provocation: edits that the rule
    has to withstand, made with and without the others."""

    name: str
    rule: str
    edits: Sequence[Edit]
    catch: Sequence[str]
    provocation: Sequence[Edit] = ()


def chaos(only: str, faults: int = 3, seed: int = 1) -> tuple[str, ...]:
    options = f"--faults {faults} --minutes 0 --seed {seed} --failures 1 --at-once 1 --engine inline --store folder"
    return ("-m", "tests.system.chaos", *options.split(), "--only", only)


def tests(*nodes: str) -> tuple[str, ...]:
    return ("-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *(f"tests/{node}" for node in nodes))


MUTATIONS = [
    Mutation(
        "fence",
        "two runs' commits conflict",
        [
            (
                "pipelines/table/fence.py",
                "removed_fragment_ids=[FENCE_ID, *removed]",
                "removed_fragment_ids=[2**30 + uuid.uuid4().int % 2**30, *removed]",
            )
        ],
        chaos("overtaken"),
    ),
    Mutation(
        "whole unit",
        "the fragments of a unit are committed together",
        [
            (
                "pipelines/tasks/write.py",
                "        return sink.write(pa.RecordBatchReader.from_batches(sink.schema, batches))\n",
                "        rows = pa.Table.from_batches(batches, sink.schema)\n"
                "        return sink.write(rows[:4].to_reader()) + sink.write(rows[4:].to_reader())\n",
            ),
            (
                "pipelines/run/commits.py",
                "        self._commit([f for receipt in taken for f in receipt.fragments], self._properties())",
                "        for fragment in [f for receipt in taken for f in receipt.fragments]:\n"
                "            self._commit([fragment], self._properties())",
            ),
        ],
        chaos("kill -9 of the driver"),
    ),
    Mutation(
        "first receipt wins",
        "a unit that the engine delivers twice is taken once",
        [
            (
                "pipelines/engine/in_hand.py",
                "if not there or (isinstance(result, Receipt) and len(there) < len(result.bundle)):",
                "if isinstance(result, Receipt):\n            return result\n        if not there:",
            )
        ],
        chaos("kill -9 of the driver"),
        provocation=[
            (
                "pipelines/engine/inline.py",
                "(item for span in spans for item in read(span))",
                "(item for span in spans for _ in range(2) for item in read(span))",
            )
        ],
    ),
    Mutation(
        "what fails",
        "a unit that failed is drawn again",
        [
            (
                "pipelines/run/workload.py",
                "                self._again.extend(self.attempts.after_failure(result))\n",
                "                self.attempts.after_failure(result)\n",
            )
        ],
        tests("pipelines/run/test_scale.py::test_what_fails_is_tried_again_in_the_same_run_of_the_engine"),
    ),
    Mutation(
        "what is lost",
        "what an engine was given and never answered is run again",
        [("pipelines/run/workload.py", "        self._again.extend(parts)\n", "")],
        tests("pipelines/run/test_unit_attempts.py::test_rows_that_kill_their_process_are_found_and_recorded"),
    ),
    Mutation(
        "all that is to do",
        "an engine that ends early is run again over what it did not draw",
        [("pipelines/run/workload.py", "        while not self._is_drawn:\n", "        if not self._is_drawn:\n")],
        tests("pipelines/run/test_scale.py::test_rows_to_blame_are_looked_for_before_many_are_lost"),
    ),
    Mutation(
        "a feed that dies",
        "what the feed of an execution did not hand out is run again",
        [
            (
                "pipelines/engine/ray.py",
                "                if all_fed and (not in_hand.units or _dead_nodes() <= dead):",
                "                if not in_hand.units or _dead_nodes() <= dead:",
            )
        ],
        tests("pipelines/engine/test_watch.py::test_units_that_the_feed_never_handed_out_are_no_row_s_fault"),
    ),
    Mutation(
        "a feed is not tried again",
        "a second feed would give other spans in the place of those that the first one gave",
        [("pipelines/engine/ray.py", "        max_retries=0,  # a second", "        max_retries=3,  # a second")],
        tests("pipelines/engine/test_feed.py::test_a_feed_that_dies_loses_nothing_and_blames_nobody"),
    ),
    Mutation(
        "shard identity",
        "a shard is named by its content",
        [
            (
                "pipelines/units.py",
                'content_id("shard", self.path, self.size, self.version, self.reader)',
                'content_id("shard", self.path)',
            )
        ],
        chaos("shard changed"),
    ),
    Mutation(
        "fingerprint",
        "one table, one embedding space",
        [
            (
                "pipelines/run/prepare.py",
                "if differences := table.metadata.differences(metadata):",
                "if differences := dict[str, tuple[object, object]]():",
            )
        ],
        tests("pipelines/run/test_refusals.py::test_other_embedding_space_is_refused_with_the_fields[prompt-change1]"),
    ),
    Mutation(
        "replica digest",
        "a replica with other weights does not work",
        [("actors/weights/locate.py", "    if found != spec.digest:", "    if False:")],
        tests("pipelines/run/test_run.py::test_weights_that_change_after_the_plan_are_refused"),
    ),
    Mutation(
        "retry from source",
        "a write that is tried again begins at the first row",
        [
            (
                "pipelines/tasks/write.py",
                "    def write() -> tuple[str, ...]:\n"
                "        batches = (batch for one in stored for batch in one.batches())\n",
                "    batches = (batch for one in stored for batch in one.batches())\n\n"
                "    def write() -> tuple[str, ...]:\n",
            )
        ],
        chaos("I/O error in mid-write"),
    ),
    Mutation(
        "own files",
        "a run removes what runs wrote, and nothing else",
        [("pipelines/table/orphans.py", 'f"data/{FILE_PREFIX}"', '"data/"')],
        chaos("a compaction in flight"),
    ),
    Mutation(
        "identity before a commit",
        "a run commits to the table that it began with",
        [
            (
                "pipelines/table/identity.py",
                "    if found != mine:\n        raise Superseded(",
                "    if False:\n        raise Superseded(",
            ),
            (
                "pipelines/table/identity.py",
                "        is_fine = found == mine or _may_be_older(below, found, address, version, mine)",
                "        is_fine = True",
            ),
        ],
        tests("pipelines/table/test_identity.py"),
    ),
    Mutation(
        "identity after a commit",
        "a commit that landed on another table is taken back",
        [
            (
                "pipelines/table/identity.py",
                "        is_fine = found == mine or _may_be_older(below, found, address, version, mine)",
                "        is_fine = True",
            )
        ],
        tests("pipelines/table/test_identity.py"),
    ),
    Mutation(
        "healing",
        "what a killed run committed on top of another table is taken back by the next",
        [("pipelines/table/identity.py", "    while versions(address):\n", "    while False:\n")],
        tests("pipelines/table/test_identity.py"),
    ),
    Mutation(
        "a whole version stays",
        "a version over one from before tables had a number is not taken back",
        [("pipelines/table/identity.py", "        if found.fingerprint and not found.table:", "        if False:")],
        tests(
            "system/test_tables_that_exist.py::test_versions_of_format_2_that_a_tag_keeps_are_no_other_table",
        ),
    ),
    Mutation(
        "cleaned up below",
        "a version under which others were removed is not taken back",
        [
            (
                "pipelines/table/identity.py",
                "    return below.version < version - 1 and not has_other_number and _has_its_files(address, version)",
                "    return False",
            )
        ],
        tests("pipelines/table/test_identity.py"),
    ),
    Mutation(
        "tokenizer settings",
        "what stands beside tokenizer.json is read",
        [
            (
                "actors/weights/tokenizer_classes.py",
                "    return name if name in CLASSES else BACKEND",
                "    return BACKEND",
            )
        ],
        tests("actors/checks/test_tokens.py", "actors/embedder/test_peers_settings.py"),
    ),
    Mutation(
        "ids as transformers",
        "a replica whose texts get other ids than transformers gives them does not work",
        [
            (
                "actors/checks/tokens.py",
                "            if mine != other and max(other, default=0) < recipe.vocabulary:",
                "            if False:",
            )
        ],
        tests("actors/checks/test_tokens.py"),
    ),
    Mutation(
        "half a copy",
        "data without a version is not an empty place",
        [("pipelines/table/table.py", "            _refuse_half_a_copy(address)\n", "")],
        chaos("half a copy"),
    ),
    Mutation(
        "history",
        "no version since a tagged one is missing, and there is no branch",
        [("pipelines/table/identity.py", "    check_history(handle.address, newest)\n", "")],
        tests("pipelines/table/test_identity.py"),
    ),
    Mutation(
        "owner's overwrite",
        "an owner's overwrite or restore ends a run",
        [
            (
                "pipelines/table/fence.py",
                'ENDS_A_RUN = {"Restore": "restored an older version of", "Overwrite": "overwrote"}',
                "ENDS_A_RUN: dict[str, str] = {}",
            )
        ],
        chaos("older version restored"),
    ),
    Mutation(
        "unit ranges",
        "a unit's range is read, not guessed from the rows that are left",
        [
            (
                "pipelines/table/contents.py",
                "(first, first + in_unit), *rest)",
                "(first, first + rest[0]), *rest)",
            )
        ],
        chaos("rows deleted by the owner"),
    ),
    Mutation(
        "passages",
        "a row that lost passages is seen",
        [("pipelines/table/contents.py", "if not units:\n        return 0\n    which", "return 0\n    which")],
        tests("pipelines/maintenance/test_verify.py::test_lost_passage"),
    ),
    Mutation(
        "row alone",
        "how a value is written does not depend on its neighbours",
        [
            (
                "pipelines/corpus/columns.py",
                "values = [_value(one) for one in column]",
                "values = column.cast(pa.int64()).to_pylist()",
            )
        ],
        tests("pipelines/test_properties.py::test_a_row_is_read_alone_as_with_others"),
    ),
    Mutation(
        "marker of little to do",
        "after a run that died in its own process the next one goes through Ray",
        [("pipelines/run/little.py", "    if device is not None and (found", "    if False and (found")],
        tests(
            "pipelines/run/test_little.py::test_the_night_after_goes_through_ray_and_the_row_is_found[hang-hangs_worker]"
        ),
    ),
    Mutation(
        "finite in float16",
        "a vector that is not finite once it is stored has a reason",
        [("pipelines/tasks/write.py", "        if beyond.any():", "        if False:")],
        tests("pipelines/tasks/test_write.py"),
    ),
]


def changed(edit: Edit, root: Path) -> str:
    """The file's text with the edit made. Raises ValueError when it does not fit the source."""
    name, old, new = edit
    text = (root / name).read_text()
    if text.count(old) != 1:
        raise ValueError(f"{name} holds {text.count(old)} times, not once, what this mutation replaces:\n{old}")
    return text.replace(old, new)


def attempt(edits: Sequence[Edit], command: Sequence[str]) -> tuple[bool, str, float]:
    """(whether the command passed on a changed copy of the tree, its output, seconds)."""
    with tempfile.TemporaryDirectory(prefix="mutation-") as name:
        copy = Path(name)
        for part in TREE:
            if (ROOT / part).is_dir():
                shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / part, copy / part)
        for edit in edits:
            (copy / edit[0]).write_text(changed(edit, copy))
        environment = {**os.environ, "PYTHONPATH": str(copy), "TMPDIR": name}
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, *command],
            cwd=copy,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LONGEST_SECONDS,
            check=False,
        )
        return done.returncode == 0, done.stdout, time.monotonic() - started


def first_complaint(output: str) -> str:
    """What the suite or the test said."""
    found = re.search(r"FAILED: (.*(?:\n.+)?)|^E +(.*)", output, re.MULTILINE)
    said = (found[1] or found[2]) if found else output.strip().splitlines()[-1]
    return " ".join(said.split())[:160]


def main(names: Sequence[str]) -> int:
    survived = 0
    print("mutation            | caught by                       | seconds | with")
    for mutation in [m for m in MUTATIONS if not names or m.name in names]:
        passed, output, _ = attempt(mutation.provocation, mutation.catch)
        if not passed:
            print(f"{mutation.name:19} | fails without the mutation, too: {first_complaint(output)}", flush=True)
            survived += 1
            continue
        passed, output, seconds = attempt([*mutation.edits, *mutation.provocation], mutation.catch)
        survived += passed
        slice_ = mutation.catch[-1].split("::")[-1]
        verdict = "SURVIVED" if passed else f"chaos: {slice_}" if "tests.system.chaos" in mutation.catch else slice_
        print(f"{mutation.name:19} | {verdict} | {seconds:.0f} | {first_complaint(output)}", flush=True)
    print(f"{survived} survived" if survived else "all caught")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
