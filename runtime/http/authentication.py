"""Who sent a request: its signature is checked before anything else is made of it.

The order is that of AWS: is it signed, can the signature be read, is it for this service and of this time, does the
node know the key, is it the signature of this very request. Until the key is known nothing of the body is read.

A signature covers the body by its digest. Where ``x-amz-content-sha256`` names that digest, the signature is checked at
once and the body when it is read (``Request.read`` and ``parts``), within the limit of whoever reads it; so an upload
of gigabytes is never held for its signature's sake. Where there is no such header (boto3 sends none) the digest has to
be made first: the body is read here, up to ``body_bytes``, the largest that any operation takes. ``UNSIGNED-PAYLOAD``
leaves the body out, as its signer wished.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

from glowplug.runtime import sigv4
from glowplug.runtime.clock import Clock
from glowplug.runtime.credentials import Identity
from glowplug.runtime.errors import InvalidSignature, UnrecognizedClient

from .messages import Request


class Keyring(Protocol):
    """All keys that the node knows."""

    def find(self, access_key_id: str) -> Identity | None:
        """Return whom an access key id belongs to, or None."""


class Authenticator:
    """Checks signatures. ``body_bytes`` is the most that is read of a body to check one."""

    def __init__(self, keyring: Keyring, clock: Clock, *, body_bytes: int) -> None:
        self._keyring = keyring
        self._clock = clock
        self._body_bytes = body_bytes

    async def authenticate(self, request: Request, service: str) -> Request:
        """Return ``request`` with its ``principal``; its body can still be read, and is what was signed.

        ``service`` is the name that the signature must be for: ``lambda`` for the Lambda API, function URLs and the
        node's own paths, ``execute-api`` for API routes, ``sqs`` for queues, ``events`` and ``sns``. Raises one of
        ``NotAuthenticated``, and ``RequestTooLarge`` for a body that had to be read.
        """
        headers = _headers(request)
        claim = sigv4.claim_of(request.query, headers)
        if claim.service != service:
            raise InvalidSignature(f"Credential should be scoped to correct service: '{service}'.")
        sigv4.check_time(claim, self._clock.time())
        identity = self._keyring.find(claim.access_key_id)
        if identity is None or not _same(identity.key.session_token, claim.session_token):
            raise UnrecognizedClient
        body, body_sha256, payload_hash = request.body, "", claim.content_sha256
        if not payload_hash:
            body = await request.read(self._body_bytes, what="a signed request")
            payload_hash = hashlib.sha256(body).hexdigest()
        elif payload_hash != sigv4.UNSIGNED_PAYLOAD:
            body_sha256 = payload_hash
        signable = sigv4.Signable(request.method, request.path, request.query, headers)
        sigv4.check_signature(claim, identity.key.secret_access_key, signable, payload_hash)
        return replace(request, principal=identity.principal, body=body, body_sha256=body_sha256)


def _headers(request: Request) -> Mapping[str, str]:
    """Return the headers as they were signed.

    ``host`` is the authority that decides who answers, also where the target named another one than the Host header.
    Repeated cookies are signed with commas between them, whatever a handler sees.
    """
    headers = dict(request.headers)
    headers["host"] = request.host
    if request.raw is not None and "cookie" in headers:
        cookies = [value for name, value in request.raw.raw_headers if name.lower() == b"cookie"]
        if len(cookies) > 1:
            headers["cookie"] = b",".join(cookies).decode(errors="surrogateescape")
    return headers


def _same(token: str, given: str) -> bool:
    return hmac.compare_digest(token.encode(), given.encode(errors="replace"))
