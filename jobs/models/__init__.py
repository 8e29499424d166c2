"""Base models: fetching them, loading them, telling one from another."""
