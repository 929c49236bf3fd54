"""Values on their way between processes of one machine, once and without a file."""
