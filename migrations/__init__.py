"""Schema migrations, installed as ``liveness.migrations``.

A revision is named MAJOR.MINOR. A new minor only adds, so that engines of the release
before go on working on it (expand); a new major takes away what no supported release
uses any more (contract). Each can be run again after it was killed half-way.
"""
