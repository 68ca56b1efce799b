"""What is replaced before outcomes are compared, and the differences that are allowed."""

import re

from world import Outcome

# Things that no two servers have in common.
REPLACED = [
    (r"-----BEGIN ([A-Z ]+)-----.*?-----END \1-----", r"<\1>"),
    (r"eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", "<jwt>"),
    (r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", "<uuid>"),
    (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(Z|[-+]\d\d:\d\d| \+0000 UTC)", "<time>"),
    (r'("(?:expires_at|issued_at|created_at|x509svid_expires_at|last_sync_success)":)"\d{10}"', r'\1"<time>"'),
    (r'("(?:exp|iat)":)[0-9.e+]+', r"\1<time>"),
    (r'("(?:key_id|kid|authority_id|x|y)": ?)"[A-Za-z0-9_-]{20,}"', r'\1"<id>"'),
    (r"(Authority ID: )[A-Za-z0-9]{32,40}", r"\1<id>"),
    (r'("x509svid_serial_number":)"\d+"', r'\1"<serial>"'),
    (r"(Serial number +: )\d+", r"\1<serial>"),
    (r'("agent_version":)"[^"]*"', r'\1"<version>"'),
    (r"(Agent version +: ).*", r"\1<version>"),
    (r"(SERIALNUMBER=)\d+", r"\1<serial>"),
    # Base64, as in JSON.
    (r'"[A-Za-z0-9+/]{40,}={0,2}"', '"<base64>"'),
    (r"( after )[0-9.]+(ns|µs|ms|s)\b", r"\1<duration>"),
    (r"(Uptime: +)[0-9hms]+", r"\1<duration>"),
    (r'("uptime":)\d+', r"\1<duration>"),
    # The server writes its own bundle when it starts, once or once for each key.
    (r'("(?:sequence_number|spiffe_sequence)": ?)"?\d+"?', r"\1<sequence>"),
]

# Where ours may say something else, and why. Exit codes are never in this list.
# (pattern of the name, stream, reason, what is compared instead)
NOTHING = None


def before_json_error(text):
    """Up to the words of the JSON parser."""
    return re.split(r"invalid character|failed to parse JSON|/\S+ is not JSON|bundle is not a JWK set", text)[0]


def before_library(text):
    return re.split(r"idna error|label is empty|go-jose/|token is not a JWS|failed to parse bundle endpoint URL|"
                    r"bundle endpoint URL must", text)[0]


def without_layers(text):
    return re.sub(r"failed to (convert|create) entry: (datastore-validation: )?(invalid (registration entry|entry ID): )?",
                  "", text)


def without_audience_order(text):
    return re.sub(r'"(db|cache)",? ?"(db|cache)"', '"cache","db"', text)


def sorted_relationships(text):
    items = re.split(r'\n\n|[\[,](?=\{"bundle)|\],"next', text)
    return "\n".join(sorted(item.strip() for item in items))


def without_revision(text):
    return re.sub(r'(Revision +: |"revision_number":)"?\d+"?', r"\1<revision>", text)


def without_json_spaces(text):
    """Go's protojson puts spaces after commas, or does not, by the build."""
    return text.replace('", "', '","').replace("], ", "],").replace(">, ", ">,")


ALLOWED = [
    (r"^help\.", "stdout", "Go's flag package prints help on standard error; ours is asked for, so it is a result",
     NOTHING),
    (r"^help\.", "stderr", "the same, and the texts say more", NOTHING),
    (r"^usage\.", "stderr", "the words about wrong flags are better than Go's", NOTHING),
    (r"^usage\.", "stdout", "the same", NOTHING),
    (r"^version\.", "stderr", "another version", NOTHING),
    (r"^(x509|jwt)\.mint\.ttl\.", "stderr", "SPIRE says of every SVID that it is shorter than asked for: by the "
     "fraction of a second that has passed", NOTHING),
    (r"^entry\.update\.flag-false", "stdout", "SPIRE takes -jwtSVIDIncludeJTI=false for true", NOTHING),
    (r"^api\.validate\.jwt\.pretty", "stdout", "Go's protojson varies its spaces on purpose", without_json_spaces),
    (r"^entry\.create\.(full|bad-entry-id\.)", "both", "SPIRE finds these faults in its datastore and says so; here they are "
     "found when the request is read", without_layers),
    (r"^api\.validate\.jwt\.(pretty|json|other)", "both", "one cached token for an audience in any order: it is a set",
     without_audience_order),
    (r"^federation\.list\.all\.", "stdout", "SPIRE lists in the order of creation, ours by name", sorted_relationships),
    (r"\.bad-dns\.", "both", "the words of Go's idna package", before_library),
    (r"^api\.validate\.jwt\.garbage\.", "stderr", "the words of Go's jose package", before_library),
    (r"^federation\.create\.bad-url\.", "both", "the words of Go's url package", before_library),
    (r"^entry\.show\.dissociated\.", "stdout", "SPIRE does not count this as a revision; agents look for changes by "
     "revision", without_revision),
    (r"^(validate|run)\..*unknown-key", "stderr", "ours names every unknown key with its place", NOTHING),
    (r"^(x509|jwt)\.mint\.ttl\.", "stderr", "SPIRE says of every SVID that it is shorter than asked for: by the "
     "fraction of a second that has passed", NOTHING),
    (r"^entry\.update\.flag-false", "stdout", "SPIRE takes -jwtSVIDIncludeJTI=false for true", NOTHING),
    (r"^api\.validate\.jwt\.pretty", "stdout", "Go's protojson varies its spaces on purpose", without_json_spaces),
    (r"^(validate|run)\..*not-hcl", "stderr", "another parser, which says where", NOTHING),
    (r"\.not-json\.", "stderr", "the words of another JSON parser", before_json_error),
]


def normalize(case, world, outcome):
    texts = []
    for text in (outcome.stdout, outcome.stderr):
        for name, value in world.values.items():
            if len(value) > 6:
                text = text.replace(value, f"<{name}>")
        for pattern, replacement in REPLACED:
            text = re.sub(pattern, replacement, text, flags=re.DOTALL if pattern.startswith("-----") else 0)
        texts.append(text)
    for pattern, stream, _, compared in ALLOWED:
        if re.search(pattern, case.name):
            for index in {"stdout": (0,), "stderr": (1,), "both": (0, 1)}[stream]:
                texts[index] = compared(texts[index]) if compared else ""
    return Outcome(outcome.command, outcome.code, *texts)


def differences(case, expected, actual):
    """What differs, in a few words each."""
    found = []
    if expected.code != actual.code:
        found.append(f"exit {actual.code} instead of {expected.code}")
    for stream in ("stdout", "stderr"):
        wanted, got = getattr(expected, stream), getattr(actual, stream)
        if wanted != got:
            found.append(f"{stream} {excerpt(wanted, got)}")
    return found


def excerpt(wanted, got):
    """From shortly before the first difference."""
    length = min(len(wanted), len(got))
    at = next((index for index in range(length) if wanted[index] != got[index]), length)
    start = max(0, at - 20)
    return f"{got[start:start + 100]!r} instead of {wanted[start:start + 100]!r}"
