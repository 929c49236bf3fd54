"""The tests: a folder a layer, and `e2e` for the whole in a real kernel."""
