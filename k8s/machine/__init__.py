"""Runs on this machine: each step a detached process under the supervisor, one detached conductor a run.

Everything is on disk, under artifacts/runs/RUN, so every command may be started from anywhere and die at any time.
"""
