"""The identities of callers: tokens of people, and mesh certificates of workloads."""

from __future__ import annotations

import json
import ssl
import time
from pathlib import Path

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from testing.certificates import Authority

KEY_ID = "demo"
VALID = 24 * 60 * 60
"""The lifetime of a token in seconds: with KEEP=1, it is used for a day."""


class Company:
    """Issues tokens for people: JWTs signed with RS256; `jwks` has the public key."""

    def __init__(self) -> None:
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)

    @property
    def jwks(self) -> str:
        """Return the JWKS for verifying the tokens."""
        public = RSAAlgorithm.to_jwk(self._key.public_key(), as_dict=True)
        return json.dumps({"keys": [{**public, "kid": KEY_ID, "use": "sig", "alg": "RS256"}]})

    def token(self, sub: str, **claims: str) -> str:
        """Return a token for a person, with the claims of envoy.yaml."""
        now = int(time.time())
        payload = {"iss": "https://login.example", "aud": "llm", "iat": now, "exp": now + VALID, "sub": sub}
        return jwt.encode({**payload, **claims}, self._key, algorithm="RS256", headers={"kid": KEY_ID})


class Mesh:
    """Issues certificates for workloads, and writes them into `directory`."""

    def __init__(self, directory: Path) -> None:
        self._authority = Authority()
        self._directory = directory
        self.authority = self._authority.write(directory)
        self.gateway, self.gateway_key = self._authority.server().write(directory, "gateway")

    def workload(self, namespace: str) -> tuple[str, str]:
        """Write the certificate and the key of a workload in a namespace, and return their paths."""
        identity = f"spiffe://cluster.local/ns/{namespace}/sa/default"
        return self._authority.workload(identity).write(self._directory, namespace)

    def stranger(self) -> tuple[str, str]:
        """The same for a valid certificate without a SPIFFE id."""
        return self._authority.issue("stranger.example").write(self._directory, "stranger")

    def client(self, files: tuple[str, str] | None) -> ssl.SSLContext:
        """Return a TLS context for the gateway, with the certificate in `files` or without one."""
        context = ssl.create_default_context(cafile=self.authority)
        if files is not None:
            context.load_cert_chain(*files)
        return context
