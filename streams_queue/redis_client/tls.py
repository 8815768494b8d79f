"""What a failed TLS handshake means: which side did not trust the other, and whether that passes by itself."""

from __future__ import annotations

import ssl

from streams_queue.errors import BackendError, BackendRejected, BackendUnavailable

_EXPIRED = {9: "is not valid yet", 10: "has expired"}  # X509_V_ERR_CERT_NOT_YET_VALID, …_HAS_EXPIRED
_NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "UNKNOWN_PROTOCOL"})


def from_handshake(name: str, error: ssl.SSLError) -> BackendError | None:
    """Return what a TLS error means; None for one that is no more than a broken connection.

    A certificate that has expired is renewed by somebody, as a server that is down is started: that passes. One that is
    not trusted, not for this host, or missing is a mistake in the configuration of one of the two.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in _EXPIRED:
            return BackendUnavailable(f"cannot connect to {name}: its certificate {_EXPIRED[error.verify_code]}")
        return _refused(f"the certificate of {name} is not accepted: {error.verify_message}")
    reason = error.reason or ""
    if "ALERT" in reason:
        alert = reason.rpartition("ALERT_")[2].replace("_", " ").lower()
        return _refused(f"{name} refused the TLS handshake ({alert}); it may ask for another client certificate")
    if reason in _NO_TLS:
        return _refused(f"{name} does not speak TLS; for a connection in the clear the URL begins with redis://")
    return None


def _refused(message: str) -> BackendRejected:
    return BackendRejected(message, code="TLS")
