"""The step `ingest`: from an Argilla export to validated train, eval and test splits."""
