"""A cluster of several nodes on this machine. Each is a raylet with its own processes, its GPU a number in Ray's
books."""

import os
import subprocess
import sys
from typing import ClassVar

from ray.cluster_utils import Cluster

PATIENCE = 600  # seconds for anything to happen


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
