"""A cluster of several nodes on this machine: they are killed and added while a run goes on, the head too. In the end
the table is an undisturbed run's, bit for bit (simple_judge.py).

Each node is a raylet with its own processes, its GPU a number in Ray's books. The driver is a process of its own, which
notes where each unit is embedded.
"""

import json
import multiprocessing
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import ClassVar

import lance
import pytest
import yaml
from ray.cluster_utils import Cluster

from tests.support.simple_judge import expected_vectors, judge, write_corpus

ROOT = Path(__file__).parents[2]
ROWS = 480
PATIENCE = 600  # seconds for anything to happen

DRIVER = textwrap.dedent(
    """
    import sys, time
    import ray
    from pipelines.cli import app as cli
    from pipelines.engine import ray as ray_executor
    from pipelines.tasks import embed as stages
    from pipelines.tasks import embed
    from pipelines.engine import watch

    watch.PATIENCE_SECONDS = 5.0
    ray_executor.LOOK_SECONDS = 1.0
    ray_executor.HEAD_LOST_SECONDS = 8.0
    log, allowed = sys.argv[2:]

    def noting(spec):
        work = stages.embedder(spec)

        def embed(parcels):
            with open(log, "a") as lines:
                lines.write(ray.get_runtime_context().get_node_id() + "\\n")
            number = len(open(log).readlines())
            while number > int(open(allowed).read() or 0):
                time.sleep(0.1)
            return work(parcels)

        return embed

    embed.embedder = noting
    sys.argv = ["vectormill", "embed", sys.argv[1], "--json"]
    cli.main()
    """
)


def environment():
    """Of processes that speak to a cluster. The second is how Ray is told to look for a node at 127.0.0.1."""
    return {**os.environ, "RAY_ENABLE_AUTO_CONNECT": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


class Nodes:
    """A cluster whose nodes come and go."""

    made: ClassVar[list] = []

    def __init__(self, workers):
        self.made.append(self)
        self._cluster = Cluster()
        self._add(num_cpus=4, num_gpus=0, include_dashboard=False)
        self.workers = [self.add() for _ in range(workers)]
        self.address = self._cluster.address

    def _add(self, **how):
        how |= {"node_ip_address": "127.0.0.1", "object_store_memory": 100 << 20}
        for _ in range(4):
            try:
                return self._cluster.add_node(**how)
            except Exception as bad:  # noqa: BLE001 - Ray's own kind, for a node that is not up after 30 seconds
                late = bad
        raise late

    def add(self):
        return self._add(num_cpus=1, num_gpus=1)

    def kill(self, node):
        self._cluster.remove_node(node, allow_graceful=False)

    def drain(self, node):
        """What a spot notice is turned into: it shall take nothing new."""
        how = {
            "address": self.address,
            "node-id": node.node_id,
            "reason": "DRAIN_NODE_REASON_PREEMPTION",
            "reason-message": "spot notice",
            "deadline-remaining-seconds": PATIENCE,
        }
        options = [f"--{name}={value}" for name, value in how.items()]
        command = [sys.executable, "-m", "ray.scripts.scripts", "drain-node", *options]
        done = subprocess.run(command, capture_output=True, text=True, env=environment())
        assert done.returncode == 0, done.stdout + done.stderr

    def kill_head(self):
        self.kill(self._cluster.head_node)

    def end(self):
        # Not Cluster.shutdown: it also resets what the Ray of other tests in this process uses.
        for node in self._cluster.list_all_nodes()[::-1]:
            self.kill(node)


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
