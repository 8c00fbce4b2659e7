"""Command lines. Each ends with one line, not a traceback, for a user's mistake."""
