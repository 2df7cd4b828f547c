"""Tokens that only we can make and read (spec: edge.md, "Email links"): AES-256-GCM, bound to a purpose and a portal.

    base64url( version | portal, 8 bytes | key, 4 bytes of its SHA-256 | nonce, 12 bytes | ciphertext and tag )

What stands before the ciphertext is authenticated, with the purpose. The first key seals; every key opens, so a key is
rotated by putting a new one in front, and taken away when the last of its tokens has expired.
"""

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from hashlib import sha256

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from pipeline.core.events import PortalId

KEY_BYTES = 32
NONCE_BYTES = 12
LINK = b"link"
CLICK = b"click"
_VERSION = b"\x01"
_HEAD = 1 + 8 + 4


def sealed(keys: Sequence[bytes], purpose: bytes, portal: PortalId, content: bytes, nonce: bytes) -> str:
    """A token with this content. A nonce must never be used twice with a key: give random bytes."""
    head = _VERSION + portal.to_bytes(8) + _name(keys[0])
    return urlsafe_b64encode(head + nonce + AESGCM(keys[0]).encrypt(nonce, content, head + purpose)).rstrip(b"=").decode()


def opened(keys: Sequence[bytes], purpose: bytes, portal: PortalId, token: str) -> bytes | None:
    """The content of a token of this purpose and portal; None for any other text."""
    raw = _decoded(token)
    head, nonce, sealed_content = raw[:_HEAD], raw[_HEAD : _HEAD + NONCE_BYTES], raw[_HEAD + NONCE_BYTES :]
    if portal_of(token) != portal:
        return None
    for key in keys:
        if head[-4:] == _name(key):
            try:
                return AESGCM(key).decrypt(nonce, sealed_content, head + purpose)
            except InvalidTag:
                continue
    return None


def portal_of(token: str) -> PortalId | None:
    """The portal that a token claims to be of: whose keys to try."""
    raw = _decoded(token)
    return PortalId(int.from_bytes(raw[1:9])) if len(raw) > _HEAD + NONCE_BYTES + 16 and raw[:1] == _VERSION else None


def _decoded(token: str) -> bytes:
    try:
        return urlsafe_b64decode(token + "=" * (-len(token) % 4))
    except (ValueError, binascii.Error):
        return b""


def _name(key: bytes) -> bytes:
    return sha256(b"name of key" + key).digest()[:4]
