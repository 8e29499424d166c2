"""One frozen dataclass per command. The docstring under a field is the only copy of its documentation:
it becomes the CLI's help, the values schema and the panel's hints.
"""
