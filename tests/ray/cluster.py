"""A Ray cluster of two nodes of one core each, on this machine, for as long as a command runs:

    python tests/ray/cluster.py COMMAND [ARGUMENT...]

``RAY_ADDRESS`` is set for the command.
"""

from __future__ import annotations

import os
import subprocess
import sys

from ray.cluster_utils import Cluster

NODE = {"num_cpus": 1, "object_store_memory": 100_000_000}

if __name__ == "__main__":
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    try:
        cluster.add_node(**NODE)
        code = subprocess.run(sys.argv[1:], env=os.environ | {"RAY_ADDRESS": str(cluster.address)}, check=False).returncode
    finally:
        cluster.shutdown()
    sys.exit(code)
