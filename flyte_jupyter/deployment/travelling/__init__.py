"""What a task takes along to a container, and does there.

It is pickled by value, for the container has nothing of this package: so it imports Python's own
modules, and Flyte's where it is used.
"""
