"""The verdict: is the policy better than its reference, by how much, how sure. Definitions: docs/evaluation.md."""
