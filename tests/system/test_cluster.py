"""A cluster of several nodes on this machine: they are killed and added while a run goes on, the head too. In the end
the table is an undisturbed run's, bit for bit (simple_judge.py).

The driver is a process of its own, which notes where each unit is embedded.
"""

import json
import multiprocessing
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import lance
import pytest
import yaml

from tests.support.clusters import PATIENCE, Nodes, environment
from tests.support.simple_judge import expected_vectors, judge, write_corpus

ROOT = Path(__file__).parents[2]
ROWS = 480

DRIVER = textwrap.dedent(
    """
    import sys, time
    import ray
    from pipelines.cli import app as cli
    from pipelines.engine import feed
    from pipelines.engine import ray as ray_executor
    from pipelines.engine import watch
    from pipelines.run import sizing
    from pipelines.tasks import embed

    feed.SPANS, feed.SPANS_PER_REPLICA, sizing.SPAN_BYTES = 8, 2, 1
    watch.PATIENCE_SECONDS = 5.0
    ray_executor.LOOK_SECONDS = 1.0
    ray_executor.HEAD_LOST_SECONDS = 8.0
    log, allowed = sys.argv[2:]

    real = embed.embedder

    def noting(spec):
        work = real(spec)

        def note(parcels):
            with open(log, "a") as lines:
                lines.write(ray.get_runtime_context().get_node_id() + "\\n")
            number = len(open(log).readlines())
            while number > int(open(allowed).read() or 0):
                time.sleep(0.1)
            return work(parcels)

        return note

    embed.embedder = noting
    sys.argv = ["vectormill", "embed", sys.argv[1], "--json"]
    cli.main()
    """
)


class Driver:
    """`vectormill embed` in a process of its own. Replicas end only as many units as `allow` says, so that what is
    tested happens while they work, on a machine of any speed."""

    def __init__(self, folder, address):
        name = f"driver-{len(list(folder.iterdir()))}"
        self.log, self.errors, self.allowed = (folder / f"{name}.{kind}" for kind in ("log", "stderr", "allowed"))
        self.allow(0)
        job = {
            "corpus": {"uri": str(folder / "corpus"), "id": "doc_id"},
            "model": {"weights": "fake"},
            "table": {"uri": str(folder / "db"), "name": "t"},
            "run": {
                "engine": "ray",
                "address": address,
                "replicas": {"min": 1, "max": 3},
                "rows_per_unit": 16,
                "commit_every_seconds": 0.5,
            },
        }
        (folder / "job.yaml").write_text(yaml.safe_dump(job))
        command = [sys.executable, "-c", DRIVER, str(folder / "job.yaml"), str(self.log), str(self.allowed)]
        with self.errors.open("w") as errors:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL, stderr=errors
            )

    def allow(self, units):
        self.allowed.with_suffix(".new").write_text(str(units))
        self.allowed.with_suffix(".new").replace(self.allowed)

    def begun(self, *on):
        """How many units were begun on these nodes."""
        lines = self.log.read_text().split() if self.log.exists() else []
        return sum(lines.count(node.node_id) for node in on)

    def wait_for(self, what):
        deadline = time.monotonic() + PATIENCE
        while not what():
            assert self.process.poll() is None, self.errors.read_text()
            assert time.monotonic() < deadline, f"still waiting:\n{self.errors.read_text()}"
            time.sleep(0.1)

    def wait_for_work_on(self, *nodes):
        self.wait_for(lambda: all(self.begun(node) for node in nodes))


def rows_in(table):
    """Rows that are visible; the first version is the empty table."""
    return lance.dataset(str(table)).count_rows() if (table / "_versions").exists() else 0


def last_record(folder):
    newest = max((folder / "db" / "t.vectormill" / "runs").iterdir(), key=lambda path: path.stat().st_mtime)
    return json.loads(newest.read_text())


def scenario(tmp_path):
    try:
        nodes_and_the_head_die(tmp_path)
    finally:
        for cluster in Nodes.made:
            cluster.end()


def nodes_and_the_head_die(tmp_path):
    write_corpus(tmp_path / "corpus", ROWS)
    table = tmp_path / "db" / "t.lance"

    first = Nodes(workers=2)
    driver = Driver(tmp_path, first.address)
    driver.wait_for_work_on(*first.workers)  # the pool grew from one replica to both nodes
    first.kill(first.workers[0])  # with units in hand
    driver.wait_for_work_on(first.add())  # it grew to a node that came later
    driver.allow(10)
    driver.wait_for(lambda: rows_in(table))
    first.kill_head()
    assert driver.process.wait(PATIENCE) == 1
    errors = driver.errors.read_text()
    assert "does not answer any more. What is committed stays; the same command goes on from there" in errors
    assert "Traceback" not in errors
    assert last_record(tmp_path)["outcome"] == "failed"
    first.end()
    expected = expected_vectors(ROWS)
    before = judge(str(table), expected)
    assert 0 < before["rows"] <= 160
    assert before["doubled"] == before["wrong"] == 0

    second = Nodes(workers=3)
    drained, killed, left = second.workers
    driver = Driver(tmp_path, second.address)
    driver.wait_for_work_on(drained, killed, left)
    second.drain(drained)
    driver.allow(9)
    driver.wait_for(lambda: driver.begun(*second.workers) > 9)
    second.kill(drained)
    second.kill(killed)  # with units in hand, and nothing takes its place
    driver.allow(10**6)
    assert driver.process.wait(PATIENCE) == 0, driver.errors.read_text()
    assert "units are in the table" in driver.errors.read_text()
    assert "narrowing down" not in driver.errors.read_text(), "no row is suspected for a node's sake"
    assert judge(str(table), expected) == {"rows": ROWS, "lost": 0, "doubled": 0, "unknown": 0, "wrong": 0}
    metrics = last_record(tmp_path)["metrics"]
    assert (metrics["replicas"], metrics["replicas_max"]) == (1, 3)
    assert left.node_id in metrics["replicas_seen"]


@pytest.mark.timeout(1800)
def test_nodes_and_the_head_die_and_nothing_is_lost(tmp_path):
    """In a process of its own: Ray may end one whose cluster is gone a minute later, in the middle of other tests."""
    process = multiprocessing.get_context("spawn").Process(target=scenario, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == 0, "its traceback is on stderr"
