"""Benchmark of flagjob against other download clients; `make bench` runs it."""
