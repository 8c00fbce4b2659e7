"""Heat's stacks survive the death of their engine.

The only package that imports heat. An operator installs it beside Heat and sets
``[liveness] enabled``; heat-engine loads it as a stack lifecycle plugin
(:mod:`liveness.heat.plugin`). While it is disabled nothing happens at all.
"""
