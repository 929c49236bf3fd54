"""Databricks: declared and checked here, run from a Flyte deployment."""
