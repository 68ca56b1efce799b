"""Asks for a JWT-SVID again and again; each is validated by the Workload API and by the library."""

import grpc
import jwt
from spiffe import JwtBundleSet, JwtSvid, SpiffeId, WorkloadApiClient

from report import Expected, Report

AUDIENCE = 'interop-audience'


class JwtProbe:
    """The tokens that one client received."""

    def __init__(self, report: Report, client: WorkloadApiClient, expected: Expected) -> None:
        self._report = report
        self._client = client
        self._id = SpiffeId(expected.spiffe_id)
        self._tokens: set[str] = set()
        self._keys: set[str] = set()
        self._last = ''
        self._local = 0

    def tick(self, bundles: JwtBundleSet | None) -> None:
        try:
            svid = self._client.fetch_jwt_svid({AUDIENCE}, subject=self._id, timeout=60)
            if svid.spiffe_id != self._id:
                raise ValueError(f'got {svid.spiffe_id}')
            self._keys.add(jwt.get_unverified_header(svid.token)['kid'])
        except Exception as err:  # noqa: BLE001 - whatever went wrong is the verdict
            self._report.fail('jwt.fetch', f'{type(err).__name__}: {err}')
            return
        self._last = svid.token
        self._tokens.add(svid.token)
        try:
            self._client.validate_jwt_svid(svid.token, AUDIENCE, timeout=60)
        except Exception as err:  # noqa: BLE001
            self._report.fail('jwt.validate.api', f'{type(err).__name__}: {err}')
        if bundles is None:
            return
        try:
            bundle = bundles.get_bundle_for_trust_domain(self._id.trust_domain)
            JwtSvid.parse_and_validate(svid.token, bundle, {AUDIENCE})
        except Exception as err:  # noqa: BLE001
            self._report.fail('jwt.validate.local', f'{type(err).__name__}: {err}')
        self._local += 1

    def enough(self) -> bool:
        return len(self._tokens) >= 2 and len(self._keys) >= 2 and self._local > 0

    def settle(self) -> None:
        rotated = len(self._tokens) >= 2 and len(self._keys) >= 2
        self._report.settle('jwt.fetch', rotated, f'{len(self._tokens)} tokens of {len(self._keys)} keys')
        self._report.settle('jwt.validate.api', bool(self._tokens), f'{len(self._tokens)} tokens')
        self._report.settle('jwt.validate.local', self._local > 0, f'{self._local} times')
        self._reject()

    def _reject(self) -> None:
        """Proves that validation can say no: to another audience and to a changed signature."""
        if not self._last:
            self._report.fail('jwt.reject', 'no token to change')
            return
        for what, token, audience in (
            ('another audience', self._last, 'someone-else'),
            ('a changed signature', tamper(self._last), AUDIENCE),
        ):
            try:
                self._client.validate_jwt_svid(token, audience, timeout=60)
            except Exception as err:  # noqa: BLE001
                if status_of(err) is not grpc.StatusCode.INVALID_ARGUMENT:
                    self._report.fail('jwt.reject', f'{what}: {err}')
            else:
                self._report.fail('jwt.reject', f'{what} was accepted')
        self._report.ok('jwt.reject', 'InvalidArgument')


def tamper(token: str) -> str:
    """Changes the first character of the signature."""
    head, _, signature = token.rpartition('.')
    return f'{head}.{"B" if signature[0] == "A" else "A"}{signature[1:]}'


def status_of(err: BaseException | None) -> grpc.StatusCode | None:
    """The gRPC status under the library's own exception."""
    while err is not None:
        if isinstance(err, grpc.Call):
            return err.code()
        err = err.__cause__
    return None
