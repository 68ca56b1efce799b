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

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "deploy"))
from names import exposed, expressions

# Names that only a Go program can have.
NO_MEANING = {
    "spire_server_runtime_alloc_bytes": "Go's heap; use process_resident_memory_bytes",
    "spire_server_runtime_heap_objects": "Go's heap; use process_resident_memory_bytes",
    "spire_agent_runtime_alloc_bytes": "Go's heap; use process_resident_memory_bytes",
    "spire_agent_runtime_heap_objects": "Go's heap; use process_resident_memory_bytes",
}
LABELS_OF_EVERY_SCRAPE = {"host", "instance", "job"}


def main():
    module = pathlib.Path(sys.argv[1])
    dashboard = json.loads((module / "doc/telemetry/spire_grafana_dashboard.json").read_text())
    ours, failed, seen = exposed(always=True), 0, {}
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
