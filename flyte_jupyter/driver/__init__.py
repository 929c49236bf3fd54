"""The driver, a Jupyter kernel beside the cluster, and the notebook's side of talking to it."""
