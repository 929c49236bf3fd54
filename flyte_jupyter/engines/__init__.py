"""What a cluster is made of: one module an engine."""
