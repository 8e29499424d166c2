"""Files out of the workspace, and exports into it."""

from __future__ import annotations

import secrets
import time
from urllib.parse import unquote

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response

from jobs.contract.errors import AiosError
from jobs.contract.files import make_folder
from k8s.gui.files import UPLOADS, inside, safe_name
from k8s.gui.settings import require_write

MAX_UPLOAD_BYTES = 8 << 30


async def download(request: Request) -> Response:
    """Send a file as a file: a browser never shows it as a page of ours, whatever it holds."""
    try:
        path = inside(request.path_params["path"])
    except AiosError as exc:
        return PlainTextResponse(str(exc), 404)
    if not path.is_file():
        return PlainTextResponse("There is no such file", 404)
    headers = {"Content-Security-Policy": "sandbox; default-src 'none'"}
    return FileResponse(path, media_type="application/octet-stream", filename=path.name, headers=headers)


async def upload(request: Request) -> Response:
    """Take an export; the body is the file, its name stands in a header."""
    try:
        require_write()
    except AiosError as exc:
        return PlainTextResponse(str(exc), 403)
    name = safe_name(unquote(request.headers.get("x-file-name", "export.jsonl")))
    make_folder(UPLOADS)
    folder = inside(UPLOADS)
    # Two people may upload the same name in the same second.
    target = folder / f"{time.strftime('%m%d-%H%M%S')}-{secrets.token_hex(2)}-{name}"
    draft = target.with_name(f".{target.name}.part")
    size = 0
    try:
        with draft.open("xb") as file:
            async for chunk in request.stream():
                size += len(chunk)
                if size > MAX_UPLOAD_BYTES:
                    return PlainTextResponse("Too large; copy the file to training_data/ and give its path", 413)
                file.write(chunk)
        draft.replace(target)
    except OSError as exc:
        return PlainTextResponse(f"The upload failed: {exc.strerror}", 507)
    finally:
        draft.unlink(missing_ok=True)
    return JSONResponse({"path": (UPLOADS / target.name).as_posix(), "size": size})
