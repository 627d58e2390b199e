"""Does a judge answer: one tiny chat completion from an OpenAI-compatible server.

Owns: the request, its deadline, the line that says what went wrong. Refuses: judging.
"""

from __future__ import annotations

import os
import time

import httpx

from launch.checks.finding import Problem
from worldmodel.openai import base_url

SECONDS, MAX_TOKENS = 60.0, 64


def ping(url: str, model: str, api_key_env: str = "OPENAI_API_KEY", seconds: float = SECONDS) -> str:
    """``model`` at ``url`` is asked for one word. The key is read from the environment. Raises Problem."""
    key = os.environ.get(api_key_env, "")
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "Reply with the single word: ready"}],
        "max_tokens": MAX_TOKENS,
        "temperature": 0.0,
    }
    started = time.monotonic()
    try:
        reply = httpx.post(
            f"{base_url(url)}/chat/completions",
            json=body,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=seconds,
        )
    except httpx.HTTPError as error:
        raise Problem(f"{url} does not answer ({type(error).__name__}): start it or fix the URL") from error
    if reply.status_code != 200:
        raise Problem(f"{url} answers with status {reply.status_code}: {' '.join(reply.text.split())[:200]}")
    try:
        text = reply.json()["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise Problem(f"{url} answers something that is no chat completion") from error
    if not isinstance(text, str) or not text.strip():
        raise Problem(f"{url}: {model} answers nothing within {MAX_TOKENS} tokens")
    return f"{model} at {url} answers in {time.monotonic() - started:.1f} s"
