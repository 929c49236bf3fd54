"""The same cell or function on a Flyte deployment: what is sent there, and how it is followed.

Everything goes through the SDK's own client, configured in the SDK's own way. What is sent runs in
a container that has Flyte and nothing of this package.

==================  ============================================================================
`travelling`        what runs in the container; it is pickled by value and imports nothing of ours
`values`            types for the values seen, and a way there for those that Flyte has no type for
`tasks`             the Flyte task that a cell or a function becomes
`submission`        sending it
`following`         phases, logs and outputs of the run
==================  ============================================================================
"""
