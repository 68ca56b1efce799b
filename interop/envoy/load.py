"""Requests through Envoys without pause, on connections that are opened anew after a few of them.

    load.py <seconds> <name>,<port>,<path>,<expected client URI> ...

Prints for each target `<name> <requests> <failures> <first failure>`. A failure is anything but status 200 with the expected
client identity. Ends early, with the same output, on SIGTERM.
"""

import http.client
import signal
import sys
import threading
import time

WORKERS = 6
PAUSE_SECS = 0.05
TIMEOUT_SECS = 15


class Target:
    def __init__(self, text):
        self.name, port, self.path, self.expected = text.split(",")
        self.port = int(port)
        self.requests = 0
        self.failures = 0
        self.first = ""
        self.lock = threading.Lock()

    def count(self, failure=None):
        with self.lock:
            self.requests += 1
            if failure:
                self.failures += 1
                self.first = self.first or time.strftime("%H:%M:%S ") + failure
                print(f"{time.time():.2f} {self.name}: {failure}", file=sys.stderr, flush=True)

    def work(self, until, stop):
        turn = 0
        while time.monotonic() < until and not stop.is_set():
            turn += 1
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_SECS)
            try:
                for _ in range(1 + turn % 4):
                    connection.request("GET", self.path)
                    response = connection.getresponse()
                    body = response.read().decode("latin-1")
                    good = response.status == 200 and body.endswith("uri=" + self.expected)
                    self.count(None if good else f"status {response.status}: {body[:200]!r}")
            except Exception as error:  # any way of not being answered is a failure
                self.count(repr(error))
            finally:
                connection.close()
            time.sleep(PAUSE_SECS)


def main():
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    until = time.monotonic() + float(sys.argv[1])
    targets = [Target(text) for text in sys.argv[2:]]
    threads = [threading.Thread(target=target.work, args=(until, stop)) for target in targets for _ in range(WORKERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():
            thread.join(0.2)
    for target in targets:
        print(target.name, target.requests, target.failures, target.first, flush=True)


main()
