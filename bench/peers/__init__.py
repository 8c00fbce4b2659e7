"""Other systems that run jobs at a time, measured beside this program.

Each is a module that runs in an environment of its own (``requirements.txt`` and
``node/package.json`` pin the versions; the product's requirements know none) and
understands three commands: ``prepare URL``, ``fill URL COUNT DUE_IN SPREAD`` and
``work URL``. Each is set up as its own documentation says for speed.
"""
