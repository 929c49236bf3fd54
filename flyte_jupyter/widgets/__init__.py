"""What a person sees: progress, tables and reprs, with text wherever there is no browser."""
