"""Devices, hosts, signals, files, progress and traces; independent of networks."""
