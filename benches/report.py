#!/usr/bin/env python3
"""Prints the table of load.sh from k6's summary and the brokers' metrics before and after. Exits with 99 if there were
more conflicts per allocation than the last argument allows, unless it is empty."""

import json
import re
import sys
from collections import defaultdict
from pathlib import Path

MIB = 1 << 20


def samples(file: Path) -> dict[str, list[float]]:
    """The values of each metric, one for each broker and label set."""
    values = defaultdict(list)
    for line in file.read_text().splitlines():
        if match := re.fullmatch(r"(\w+?)(?:\{.*\}|:)? (\S+)", line):
            values[match[1]].append(float(match[2]))
    return values


def mebibytes(sizes: list[float]) -> str:
    return ", ".join(f"{size / MIB:.1f}" for size in sizes) + " MiB"


def main() -> None:
    scratch, run, ready_ms, program_size, max_conflicts = sys.argv[1:]
    metrics = json.loads((Path(scratch) / "summary.json").read_text())["metrics"]
    before, after = (samples(Path(scratch) / name) for name in ("before", "after"))

    def grown(name: str) -> float:
        return sum(after[name]) - sum(before[name])

    latency = metrics.get("http_req_duration{name:allocate}", metrics["http_req_duration"])
    allocations = grown("broker_allocate_total")
    conflicts = grown("broker_allocate_conflicts_total") / allocations
    rows = {
        "run": run,
        "requests": f"{metrics['http_reqs']['count']:.0f}, {metrics['http_reqs']['rate']:.0f}/s",
        "failed requests": f"{metrics['http_req_failed']['value']:.2%}",
        "failed checks": f"{metrics['checks']['fails']:.0f} of {metrics['checks']['fails'] + metrics['checks']['passes']:.0f}",
        "latency in ms": ", ".join(f"{name} {value:.2f}" for name, value in latency.items() if isinstance(value, float)),
        "allocations": f"{allocations:.0f}",
        "conflicts per allocation": f"{conflicts:.4f}",
        "DynamoDB requests per allocation, background jobs included": f"{grown('broker_dynamodb_requests_total') / allocations:.3f}",
        "CPU of the brokers per allocation": f"{grown('process_cpu_seconds') / allocations * 1000:.3f} ms",
        "resident memory, pool full": mebibytes(before["process_VmRSS"]),
        "resident memory, at the end": mebibytes(after["process_VmRSS"]),
        "resident memory, maximum": mebibytes(after["process_VmHWM"]),
        "start to ready (embedded store, 50 sandboxes)": f"{ready_ms} ms",
        "program": f"{int(program_size) / MIB:.1f} MiB",
    }
    print("| what | measured |\n|---|---|")
    for name, value in rows.items():
        print(f"| {name} | {value} |")
    if max_conflicts and conflicts > float(max_conflicts):
        sys.exit(99)


if __name__ == "__main__":
    main()
