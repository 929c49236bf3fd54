"""The benchmark: what a user of a notebook waits for, measured in real kernels, beside the peers.

``python -m tests.bench`` prints one table. Each row is taken inside a real ipykernel that a
Jupyter client drives, as Lab does. Where another tool does the same thing, it does so in turns with
ours, and in the same kernel if it can, since only the ratio of two such figures means much on a
shared machine.

Nothing remains of a benchmark: kernels, engines and clusters run in a workplace of their own, whose
processes are known by a token in their environment and whose folder goes with it. Linux only, since
processes and memory are read from ``/proc``.
"""
