"""Chaos: real engines on a real database, faults from a seed, and a judge.

``python -m tests.chaos --help``; what each part does is in doc/source/chaos.rst.
"""
