"""A Flyte backend on one machine, for tests: its services as generated, its pods processes.

A container's command runs as a subprocess in an empty folder. There is no registry, no queue and
no login; everything else that a run needs is what a deployment does.
"""
