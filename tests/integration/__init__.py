"""Real processes, real gRPC, real disks, on loopback."""
