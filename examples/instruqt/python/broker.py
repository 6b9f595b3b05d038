#!/usr/bin/env python3
"""Gets a sandbox for an Instruqt student and gives it back: a replacement for the scripts of the Python broker.

    broker.py allocate    in the track's setup
    broker.py release     in the track's cleanup; exits 0 unless BROKER_STRICT=1

It writes the files that those scripts wrote, beside itself: subtenant_id.txt (the broker's sandbox id), external_id.txt and
sandbox_id.txt (both the account's UUID), sandbox_name.txt, sfdc_account_id.txt and sandbox_env.sh.

Environment: BROKER_API_TOKEN and INSTRUQT_PARTICIPANT_ID are required. BROKER_API_URL (or BROKER_URL) is the broker's
address, with or without /v1. INSTRUQT_TRACK_SLUG, SANDBOX_NAME_PREFIX and BROKER_PATIENCE_SEC (900; release 300) are
optional.
"""

import json
import os
import random
import secrets
import shlex
import sys
import time
import urllib.error
import urllib.request

DIRECTORY = os.path.dirname(os.path.abspath(__file__))
SECRET_FILE = "broker_secret.txt"
RETRIED = {0, 408, 409, 429}


class Failed(Exception):
    """Why it ends, for people."""


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the token to another host."""

    def redirect_request(self, *_):
        return None


def setting(*names):
    for name in names:
        if os.environ.get(name):
            return os.environ[name]
    raise Failed(f"{names[0]} is not set")


def patience(default):
    text = os.environ.get("BROKER_PATIENCE_SEC") or str(default)
    if not text.isdigit():
        raise Failed(f"BROKER_PATIENCE_SEC holds {text}; it takes seconds")
    return int(text)


def secret():
    """The student's secret. The first of several allocations that run at the same time makes it."""
    path = os.path.join(DIRECTORY, SECRET_FILE)
    made = f"{path}.{os.getpid()}"
    if not os.path.exists(path):
        with os.fdopen(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(secrets.token_hex(16))
        try:
            os.link(made, path)
        except FileExistsError:
            pass
        os.unlink(made)
    with open(path) as file:
        return file.read()


def call(method, path, headers):
    """Status, JSON and Retry-After of the answer; status 0 if there is none."""
    base = setting("BROKER_API_URL", "BROKER_URL").rstrip("/").removesuffix("/v1")
    headers = {
        "Authorization": f"Bearer {setting('BROKER_API_TOKEN')}",
        "X-Instruqt-Sandbox-ID": setting("INSTRUQT_PARTICIPANT_ID", "_SANDBOX_ID"),
        "X-Track-Secret": secret(),
        **headers,
    }
    request = urllib.request.Request(f"{base}/v1{path}", method=method, headers=headers)
    try:
        with urllib.request.build_opener(NoRedirect).open(request, timeout=40) as answer:
            status, text, answered = answer.status, answer.read(), answer.headers
    except urllib.error.HTTPError as error:
        status, answered = error.code, error.headers
        try:
            text = error.read()
        except Exception:
            text = b""
    except Exception as error:  # not reached, timed out, broken off
        return 0, {}, None, str(error)
    try:
        body = json.loads(text)
    except ValueError:
        body = None
    body = body if isinstance(body, dict) else {}
    wait = answered.get("Retry-After")
    reason = f"{status} {text[:300].decode(errors='replace')}"
    if 300 <= status < 400:
        reason = f"the address redirects to {answered.get('Location')}: set BROKER_API_URL to that one"
    return status, body, int(wait) if wait and wait.isdigit() else None, reason


def insist(method, path, headers, field, limit):
    """Repeats a request until its answer has this field."""
    ends = time.monotonic() + limit
    while True:
        status, body, wait, reason = call(method, path, headers)
        if status in (200, 201) and field in body:
            return body
        is_final = status not in RETRIED and status < 500 and status not in (200, 201)
        if is_final or body.get("error", {}).get("code") == "WITHDRAWN":
            raise Failed(reason)
        wait = (wait or 5) + random.uniform(0, 2)
        if time.monotonic() + wait > ends:
            raise Failed(f"no answer that helps within {limit} seconds; the last one was {reason}")
        print(f"not yet ({reason}); again in {wait:.0f} seconds", flush=True)
        time.sleep(wait)


def allocate():
    headers = {"Prefer": "wait=25"}
    for header, name, default in [
        ("X-Instruqt-Track-ID", "INSTRUQT_TRACK_SLUG", ""),
        ("X-Sandbox-Name-Prefix", "SANDBOX_NAME_PREFIX", "lab"),
    ]:
        value = os.environ.get(name, default)
        if value:
            headers[header] = value
    held = insist("POST", "/allocate", headers, "sandbox_id", patience(900))
    account = held["external_id"].split("/")[-1]
    crm_account = held.get("sfdc_account_id") or ""
    files = {
        "subtenant_id.txt": held["sandbox_id"],
        "external_id.txt": account,
        "sandbox_id.txt": account,
        "sandbox_name.txt": held["name"],
        "sfdc_account_id.txt": crm_account,
    }
    variables = {
        "STUDENT_TENANT": held["name"],
        "CSP_ACCOUNT_ID": account,
        "BROKER_SANDBOX_ID": held["sandbox_id"],
        "SFDC_ACCOUNT_ID": crm_account,
    }
    exports = [f"export {name}={shlex.quote(value)}\n" for name, value in variables.items()]
    files["sandbox_env.sh"] = "".join(["#!/bin/bash\n", *exports])
    for name, text in files.items():
        with open(os.path.join(DIRECTORY, name), "w") as file:
            file.write(text)
    print(f"sandbox {held['sandbox_id']} is this student's")


def release():
    answer = insist("DELETE", "/allocation", {}, "released", patience(300))
    print("the sandbox is given back" if answer["released"] else "there is nothing to give back")


def main():
    command = sys.argv[1] if len(sys.argv) == 2 else ""
    run = {"allocate": allocate, "release": release}.get(command)
    if run is None:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        run()
    except (Failed, OSError) as error:
        print(f"sandbox broker: {error}", file=sys.stderr)
        return 0 if command == "release" and os.environ.get("BROKER_STRICT") != "1" else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
