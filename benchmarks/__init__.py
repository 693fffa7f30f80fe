"""Benchmarks: each a command, `python -m benchmarks.NAME`, that writes JSON and prints its table.

A timing is a ratio within one run, or belongs to the machine that the record names. Whoever is
compared runs in the same process, in turn; memory is taken in a process of its own.
"""
