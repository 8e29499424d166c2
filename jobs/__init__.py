"""What a pipeline step does: ingest, rm, dpo, evaluation. Runs on a laptop or in a container."""
