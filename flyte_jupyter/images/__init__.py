"""Images: what of one holds on this machine, and building the real thing."""
