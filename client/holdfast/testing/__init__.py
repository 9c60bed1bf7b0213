"""The testing kit: real clusters on this machine, for the tests of whoever uses Holdfast.

```python
with holdfast.testing.LocalCluster(nodes=6, sans=3) as cluster:
    bucket = cluster.connect().create_bucket("b")
    cluster.lose("san=a")  # SIGKILL and wipe; `kill` keeps the data
    cluster.start("san=a")
    cluster.replace("san=a")
    cluster.wait_healthy()
```

The pytest plugin gives tests such a cluster as the fixture `holdfast_cluster`.
"""

from holdfast.testing.local import LocalCluster, NodeState
from holdfast.testing.refusals import LocalRefused

__all__ = ["LocalCluster", "LocalRefused", "NodeState"]
