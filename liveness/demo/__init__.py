"""The demo: engines are killed and frozen, and nothing is lost."""
