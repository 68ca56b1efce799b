#!/usr/bin/env python3
"""The metrics that the panels of SPIRE's Grafana dashboard ask for, against those that our programs expose.

    dashboard.py <directory of SPIRE's Go module>

What our programs expose is in crates/vouchsafe/tests/golden/metrics_{server,agent}.txt, which the test `metrics` compares with the
Prometheus ports of a running server and agent after some traffic. Prints `ok|FAIL <metric> <panel>` per name.
"""

import json
import pathlib
import re
import sys

GOLDEN = pathlib.Path(__file__).resolve().parents[2] / "crates" / "vouchsafe" / "tests" / "golden"
# Names that only a Go program can have.
NO_MEANING = {
    "spire_server_runtime_alloc_bytes": "Go's heap; use process_resident_memory_bytes",
    "spire_server_runtime_heap_objects": "Go's heap; use process_resident_memory_bytes",
    "spire_agent_runtime_alloc_bytes": "Go's heap; use process_resident_memory_bytes",
    "spire_agent_runtime_heap_objects": "Go's heap; use process_resident_memory_bytes",
}
LABELS_OF_EVERY_SCRAPE = {"host", "instance", "job"}


def expressions(node, panel=""):
    """Each query with the title of its panel."""
    if isinstance(node, dict):
        title = node.get("title")
        panel = title if isinstance(title, str) and title else panel
        if isinstance(node.get("expr"), str):
            yield panel, node["expr"]
        for value in node.values():
            yield from expressions(value, panel)
    elif isinstance(node, list):
        for value in node:
            yield from expressions(value, panel)


def exposed():
    """Name to labels; `_sum` and `_count` of summaries are names of their own."""
    names = {}
    for part in ["server", "agent"]:
        for line in (GOLDEN / f"metrics_{part}.txt").read_text().splitlines():
            if not line or line[0] in "#~":
                continue  # "~": not there in each run
            name, kind, *labels = line.split(" ")
            full = name if name.startswith("process_") else f"spire_{part}_{name}"
            labels = set(labels[0].split(",")) if labels else set()
            names[full] = labels
            if kind == "summary":
                names[full + "_sum"] = names[full + "_count"] = labels
    return names


def main():
    module = pathlib.Path(sys.argv[1])
    dashboard = json.loads((module / "doc/telemetry/spire_grafana_dashboard.json").read_text())
    ours, failed, seen = exposed(), 0, {}
    for panel, query in expressions(dashboard):
        for name in re.findall(r"\bspire_(?:server|agent)_\w+", query):
            seen.setdefault(name, (panel, set()))[1].update(re.findall(r"\bby ?\(([^)]*)\)", query))
    for name, (panel, groups) in sorted(seen.items()):
        wanted = {label.strip() for group in groups for label in group.split(",")} - LABELS_OF_EVERY_SCRAPE
        if name in NO_MEANING:
            print("ok", name, f"{panel}: not there: {NO_MEANING[name]}")
        elif name not in ours:
            failed += 1
            print("FAIL", name, f"{panel}: not exposed")
        elif len(groups) == 1 and not wanted <= ours[name] | {"trust_domain"}:
            failed += 1
            print("FAIL", name, f"{panel}: lacks the labels {sorted(wanted - ours[name])}")
        else:
            print("ok", name, panel)
    sys.exit(1 if failed or len(seen) < 40 else 0)


if __name__ == "__main__":
    main()
