#!/usr/bin/env python3
"""Runs every command of SPIRE and of ours in worlds that were started alike, and compares what they say.

    parity.py --cli stock=DIR --cli ours=DIR --world stock/stock=DIR --world ours/stock=DIR ... --details DIR

A world is a directory of a fresh server and agent (server.sock, public/agent.sock, admin/admin.sock, server.conf, agent.conf,
bundle.pem); its name says whose commands change it and whose programs serve it. The first one is the reference. All
worlds see the same commands in the same order, so that their state stays the same but for identifiers, keys and times,
which are replaced by names before standard output, standard error and exit code are compared.

Prints `ok|FAIL <name> <detail>` for each command and exits 1 if one failed. Starts nothing but commands.
"""

import argparse
import json
import os
import pathlib
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).parent / "parity"))

from cases import CASES  # noqa: E402
from world import World, run_case  # noqa: E402
from normal import differences, normalize  # noqa: E402


def pairs(values):
    return [value.split("=", 1) for value in values]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cli", action="append", required=True, metavar="NAME=DIR")
    parser.add_argument("--world", action="append", required=True, metavar="CLI/SERVER=DIR")
    parser.add_argument("--details", required=True, metavar="DIR", help="where the full texts of differences go")
    parser.add_argument("--only", default="", metavar="TEXT", help="report only commands whose name has this in it")
    arguments = parser.parse_args()
    clis = dict(pairs(arguments.cli))
    worlds = [World(name, pathlib.Path(path), clis[name.split("/")[0]]) for name, path in pairs(arguments.world)]
    details = pathlib.Path(arguments.details)
    details.mkdir(parents=True, exist_ok=True)
    shared = prepare(worlds[0], details)
    failed = 0
    for case in CASES:
        outcomes = [(world, run_case(case, world, shared)) for world in worlds if needed(case, world, worlds)]
        if arguments.only in case.name:
            failed += report(case, outcomes, details)
    return 1 if failed else 0


def needed(case, world, worlds):
    """A command that meets no server runs once for each command line."""
    first = next(other for other in worlds if other.programs == world.programs)
    return not case.socket or world is first


def prepare(reference, details):
    """Files that are the same for all worlds."""
    shared = {}
    for name, form in (("foreign_pem", "pem"), ("foreign_spiffe", "spiffe")):
        path = details / f"{name}.txt"
        path.write_text(reference.run("server", ["bundle", "show", "-format", form]).stdout)
        shared[name] = str(path)
    texts = {
        "not_pem": "this is no bundle\n",
        "not_json": "{ this is no JSON",
        "entries": json.dumps({"entries": [
            {"spiffe_id": "spiffe://parity.test/file-1", "parent_id": "spiffe://parity.test/node",
             "selectors": [{"type": "unix", "value": "uid:4001"}], "x509_svid_ttl": 120},
            {"spiffe_id": "spiffe://parity.test/file-2", "parent_id": "spiffe://parity.test/node",
             "selectors": [{"type": "unix", "value": "uid:4002"}], "admin": True, "dns_names": ["file.test"]},
        ]}),
        "relationships": json.dumps({"federationRelationships": [
            {"trustDomain": "file-1.test", "bundleEndpointURL": "https://127.0.0.1:1/a",
             "bundleEndpointProfile": "https_web"},
            {"trustDomain": "file-2.test", "bundleEndpointURL": "https://127.0.0.1:1/b",
             "bundleEndpointProfile": "https_spiffe", "endpointSPIFFEID": "spiffe://file-2.test/endpoint",
             "trustDomainBundleFormat": "pem",
             "trustDomainBundle": pathlib.Path(shared["foreign_pem"]).read_text()},
        ]}),
        "bad_relationships": json.dumps({"federationRelationships": [{"trustDomain": "file-3.test"}]}),
        "deletions": json.dumps({"ids": ["no-such-entry-1", "no-such-entry-2"]}),
        "unknown_key": "server {\n  trust_domain = \"parity.test\"\n  no_such_key = 1\n}\n",
        "unknown_agent_key": "agent {\n  trust_domain = \"parity.test\"\n  no_such_key = 1\n}\n",
    }
    for name, text in texts.items():
        path = details / f"{name}.txt"
        path.write_text(text)
        shared[name] = str(path)
    return shared


def report(case, outcomes, details):
    """One line; the texts go to a file. Returns 1 if a world differs from the first."""
    (reference, expected), *others = [(world, normalize(case, world, outcome)) for world, outcome in outcomes]
    problems = [f"{world.name}: {text}" for world, outcome in others
                for text in differences(case, expected, outcome)]
    if not problems:
        print(f"ok parity.{case.name} exit {expected.code}", flush=True)
        return 0
    path = details / f"{case.name}.txt"
    with path.open("w") as file:
        for world, outcome in [(reference, expected), *others]:
            raw = next(raw for other, raw in outcomes if other is world)
            file.write(f"==== {world.name}: {' '.join(raw.command)}\n--- exit {outcome.code}\n"
                       f"--- stdout, normalized\n{outcome.stdout}\n--- stderr, normalized\n{outcome.stderr}\n"
                       f"--- stdout\n{raw.stdout}\n--- stderr\n{raw.stderr}\n")
    print(f"FAIL parity.{case.name} {'; '.join(problems)}; see {os.path.relpath(path)}", flush=True)
    return 1


if __name__ == "__main__":
    sys.exit(main())
