"""Drives a SPIFFE Workload API with the PyPI package `spiffe`, a client nobody here wrote (gRPC C-core underneath).

Modes: watch, denied, no-header. Each prints one line per check, `ok <name> <detail>` or `FAIL <name> <detail>`, and
exits non-zero if one failed. The environment names the socket and what to expect; see interop/README.md.
"""

import sys
import threading
import time

import grpc
from cryptography.hazmat.primitives.serialization import Encoding
from spiffe import JwtBundleSet, TrustDomain, WorkloadApiClient, X509Bundle, X509Source
from spiffe._proto import workload_pb2, workload_pb2_grpc

import x509_watch
from jwt_probe import AUDIENCE, JwtProbe, status_of
from report import Expected, Report, must_env


class Bundles:
    """The bundles of both streams. The library has no X.509 bundle stream of its own, so its generated stub is used."""

    def __init__(self, report: Report, expected: Expected) -> None:
        self._report = report
        self._td = TrustDomain(expected.spiffe_id.split('/')[2])
        self._lock = threading.Lock()
        self._root_sets: set[frozenset[bytes]] = set()
        self._key_sets: set[frozenset[str]] = set()
        self._latest: JwtBundleSet | None = None

    def take_jwt(self, update: JwtBundleSet) -> None:
        bundle = update.get_bundle_for_trust_domain(self._td)
        if bundle is None or not bundle.jwt_authorities:
            self._report.fail('jwt.bundles.watch', f'no keys for {self._td}')
            return
        with self._lock:
            self._latest = update
            self._key_sets.add(frozenset(bundle.jwt_authorities))

    def follow_x509(self, stream: grpc.Call, ending: threading.Event) -> None:
        """Runs on its own thread until the stream is cancelled."""
        try:
            for message in stream:
                bundle = X509Bundle.parse_raw(self._td, message.bundles[f'spiffe://{self._td.name}'])
                roots = frozenset(root.public_bytes(Encoding.DER) for root in bundle.x509_authorities)
                with self._lock:
                    self._root_sets.add(roots)
            raise ConnectionError('the stream ended')
        except Exception as err:  # noqa: BLE001 - whatever went wrong is the verdict
            if not ending.is_set():
                self._report.fail('x509.bundles.watch', f'{type(err).__name__}: {err}')

    def latest(self) -> JwtBundleSet | None:
        with self._lock:
            return self._latest

    def enough(self) -> bool:
        with self._lock:
            return len(self._root_sets) >= 2 and len(self._key_sets) >= 2

    def settle(self) -> None:
        with self._lock:
            for name, seen in (('x509.bundles.watch', self._root_sets), ('jwt.bundles.watch', self._key_sets)):
                self._report.settle(name, len(seen) >= 2, f'{len(seen)} different bundles')


def watch(report: Report) -> None:
    expected = Expected()
    ends = time.monotonic() + expected.deadline_secs
    ending = threading.Event()
    client = WorkloadApiClient(expected.socket)
    x509_watch.fetch(report, client, expected)
    svids, bundles = x509_watch.X509Watch(report, expected), Bundles(report, expected)
    jwts = JwtProbe(report, client, expected)

    # Without retries a stream that breaks is reported, not mended behind our back.
    handles = [
        client.stream_x509_contexts(svids.take, lambda err: report.fail('x509.watch', err), retry_connect=False),
        client.stream_jwt_bundles(
            bundles.take_jwt, lambda err: report.fail('jwt.bundles.watch', err), retry_connect=False
        ),
    ]
    source = X509Source(socket_path=expected.socket, timeout_in_seconds=60)
    channel = grpc.insecure_channel(expected.socket)
    stream = workload_pb2_grpc.SpiffeWorkloadAPIStub(channel).FetchX509Bundles(
        workload_pb2.X509BundlesRequest(), metadata=[('workload.spiffe.io', 'true')]
    )
    threading.Thread(target=bundles.follow_x509, args=(stream, ending), daemon=True).start()

    while time.monotonic() < ends and not (svids.enough() and bundles.enough() and jwts.enough()):
        jwts.tick(bundles.latest())
        time.sleep(1)
    ending.set()
    compare_source(report, source, svids)
    jwts.settle()
    for handle in handles:
        handle.cancel()
    stream.cancel()
    svids.settle()
    bundles.settle()


def compare_source(report: Report, source: X509Source, svids: x509_watch.X509Watch) -> None:
    """The library's always-current source, on a stream of its own, must hold what the watch saw last."""
    for _ in range(300):
        held = source.get_x509_context().default_svid.leaf.serial_number
        if held == svids.latest_serial():
            report.ok('x509.source', 'holds the latest SVID')
            return
        time.sleep(0.1)
    report.fail('x509.source', f'holds serial {held}, the watch saw {svids.latest_serial()}')


def denied(report: Report) -> None:
    """As a caller that no entry describes."""
    client = WorkloadApiClient(must_env('SPIFFE_ENDPOINT_SOCKET'))
    for call in (lambda: client.fetch_x509_svid(timeout=60), lambda: client.fetch_jwt_svid({AUDIENCE}, timeout=60)):
        try:
            call()
            report.fail('denied', 'got an identity')
        except Exception as err:  # noqa: BLE001
            refused = status_of(err) is grpc.StatusCode.PERMISSION_DENIED and 'no identity issued' in str(err)
            if not refused:
                report.fail('denied', f'{type(err).__name__}: {err}')
    report.ok('denied', 'PermissionDenied: no identity issued')


def no_header(report: Report) -> None:
    """Every method by the library's own stub, but without the `workload.spiffe.io` metadata."""
    stub = workload_pb2_grpc.SpiffeWorkloadAPIStub(grpc.insecure_channel(must_env('SPIFFE_ENDPOINT_SOCKET')))
    calls = {
        'FetchX509SVID': lambda: next(stub.FetchX509SVID(workload_pb2.X509SVIDRequest(), timeout=60)),
        'FetchX509Bundles': lambda: next(stub.FetchX509Bundles(workload_pb2.X509BundlesRequest(), timeout=60)),
        'FetchJWTBundles': lambda: next(stub.FetchJWTBundles(workload_pb2.JWTBundlesRequest(), timeout=60)),
        'FetchJWTSVID': lambda: stub.FetchJWTSVID(workload_pb2.JWTSVIDRequest(audience=[AUDIENCE]), timeout=60),
        'ValidateJWTSVID': lambda: stub.ValidateJWTSVID(
            workload_pb2.ValidateJWTSVIDRequest(audience=AUDIENCE, svid='x'), timeout=60
        ),
    }
    for name, call in calls.items():
        try:
            call()
            report.fail('no-header', f'{name} answered')
        except grpc.RpcError as err:
            text = 'security header missing from request'
            if err.code() is not grpc.StatusCode.INVALID_ARGUMENT or text not in err.details():
                report.fail('no-header', f'{name}: {err.code()} {err.details()}')
    report.ok('no-header', 'InvalidArgument from all five methods')


def main() -> int:
    modes = {'watch': watch, 'denied': denied, 'no-header': no_header}
    if len(sys.argv) != 2 or sys.argv[1] not in modes:
        sys.exit(f'usage: workload.py {"|".join(modes)}')
    report = Report()
    modes[sys.argv[1]](report)
    return report.exit_code()


if __name__ == '__main__':
    sys.exit(main())
