"""The cluster's one TOML file as a frozen, typed value, or the list of every mistake in it.

`load` is the only way in. The file is the seed from which a cluster is initialised and afterwards holds local facts
(where a node listens, where its bytes lie, its limits); what the cluster has decided since is in its map, which this
package knows nothing of. It imports the standard library, one validation library and nothing else.
"""

from holdfast_node.config.loading import load
from holdfast_node.config.mistakes import ConfigError, Mistake
from holdfast_node.config.schema import (
    AckFloor,
    ClusterConfig,
    Config,
    LimitsConfig,
    NodeConfig,
    PoolConfig,
    ScrubConfig,
    UndoConfig,
)

__all__ = [
    "AckFloor",
    "ClusterConfig",
    "Config",
    "ConfigError",
    "LimitsConfig",
    "Mistake",
    "NodeConfig",
    "PoolConfig",
    "ScrubConfig",
    "UndoConfig",
    "load",
]
