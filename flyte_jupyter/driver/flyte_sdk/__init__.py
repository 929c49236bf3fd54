"""What touches private names of Flyte's SDK; contract tests fail loudly when a new one changes one.

The SDK offers no public way to run a task with native values on the caller's own thread, to have
nested tasks run elsewhere, or to map in parallel on one machine.
"""
