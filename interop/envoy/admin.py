"""Prints a page of an Envoy's admin port: admin.py <port> <path>. Exits 1 if there is none."""

import sys
import urllib.request

try:
    with urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[1]}{sys.argv[2]}", timeout=20) as page:
        sys.stdout.write(page.read().decode())
except OSError:
    sys.exit(1)
