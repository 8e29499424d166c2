"""What can be the matter with a pod: one function a cause, each from what is known to a diagnosis or None."""
