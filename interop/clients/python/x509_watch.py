"""Judges the X.509 stream: each update must verify, and replace the one before it in time."""

import datetime
import os
import threading

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from spiffe import TrustDomain, WorkloadApiClient, X509Svid
from spiffe.workloadapi.x509_context import X509Context

from report import Expected, Report


class X509Watch:
    """The updates that one client received."""

    def __init__(self, report: Report, expected: Expected) -> None:
        self._report = report
        self._expected = expected
        self._lock = threading.Lock()
        self._last: x509.Certificate | None = None
        self._serials: set[int] = set()
        self._issuers: set[str] = set()
        self._seen_roots: set[str] = set()
        self._written = 0
        self._chains = os.path.join(expected.out, 'chains')
        os.makedirs(self._chains, exist_ok=True)

    def take(self, update: X509Context) -> None:
        """One update. Raises nothing: the library would only log it."""
        try:
            with self._lock:
                self._judge(update)
        except Exception as err:  # noqa: BLE001 - whatever went wrong is the verdict
            self._report.fail('x509.watch', f'{type(err).__name__}: {err}')

    def enough(self) -> bool:
        with self._lock:
            return len(self._serials) > self._expected.rotations and len(self._issuers) >= 2

    def latest_serial(self) -> int | None:
        with self._lock:
            return self._last.serial_number if self._last else None

    def settle(self) -> None:
        with self._lock:
            seen = max(len(self._serials) - 1, 0)
            self._report.settle('x509.watch', seen >= self._expected.rotations, f'{seen} rotations')
            rotated = len(self._issuers) >= 2
            self._report.settle('x509.ca-rotation', rotated, f'SVIDs of {len(self._issuers)} authorities')

    def _judge(self, update: X509Context) -> None:
        now = datetime.datetime.now(datetime.timezone.utc)
        svid = update.default_svid
        bundle = update.x509_bundle_set.get_bundle_for_trust_domain(svid.spiffe_id.trust_domain)
        roots = list(bundle.x509_authorities)
        for each in update.x509_svids:
            verify(each, roots)
            self._write(now, each, roots)
        if str(svid.spiffe_id) != self._expected.spiffe_id:
            raise ValueError(f'the default SVID became {svid.spiffe_id}')
        if now > svid.leaf.not_valid_after_utc:
            raise ValueError('received an SVID after its end')
        if self._last is not None and now > self._last.not_valid_after_utc:
            raise ValueError(f'the next SVID came {now - self._last.not_valid_after_utc} after the end of the last')
        issuer = authority_key_id(svid.leaf)
        if self._issuers and issuer not in self._issuers | self._seen_roots:
            self._report.fail('x509.ca-rotation', f'authority {issuer} signed an SVID before any bundle held it')
        self._issuers.add(issuer)
        self._serials.add(svid.leaf.serial_number)
        self._seen_roots.update(subject_key_id(root) for root in roots)
        self._last = svid.leaf

    def _write(self, now: datetime.datetime, svid: X509Svid, roots: list[x509.Certificate]) -> None:
        """Leaves the chain and its bundle as PEM, named by the second it arrived, for `openssl verify`."""
        self._written += 1
        stem = os.path.join(self._chains, f'{int(now.timestamp())}-{self._written:03}')
        parts = {'leaf': svid.cert_chain[:1], 'intermediates': svid.cert_chain[1:], 'bundle': roots}
        for part, certificates in parts.items():
            with open(f'{stem}.{part}.pem', 'wb') as file:
                file.write(b''.join(each.public_bytes(Encoding.PEM) for each in certificates))


def verify(svid: X509Svid, roots: list[x509.Certificate]) -> None:
    """Follows the signatures from the leaf to a root of the bundle; raises when one is missing."""
    issued = svid.leaf
    for issuer in svid.cert_chain[1:]:
        issued.verify_directly_issued_by(issuer)
        issued = issuer
    if not any(signed_by(issued, root) for root in roots):
        raise ValueError(f'{svid.spiffe_id} does not chain to its bundle')
    public = svid.leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    private = svid.private_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if public != private:
        raise ValueError(f'the key of {svid.spiffe_id} is not the one in its certificate')


def signed_by(issued: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        issued.verify_directly_issued_by(issuer)
    except Exception:  # noqa: BLE001 - cryptography raises several kinds, all meaning no
        return False
    return True


def authority_key_id(certificate: x509.Certificate) -> str:
    return certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier.hex()


def subject_key_id(certificate: x509.Certificate) -> str:
    return certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest.hex()


def fetch(report: Report, client: WorkloadApiClient, expected: Expected) -> None:
    """One-shot fetch: both entries of this caller, the older one first."""
    try:
        svids = client.fetch_x509_svids(timeout=60)
        bundles = client.fetch_x509_bundles(timeout=60)
        ids = [str(svid.spiffe_id) for svid in svids]
        if ids[0] != expected.spiffe_id or expected.second_id not in ids:
            raise ValueError(f'got {ids}')
        second = svids[ids.index(expected.second_id)].leaf
        names = second.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        if names.get_values_for_type(x509.DNSName) != [expected.second_dns]:
            raise ValueError(f'DNS names {names}')
        td = TrustDomain(svids[0].spiffe_id.trust_domain.name)
        if not bundles.get_bundle_for_trust_domain(td).x509_authorities:
            raise ValueError('an empty bundle')
        report.ok('x509.fetch', ' and '.join(ids))
    except Exception as err:  # noqa: BLE001 - whatever went wrong is the verdict
        report.fail('x509.fetch', f'{type(err).__name__}: {err}')
