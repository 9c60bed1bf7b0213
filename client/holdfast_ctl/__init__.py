"""`clusterctl`: the operator's commands, local clusters, reports. It speaks to nodes over the wire only."""
