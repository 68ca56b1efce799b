#!/usr/bin/env python3
"""SPIRE's reference files, read by our `validate`: as they are, and with every commented-out key put to work.

    configuration.py <directory of SPIRE's Go module> <vouchsafe binary>

A problem that is reported must name a key or plugin as not supported, or a rule that SPIRE has too; a key that we have never
heard of ("unknown configuration detected") fails. Every key of SPIRE's own configuration structs must be in
docs/configuration.md. Prints `ok|FAIL <name> <detail>` per check.
"""

import pathlib
import re
import subprocess
import sys
import tempfile

DOCS = pathlib.Path(__file__).resolve().parents[2] / "docs" / "configuration.md"
# A line of code behind a comment sign, rather than prose.
CODE = re.compile(r'^("[^"]*"|[A-Za-z_]\w*)(\s+"[^"]*")?\s*=?\s*(\{.*|\[.*|"[^"]*",?|true|false|-?\d+)$|^[\]}],?$|^\{ .*\},?$')
# Prose or placeholders that look like code.
NOT_CODE = re.compile(r"<string>|\[true \| false\]|/path/to/spire|rotate 7|^postrotate|^endscript|^address = \[")
# What SPIRE's own file has and SPIRE refuses: a key of another plugin, and the placeholder of the explanation.
NOT_SPIRES = {"enable_namespace_labels", 'PluginType "plugin_name"'}
FAILED = 0


def check(passed, name, detail=""):
    global FAILED
    FAILED += not passed
    print("ok" if passed else "FAIL", name, detail.replace("\n", "; "))


def code_of(line):
    """The code that a comment hides, or None."""
    text = line.strip()
    if not text.startswith("#"):
        return None
    text = text.lstrip("# \t")
    return text if CODE.match(text) and not NOT_CODE.search(text) else None


def validate(binary, part, text):
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as file:
        file.write(text)
        file.flush()
        done = subprocess.run([binary, part, "validate", "-config", file.name], capture_output=True, text=True, timeout=120)
        return done.returncode, (done.stdout + done.stderr).replace(file.name, "FILE")


def uncommented(lines, first, last):
    """The lines with the code of `first`..`last` put to work."""
    return "\n".join(code_of(line) or "" if first <= n <= last and code_of(line) else line for n, line in enumerate(lines))


def blocks(lines):
    """Ranges of lines that are one key: a single line, or a block to the end of its brackets."""
    n = 0
    while n < len(lines):
        code = code_of(lines[n])
        if code is None or code[0] in "]}{":
            n += 1
            continue
        depth, end = 0, n
        for end in range(n, len(lines)):
            inner = code_of(lines[end]) or ""
            depth += inner.count("{") + inner.count("[") - inner.count("}") - inner.count("]")
            if depth <= 0:
                break
        yield n, end, code
        n = end + 1


def unread(said):
    """The first complaint about a key that we do not know, or about the syntax."""
    wrong = [line for line in said.split("\n") if "unknown configuration" in line or re.search(r"FILE:\d+:\d+: expected", line)]
    return wrong[0].strip() if wrong else ""


def check_file(module, binary, part):
    path = module / "conf" / part / f"{part}_full.conf"
    lines = path.read_text().split("\n")
    status, said = validate(binary, part, "\n".join(lines))
    refused = said.count("not supported yet")
    check(status == 1 and refused > 0 and not unread(said), path.name, f"{refused} refused by name" + unread(said))
    keys = 0
    for first, last, code in blocks(lines):
        text = uncommented(lines, first, last)
        status, said = validate(binary, part, text)
        key = code.split("=")[0].split("{")[0].strip()
        keys += 1
        if unread(said) and key not in NOT_SPIRES:
            check(False, f"{path.name}:{first + 1}", f"{key}: {unread(said)}")
    check(keys > 20, f"{path.name} uncommented", f"{keys} keys and blocks, one at a time")


def struct_keys(module):
    """Names in the `hcl` tags of the configuration structs."""
    files = [
        "cmd/spire-server/cli/run/run.go", "cmd/spire-agent/cli/run/run.go", "pkg/common/telemetry/config.go",
        "pkg/common/health/config.go", "pkg/server/plugin/nodeattestor/x509pop/x509pop.go",
        "pkg/agent/plugin/nodeattestor/x509pop/x509pop.go", "pkg/server/plugin/upstreamauthority/disk/disk.go",
        "pkg/server/plugin/upstreamauthority/spire/spire.go", "pkg/agent/plugin/workloadattestor/docker/docker.go",
        "pkg/agent/plugin/workloadattestor/docker/docker_posix.go", "pkg/agent/plugin/workloadattestor/unix/unix_posix.go",
        "pkg/server/plugin/keymanager/disk/disk.go", "pkg/agent/plugin/keymanager/disk/disk.go",
        "pkg/server/datastore/sqlstore/sqlstore.go",
    ]
    keys = {}
    for name in files:
        for key in re.findall(r'hcl:"([A-Za-z_0-9]+)', (module / name).read_text()):
            keys.setdefault(key, name)
    return keys


# Keys below a key that is refused as a whole.
BELOW_REFUSED = {
    "broker": ["brokers", "id", "allowed_reference_types", "type_url", "allow_over_tcp"],
    "acme": ["directory_url", "domain_name", "email", "tos_accepted"],
    "M3": ["env", "address"],
    "tls": ["cert_file", "key_file", "client_ca_file", "use_spire_svid", "authorized_spiffe_ids"],
}


def check_documented(module):
    manual = DOCS.read_text()
    code = " ".join(span for span in manual.split("`")[1::2])
    below = {key for parent, keys in BELOW_REFUSED.items() for key in keys}
    keys = struct_keys(module)
    missing = [f"{key} ({where})" for key, where in sorted(keys.items()) if key not in below and not re.search(rf"\b{key}\b", code)]
    check(not missing, "docs/configuration.md", f"{len(keys)} keys of SPIRE" if not missing else "missing: " + ", ".join(missing))


def main():
    module, binary = pathlib.Path(sys.argv[1]), sys.argv[2]
    for part in ["server", "agent"]:
        check_file(module, binary, part)
    check_documented(module)
    sys.exit(1 if FAILED else 0)


if __name__ == "__main__":
    main()
