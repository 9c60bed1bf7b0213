"""The live thrasher: real processes, a checked load, every nemesis this machine allows, and an auditor of the disks."""
