"""The Spark engine: a standalone master and workers, with `spark` there in every cell."""
