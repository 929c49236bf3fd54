"""The magics: they parse and delegate, and decide nothing."""
