"""Who the callers are: people with a token of their company, workloads with a certificate of their mesh."""

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
"""Seconds that a token is good for, so that one printed by KEEP=1 can be used all day."""


class Company:
    """Gives people their tokens: JWTs signed with an RSA key (RS256), of which `jwks` tells the public half."""

    def __init__(self) -> None:
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)

    @property
    def jwks(self) -> str:
        """What a company publishes, so that others can check its tokens."""
        public = RSAAlgorithm.to_jwk(self._key.public_key(), as_dict=True)
        return json.dumps({"keys": [{**public, "kid": KEY_ID, "use": "sig", "alg": "RS256"}]})

    def token(self, sub: str, **claims: str) -> str:
        """A token for a person, as envoy.yaml wants it."""
        now = int(time.time())
        payload = {"iss": "https://login.example", "aud": "llm", "iat": now, "exp": now + VALID, "sub": sub}
        return jwt.encode({**payload, **claims}, self._key, algorithm="RS256", headers={"kid": KEY_ID})


class Mesh:
    """Gives workloads their certificates, and writes all that there is of them into `directory`."""

    def __init__(self, directory: Path) -> None:
        self._authority = Authority()
        self._directory = directory
        self.authority = self._authority.write(directory)
        self.gateway, self.gateway_key = self._authority.server().write(directory, "gateway")

    def workload(self, namespace: str) -> tuple[str, str]:
        """The files with the certificate and the key of a workload in a namespace."""
        identity = f"spiffe://cluster.local/ns/{namespace}/sa/default"
        return self._authority.workload(identity).write(self._directory, namespace)

    def stranger(self) -> tuple[str, str]:
        """The same of one that is in no namespace: its certificate is good, but has no SPIFFE id."""
        return self._authority.issue("stranger.example").write(self._directory, "stranger")

    def client(self, files: tuple[str, str] | None) -> ssl.SSLContext:
        """How to connect to the gateway, with the certificate in `files` or with none."""
        context = ssl.create_default_context(cafile=self.authority)
        if files is not None:
            context.load_cert_chain(*files)
        return context
