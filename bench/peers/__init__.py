"""Other systems that run jobs at a time, or say who is alive, measured beside this
program.

Each is a module that runs in an environment of its own (``requirements.txt`` and
``node/package.json`` pin the versions; the product's requirements know none) and
understands the commands of :mod:`bench.peers.reporter`. The harness is
:mod:`bench.peers.catalogue`, ``install``, ``home`` and ``measure``.
"""
