#!/usr/bin/env python3
"""The metrics, labels and pages that rules and dashboards name, against those that there are.

    names.py                prints what is wrong, one problem a line, and exits with 1 if there is any
    names.py --expressions  prints the dashboards' expressions as recording rules

What our programs expose is in crates/vouchsafe/tests/golden/metrics_{server,agent}.txt, which the test `metrics` compares with a
running server and agent.
"""

import json
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
RULES = ROOT / "deploy" / "prometheus" / "rules.yaml"
TESTS = ROOT / "deploy" / "prometheus" / "rules_test.yaml"
DASHBOARDS = sorted((ROOT / "deploy" / "grafana").glob("*.json"))
RUNBOOKS = ROOT / "docs" / "runbooks"
GOLDEN = ROOT / "crates" / "vouchsafe" / "tests" / "golden"
LABELS_OF_EVERY_SCRAPE = {"host", "instance", "job", "trust_domain", "__name__"}
# A metric, or a recording rule, whose name has colons; with its selector if it has one.
USE = re.compile(r"\b((?:spire_(?:agent|server)_|process_|\w+:)[\w:]+)\b(?:\{([^}]*)\})?")
GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right) ?\(([^)]*)\)")
# What Grafana puts in.
VARIABLES = {"$__rate_interval": "5m", "$__interval": "5m", "$__range": "1h"}


def exposed(always=False):
    """Name to labels of everything that a Prometheus port of ours shows; with `always`, in each run ("~": in some)."""
    names = {}
    for part in ["server", "agent"]:
        for line in (GOLDEN / f"metrics_{part}.txt").read_text().splitlines():
            if not line or line.startswith("#") or (always and line.startswith("~")):
                continue
            name, kind, *labels = line.removeprefix("~ ").split(" ")
            full = name if name.startswith("process_") else f"spire_{part}_{name}"
            labels = set(labels[0].split(",")) if labels else set()
            names[full] = labels | ({"quantile"} if kind == "summary" else set())
            if kind in ("summary", "histogram"):
                names[full + "_sum"] = names[full + "_count"] = labels
            if kind == "histogram":
                names[full + "_bucket"] = labels | {"le"}
                del names[full]
    return names


def rules():
    """The recording rules and alerts of rules.yaml: (kind, name, expression, runbook)."""
    found, lines = [], RULES.read_text().splitlines()
    for number, line in enumerate(lines):
        if start := re.match(r"( *)- (record|alert): (\S+)$", line):
            found.append([start[2], start[3], "", ""])
        elif field := re.match(r"( *)(expr|runbook_url): (.*)$", line):
            text = field[3]
            if text in (">", ">-", "|"):
                indent = len(field[1])
                rest = lines[number + 1 :]
                end = next((i for i, l in enumerate(rest) if l.strip() and len(l) - len(l.lstrip()) <= indent), len(rest))
                text = " ".join(l.strip() for l in rest[:end])
            found[-1][2 if field[2] == "expr" else 3] = text
    return [tuple(rule) for rule in found]


def expressions(node, panel=""):
    """Each query of a dashboard with the title of its panel."""
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


def variable_queries(dashboard):
    """label_values(metric, label) of the dashboard's variables, as expressions."""
    for variable in dashboard.get("templating", {}).get("list", []):
        query = variable.get("query")
        query = query.get("query") if isinstance(query, dict) else query
        if parts := re.match(r"label_values\((.*), *(\w+)\)$", query or ""):
            yield f"variable {variable['name']}", parts[1]


def plain(expression):
    """The expression as Prometheus gets it."""
    for variable, value in VARIABLES.items():
        expression = expression.replace(variable, value)
    return re.sub(r"\$\{?\w+\}?", ".+", expression)


def problems_of(where, expression, known):
    """What an expression names that there is not."""
    expression = plain(expression)
    uses = USE.findall(re.sub(r'"[^"]*"', '""', expression))
    grouped = {label.strip() for group in GROUPING.findall(expression) for label in group.split(",")} - {""}
    had = set()
    for name, selector in uses:
        if name not in known:
            yield f"{where}: there is no {name}"
            continue
        had |= known[name]
        used = set(re.findall(r"(\w+) *(?:=~|!~|!=|=)", selector))
        for label in sorted(used - known[name] - LABELS_OF_EVERY_SCRAPE):
            yield f"{where}: {name} has no label {label}"
    for label in sorted(grouped - had - LABELS_OF_EVERY_SCRAPE):
        yield f"{where}: nothing there has the label {label}"
    if not uses:
        yield f"{where}: names no metric of ours"


def problems_of_rules(known):
    """Checks the rules in their order, and adds the recorded names to `known`."""
    for kind, name, expression, runbook in rules():
        yield from problems_of(name, expression, known)
        if kind == "record":
            # level:metric:operation, with the labels that are left as the level.
            level = name.split(":")[0]
            known[name] = set(level.split("_")) | LABELS_OF_EVERY_SCRAPE
            continue
        if runbook != f"docs/runbooks/{name}.md":
            yield f"{name}: runbook_url is {runbook}"


def problems_of_pages(alerts):
    pages = {page.stem for page in RUNBOOKS.glob("*.md")} - {"README"}
    index = (RUNBOOKS / "README.md").read_text() if (RUNBOOKS / "README.md").exists() else ""
    for name in sorted(alerts - pages):
        yield f"{name}: there is no docs/runbooks/{name}.md"
    for name in sorted(pages - alerts):
        yield f"docs/runbooks/{name}.md: there is no such alert"
    for name in sorted(alerts & pages):
        if f"({name}.md)" not in index:
            yield f"{name}: not in docs/runbooks/README.md"


def problems_of_tests(alerts):
    tests = TESTS.read_text()
    for name in sorted(alerts):
        mentions = re.findall(rf"alertname: {name}\b(?:\}}|[^\n]*\n? *(exp_alerts)|[^\n]*)", tests)
        quiet = len(re.findall(rf"alertname: {name}\}}", tests))
        firing = sum(1 for found in mentions if found)
        if not firing or quiet < 2:
            yield f"{name}: tests need it to fire once, and to be quiet before and after"


def problems_of_dashboard(path, known):
    where = path.name
    try:
        dashboard = json.loads(path.read_text())
    except ValueError as error:
        yield f"{where}: {error}"
        return
    panels = dashboard.get("panels", [])
    ids = [panel.get("id") for panel in panels]
    if len(set(ids)) != len(ids) or None in ids:
        yield f"{where}: panel ids are not unique"
    for panel in panels:
        source = panel.get("datasource", {}).get("uid") if panel.get("type") != "row" else "${datasource}"
        if source != "${datasource}":
            yield f"{where}: {panel.get('title')}: its data source is {source} and not the variable"
    if dashboard.get("schemaVersion", 0) < 38:
        yield f"{where}: schemaVersion is older than Grafana 10's"
    if dashboard.get("id") is not None or not dashboard.get("uid") or not dashboard.get("title"):
        yield f"{where}: needs a uid of its own, a title, and no id"
    names = {variable.get("name") for variable in dashboard.get("templating", {}).get("list", [])}
    if "datasource" not in names:
        yield f"{where}: lacks the variable datasource"
    for panel, expression in [*expressions(panels), *variable_queries(dashboard)]:
        yield from problems_of(f"{where}: {panel}", expression, known)
        for variable in re.findall(r"\$\{?([a-z]\w*)\}?", expression):
            if variable not in names:
                yield f"{where}: {panel}: there is no variable {variable}"


def print_expressions():
    print("groups:\n- name: dashboards\n  rules:")
    number = 0
    for path in DASHBOARDS:
        for panel, expression in expressions(json.loads(path.read_text()).get("panels", [])):
            number += 1
            print(f"  - record: dashboard:expression:{number}\n    expr: {json.dumps(plain(expression))}")


def main():
    if sys.argv[1:] == ["--expressions"]:
        return print_expressions()
    known = exposed()
    alerts = {name for kind, name, _, _ in rules() if kind == "alert"}
    problems = list(problems_of_rules(known)) + list(problems_of_pages(alerts)) + list(problems_of_tests(alerts))
    for path in DASHBOARDS:
        problems += problems_of_dashboard(path, known)
    if len(DASHBOARDS) < 2 or len(alerts) < 9:
        problems.append(f"found {len(DASHBOARDS)} dashboards and {len(alerts)} alerts; that is too few")
    print("\n".join(problems))
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
