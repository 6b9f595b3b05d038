#!/usr/bin/env python3
"""Ten thousand students at once, on several brokers and one DynamoDB server.

  benches/students.py wait     they wait on an empty pool, and sandboxes appear for some of them
  benches/students.py burst    as many sandboxes as students are there: latency by quartile of submission

Environment:
  BROKER     the program (target/release/sandbox-broker, which is built); the DynamoDB server is the example beside it
  BROKERS    number of brokers (4)
  STUDENTS   number of students (10000)
  SUPPLY     number of sandboxes that appear (1000)

`wait` prints when the first and the last of those sandboxes were granted after the sync that found them had answered, at
the broker that ran it and at the others, how many overtook others (of the first 1,000 the order is known), and the memory
of the brokers at rest and while all wait. It exits with 1 unless each sandbox went to one student.
"""

import asyncio
import http.server
import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

MODE = sys.argv[1] if len(sys.argv) > 1 else "wait"
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BROKER = os.environ.get("BROKER")
BROKERS = int(os.environ.get("BROKERS", 4))
STUDENTS = int(os.environ.get("STUDENTS", 10_000))
SUPPLY = int(os.environ.get("SUPPLY", 1_000))
TRACK_TOKEN = "track-token-of-the-load-test-000000"
ADMIN_TOKEN = "admin-token-of-the-load-test-000000"
# Students that come at the same moment, and the seconds between such groups.
JOINING, PAUSE = 16, 0.05


class Csp(http.server.BaseHTTPRequestHandler):
    """A CSP whose tenant fills at once."""

    accounts = 0

    def do_GET(self):
        records = [
            {
                "id": f"identity/accounts/00000000-0000-4000-8000-{number:012}",
                "name": f"lab-{number:05}",
                "csp_id": 2_000_000 + number,
                "account_type": "sandbox",
                "state": "active",
            }
            for number in range(1, Csp.accounts + 1)
        ]
        body = json.dumps({"results": records}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Fleet:
    """The brokers, their DynamoDB server and their CSP."""

    def __init__(self, directory):
        if BROKER is None:
            build = ["cargo", "build", "--release", "--locked", "--quiet", "--bin", "sandbox-broker"]
            subprocess.run([*build, "--example", "dynamodb-server"], cwd=ROOT, check=True)
        broker = os.path.abspath(BROKER or os.path.join(ROOT, "target/release/sandbox-broker"))
        self.processes = []
        csp = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Csp)
        threading.Thread(target=csp.serve_forever, daemon=True).start()
        server = os.path.join(os.path.dirname(broker), "examples/dynamodb-server")
        table = self.start(f"{directory}/dynamodb.log", {}, server, "0")
        settings = {
            "BROKER_STORE": "dynamodb",
            "DDB_ENDPOINT_URL": awaited(table, r"http://\S+"),
            "AWS_REGION": "eu-central-1",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "CSP_MODE": "http",
            "CSP_BASE_URL": f"http://127.0.0.1:{csp.server_address[1]}",
            "CSP_API_TOKEN": "csp-token",
            "BROKER_HOST": "127.0.0.1",
            "BROKER_PORT": "0",
            "BROKER_API_TOKEN": TRACK_TOKEN,
            "BROKER_ADMIN_TOKEN": ADMIN_TOKEN,
            "LOG_FORMAT": "json",
            "LAB_DURATION_HOURS": "4",
            "SYNC_INTERVAL_SEC": "3600",
            "MAX_WAITING": str(2 * STUDENTS),
            "MAX_IN_FLIGHT": str(STUDENTS),
        }
        subprocess.run([broker, "table", "create"], env=settings, check=True, stdout=subprocess.DEVNULL)
        logs = [
            self.start(f"{directory}/broker-{number}.log", {**settings, "BROKER_REPLICA_ID": f"broker-{number}"}, broker)
            for number in range(BROKERS)
        ]
        self.ports = [int(awaited(log, r'"address":"[^"]*:(\d+)"')) for log in logs]

    def start(self, log, settings, *command):
        with open(log, "wb") as output:
            self.processes.append(subprocess.Popen(command, env=settings, stdout=output, stderr=output))
        return log

    def stop(self):
        for process in self.processes:
            process.kill()
            process.wait()

    def memory(self):
        """The resident MiB of all brokers."""
        total = 0
        for process in self.processes[1:]:
            with open(f"/proc/{process.pid}/status", encoding="ascii") as status:
                total += int(re.search(r"VmRSS:\s+(\d+)", status.read())[1])
        return total / 1024

    def admin(self, method, path):
        url = f"http://127.0.0.1:{self.ports[0]}{path}"
        request = urllib.request.Request(url, method=method, headers={"Authorization": f"Bearer {ADMIN_TOKEN}"})
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise SystemExit(f"{method} {path}: {error.read().decode()}") from error


def awaited(log, pattern):
    """What the first match in the log says, once it is there."""
    for _ in range(600):
        with open(log, encoding="utf-8") as output:
            match = re.search(pattern, output.read())
        if match:
            return match[match.lastindex or 0]
        time.sleep(0.05)
    with open(log, encoding="utf-8") as output:
        raise SystemExit(f"nothing like {pattern} in:\n{output.read()}")


class Student:
    def __init__(self, number, port):
        self.number, self.port = number, port
        self.submitted = self.answered = self.sandbox = None

    async def connect(self):
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)

    async def ask(self, wait):
        head = (
            f"POST /v1/allocate HTTP/1.1\r\nHost: broker\r\nAuthorization: Bearer {TRACK_TOKEN}\r\n"
            f"X-Track-ID: student-{self.number}\r\nPrefer: wait={wait}\r\nContent-Length: 0\r\n\r\n"
        )
        self.writer.write(head.encode())
        answer = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        length = int(re.search(r"(?i)content-length: (\d+)", answer)[1])
        body = json.loads(await self.reader.readexactly(length))
        return int(answer.split(" ")[1]), body

    async def wait(self, joining):
        """Waits until it has a sandbox."""
        await joining.acquire()
        await self.connect()
        self.submitted = time.monotonic()
        asyncio.get_running_loop().call_later(PAUSE, joining.release)
        while True:
            status, body = await self.ask(50)
            if status in (200, 201):
                self.answered, self.sandbox = time.monotonic(), body["sandbox_id"]
                return
            if status != 503:
                raise SystemExit(f"{status} {body}")
            await asyncio.sleep(body["error"].get("retry_after", 1))


async def wait_for_supply(fleet):
    await asyncio.sleep(5)
    at_rest = fleet.memory()
    joining = asyncio.Semaphore(JOINING)
    students = [Student(number, fleet.ports[number % BROKERS]) for number in range(STUDENTS)]
    waiting = [asyncio.create_task(student.wait(joining)) for student in students]
    started, count = time.monotonic(), 0
    while count < STUDENTS:
        await asyncio.sleep(1)
        try:
            count = (await asyncio.to_thread(fleet.admin, "GET", "/v1/admin/queue"))["waiting"]
        except SystemExit as busy:
            print(busy, file=sys.stderr)
        if time.monotonic() - started > 300:
            raise SystemExit(f"only {count} wait")
    joined = time.monotonic() - started
    await asyncio.sleep(5)
    memory = fleet.memory()
    queue = await asyncio.to_thread(fleet.admin, "GET", "/v1/admin/queue")
    first = {ticket["track_id"] for ticket in queue["tickets"][:SUPPLY]}
    Csp.accounts = SUPPLY
    asked = time.monotonic()
    report = await asyncio.to_thread(fleet.admin, "POST", "/v1/admin/sync")
    appeared = time.monotonic()
    while sum(student.answered is not None for student in students) < SUPPLY and time.monotonic() < appeared + 60:
        await asyncio.sleep(0.05)
    await asyncio.sleep(1)
    for task in waiting:
        task.cancel()
    served = sorted((student for student in students if student.answered), key=lambda student: student.answered)
    here = [student.answered - appeared for student in served if student.port == fleet.ports[0]]
    elsewhere = [student.answered - appeared for student in served if student.port != fleet.ports[0]]
    overtakes = sum(f"student-{student.number}" not in first for student in served)
    print(f"{STUDENTS} students wait on {BROKERS} brokers after {joined:.1f} s; {report['added']} sandboxes appear")
    print(f"  the sync took {appeared - asked:.2f} s; after it, in seconds:")
    for name, times in (("at its broker", here), ("at the others", elsewhere)):
        print(f"  {name}: {len(times)} grants, the first after {min(times):.3f}, the last after {max(times):.3f}")
    print(f"  served before one who came earlier: {overtakes}")
    print(f"  memory of all brokers: {at_rest:.0f} MiB at rest, {memory:.0f} MiB while all wait")
    distinct = len({student.sandbox for student in served})
    if not distinct == len(served) == SUPPLY:
        raise SystemExit(f"{len(served)} were served, with {distinct} sandboxes")


async def burst(fleet):
    Csp.accounts = STUDENTS
    for _ in range(60):
        try:
            await asyncio.to_thread(fleet.admin, "POST", "/v1/admin/sync")
            break
        except SystemExit:
            # Another broker's first sync still runs.
            await asyncio.sleep(1)
    # Until every cache has read them.
    await asyncio.sleep(20)
    students = [Student(number, fleet.ports[number % BROKERS]) for number in range(STUDENTS)]
    for student in students:
        await student.connect()

    async def ask(student):
        student.submitted = time.monotonic()
        status, body = await student.ask(0)
        student.answered = time.monotonic()
        return status, body

    started = time.monotonic()
    answers = await asyncio.gather(*(ask(student) for student in students))
    took = max(student.answered for student in students) - started
    statuses = {status: sum(of == status for of, _ in answers) for status in {status for status, _ in answers}}
    print(f"{STUDENTS} students at once on {STUDENTS} sandboxes and {BROKERS} brokers: {statuses} in {took:.2f} s")
    for quartile in range(4):
        part = students[quartile * STUDENTS // 4 : (quartile + 1) * STUDENTS // 4]
        times = sorted(student.answered - student.submitted for student in part)
        p50, p99 = times[len(times) // 2], times[len(times) * 99 // 100]
        print(f"  quartile {quartile + 1} of submission: p50 {p50:.2f} s, p99 {p99:.2f} s")
    sandboxes = {body["sandbox_id"] for status, body in answers if status == 201}
    if len(sandboxes) != STUDENTS:
        raise SystemExit(f"{len(sandboxes)} of {STUDENTS} got a sandbox")


def main():
    # So that a broker does not outlive a script that is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    modes = {"wait": wait_for_supply, "burst": burst}
    if MODE not in modes:
        raise SystemExit(__doc__)
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    with tempfile.TemporaryDirectory() as directory:
        fleet = Fleet(directory)
        try:
            asyncio.run(modes[MODE](fleet))
        finally:
            fleet.stop()


if __name__ == "__main__":
    main()
