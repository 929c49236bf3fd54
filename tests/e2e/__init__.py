"""The whole, in a real kernel: every promise that a user can see kept or broken."""
