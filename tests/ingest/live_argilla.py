"""Runs the real argilla-server over HTTP, its search index alone replaced: `python live_argilla.py PORT HOME KEY`.

Started by test_live_server.py with an interpreter that has argilla-server and fakeredis, whose TCP server stands in
for the Redis process that the server wants to reach when it starts; it imports nothing of ours.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading


def main() -> None:
    port, home, key = sys.argv[1:4]
    from fakeredis import TcpFakeServer

    redis = TcpFakeServer(("127.0.0.1", 0))
    threading.Thread(target=redis.serve_forever, daemon=True).start()
    os.environ |= {
        "ARGILLA_HOME_PATH": home,
        "ARGILLA_REDIS_URL": f"redis://127.0.0.1:{redis.server_address[1]}/0",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "ARGILLA_DATABASE_URL": f"sqlite+aiosqlite:///{home}/argilla.db",
    }
    subprocess.run([sys.executable, "-m", "argilla_server", "database", "migrate"], check=True)
    import uvicorn
    from argilla_server.cli.database.users.create_default import _create_default
    from argilla_server.search_engine import SearchEngine

    def nothing(name: str):
        async def method(*args, **kwargs):
            return {} if name in ("get_dataset_progress", "info") else True if name == "ping" else None

        return method

    async def new_instance(cls):
        return cls()

    methods = {name: nothing(name) for name in SearchEngine.__abstractmethods__}
    engine = type("NoIndex", (SearchEngine,), methods | {"new_instance": classmethod(new_instance)})
    SearchEngine.registered_classes["elasticsearch"] = engine
    asyncio.run(_create_default(key, "12345678", True))
    from argilla_server import app

    uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="warning")


if __name__ == "__main__":
    main()
