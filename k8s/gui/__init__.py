"""The Alignment panel: a viewer of runs, never their parent. `aios gui` starts it."""
