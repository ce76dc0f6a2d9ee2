"""Reads bodies as vLLM does (FastAPI, Starlette, python-multipart, json) and prints the model of each.

Input: one JSON object per line with `type` (Content-Type or null) and `body` (hexadecimal).
Output per line: a JSON string with the model, or null if the engine would reject the request.
"""

import asyncio
import email.message
import json
import logging
import sys

from starlette.requests import Request


def is_json(content_type):
    # FastAPI's routing.py decides by the same rules which bodies are JSON.
    if not content_type:
        return True
    message = email.message.Message()
    message["content-type"] = content_type
    subtype = message.get_content_subtype()
    return message.get_content_maintype() == "application" and (subtype == "json" or subtype.endswith("+json"))


async def model_of(content_type, body):
    headers = [(b"content-type", content_type.encode("latin-1"))] if content_type else []

    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}

    request = Request({"type": "http", "method": "POST", "path": "/", "headers": headers}, receive)
    if is_json(content_type):
        root = await request.json()
        return root.get("model") if isinstance(root, dict) else None
    # FastAPI reads a form field with get: the last one counts.
    return (await request.form()).get("model")


def main():
    for line in sys.stdin:
        case = json.loads(line)
        try:
            model = asyncio.run(model_of(case["type"], bytes.fromhex(case["body"])))
        except Exception:
            model = None
        # A lone surrogate has no UTF-8. It becomes a question mark.
        print(json.dumps(model.encode(errors="replace").decode() if isinstance(model, str) else None))


logging.disable()
main()
