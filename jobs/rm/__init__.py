"""The step `rm`: a reward model from preference pairs."""
