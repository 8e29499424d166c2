"""PID 1 of every step, and the same at home: starts it, watches over it, says in the end what became of it.

    python -m jobs.supervisor -- aios hrm-hf rm-train --base-model ... --output-dir artifacts/rm/demo

AIOS_RUN, AIOS_STEP       whose attempt this is
AIOS_OUTPUT               the folder that the step publishes; without it exit 0 is believed
AIOS_RUNS_DIR             where attempts are written down (default artifacts/runs)
AIOS_ATTEMPT              the number this attempt must have; taken already: nothing is started (default: the next)
AIOS_NPROC                processes to start with torchrun (default 1: none of it)
AIOS_KILL_AFTER_S         seconds from the request to stop until the step is killed (default: never, the caller's clock)
AIOS_HANG_AFTER_S         seconds without any progress, at least, before a step is called hung (default 600)
AIOS_ON_HANG              restart: end a hung step, to be tried again; otherwise it is only said
AIOS_GROW_MEMORY          set: running out of memory is no final failure, the conductor gives the next attempt more
AIOS_TERMINATION_LOG      where Kubernetes reads the last message (default /dev/termination-log, if it exists)

Every attempt has its folder `RUN/steps/STEP/attempt-N/`: `status.json` (the state, rewritten every few seconds as a
heartbeat), `events.jsonl`, `stdout.log`, and `stop`, which anybody may create to ask the step to save and end.
"""
