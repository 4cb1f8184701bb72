"""A certificate for the servers of a run, and the context with which the load generator checks it.

trustme makes both at run time; the key is an elliptic one (P-256), as most public certificates have today.
"""

from __future__ import annotations

import ssl
import tempfile
from pathlib import Path

__all__ = ["Certificate"]


class Certificate:
    """``path`` is a PEM file with the key (PKCS #8, the only form that granian takes) and the certificate."""

    def __init__(self) -> None:
        import trustme
        from cryptography.hazmat.primitives import serialization

        authority = trustme.CA()
        issued = authority.issue_cert("127.0.0.1")
        key = serialization.load_pem_private_key(issued.private_key_pem.bytes(), None).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        self._directory = tempfile.TemporaryDirectory()
        self.path = str(Path(self._directory.name) / "certificate.pem")
        Path(self.path).write_bytes(key + b"".join(pem.bytes() for pem in issued.cert_chain_pems))
        self.client = ssl.create_default_context()
        authority.configure_trust(self.client)

    def remove(self) -> None:
        """Remove the file."""
        self._directory.cleanup()
