"""A server with an agent, and the commands that are run on it."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import time

COMMAND_SECONDS = 60
"""No command takes longer."""


@dataclasses.dataclass
class Outcome:
    command: list
    code: int
    stdout: str
    stderr: str


@dataclasses.dataclass
class Case:
    """A command. `{name}` in its words is a shared file, `{dir}` the world's directory, or what was captured before."""

    name: str
    program: str
    words: list
    stdin: str = ""
    capture: dict = dataclasses.field(default_factory=dict)
    """Names of values of this outcome: a path into its JSON (`active.authority_id`), or a regular expression."""
    until: str = ""
    """Repeat for at most 30 s until the standard output has this in it."""
    interrupt_at: str = ""
    """Send SIGINT as soon as the standard output has this in it."""
    socket: str = ""
    """Where nobody listens, instead of the world's socket; `none` for no flag. Such a command meets no server."""


class World:
    def __init__(self, name, directory, programs):
        self.name, self.directory, self.programs = name, directory, programs
        self.values = {"dir": str(directory)}

    def run(self, program, words, stdin="", socket=""):
        command = self.command(program, words, socket)
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=COMMAND_SECONDS,
                              check=False, env=self.environment())
        return Outcome(command, done.returncode, done.stdout, done.stderr)

    def run_until_interrupted(self, program, words, text):
        command = self.command(program, words, "")
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=self.environment())
        os.set_blocking(process.stdout.fileno(), False)
        seen, deadline = b"", time.monotonic() + COMMAND_SECONDS
        while text.encode() not in seen and time.monotonic() < deadline and process.poll() is None:
            seen += process.stdout.read() or b""
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        os.set_blocking(process.stdout.fileno(), True)
        rest, stderr = process.communicate(timeout=COMMAND_SECONDS)
        seen, stderr = (seen + rest).decode(), stderr.decode()
        return Outcome(command, process.returncode, seen, stderr)

    def command(self, program, words, socket):
        path = f"{self.programs}/spire-{program}"
        if socket == "none":
            return [path, *words]
        sockets = {"server": "server.sock", "agent": "public/agent.sock"}
        file = sockets[program]
        if program == "agent" and words and words[0] in ("logger", "debug"):
            file = "admin/admin.sock"
        return [path, *words, "-socketPath", socket or str(self.directory / file)]

    @staticmethod
    def environment():
        return {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "TZ": "UTC"}


def run_case(case, world, shared):
    values = shared | world.values
    words = [fill(word, values) for word in case.words]
    deadline = time.monotonic() + 120
    while True:
        if case.interrupt_at:
            outcome = world.run_until_interrupted(case.program, words, case.interrupt_at)
        else:
            outcome = world.run(case.program, words, fill(case.stdin, values), fill(case.socket, values))
        if not case.until or case.until in outcome.stdout or time.monotonic() > deadline:
            break
        time.sleep(0.5)
    for name, where in case.capture.items():
        world.values[name] = captured(outcome.stdout, where)
    return outcome


def fill(text, values):
    return re.sub(r"\{(\w+)\}", lambda match: values.get(match[1], match[0]), text)


def captured(text, where):
    """The value, or one that no command finds."""
    if "(" in where:
        found = re.search(where, text)
        return found[1] if found else "not-captured"
    try:
        value = json.loads(text)
        for key in where.split("."):
            value = value[int(key) if key.isdigit() else key]
        return str(value)
    except (ValueError, KeyError, IndexError, TypeError):
        return "not-captured"
