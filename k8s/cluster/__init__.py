"""All that talks to the Kubernetes API: client, watches, the conductor's driver, the backend of `aios jobs`.

The client is our own, of the standard library: the conductor's image stays small and its memory low, and a watch that
breaks is handled here, where the meaning is known.
"""
