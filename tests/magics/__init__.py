"""The magics, in an IPython shell of the test process, where nothing is started."""
