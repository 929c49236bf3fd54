"""The PyTorch engine; its description is in `engine`, which imports no torch."""
