"""Receivers from settings and a file: which are valid, and the messages about the others."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from ratelimit_service.core.errors import StartError
from ratelimit_service.events.receivers import Receiver, receivers_of

SECRET = base64.b64encode(b"0123456789abcdef").decode()

FILE = """
receivers:
  - name: chat
    url: https://hooks.example.com/T000
    types: [ratelimit.budget.*]
    domains: [llm]
    template: {text: "{subject}"}
"""


def test_receivers_come_from_addresses_and_a_file(tmp_path: Path) -> None:
    (tmp_path / "receivers.yaml").write_text(FILE)
    (tmp_path / "secret").write_text(SECRET)
    secret = str(tmp_path / "secret")
    found = receivers_of(
        ("https://a.example.com", "http://b.example.com:8080/x"), secret, str(tmp_path / "receivers.yaml")
    )
    assert (
        Receiver("webhook", "https://a.example.com", secret_file=secret),
        Receiver("webhook-2", "http://b.example.com:8080/x", secret_file=secret),
        Receiver(
            "chat",
            "https://hooks.example.com/T000",
            ("ratelimit.budget.*",),
            ("llm",),
            template={"text": "{subject}"},
        ),
    ) == found


WRONG = {
    "- 1": "must have one key, `receivers`, with a list",
    "receivers: {}": "must have one key, `receivers`, with a list",
    "receivers: [1]": "receiver 1 must be a mapping",
    "receivers: [{name: a}]": "needs a text for `url`",
    "receivers: [{name: a, url: 'https://x.example', tipes: []}]": "unknown key 'tipes'",
    "receivers: [{name: a, url: 'https://x.example', types: budget}]": "a list of texts for `types`",
    "receivers: [{name: a, url: 'https://x.example', types: [budget]}]": "no event is of type 'budget'",
    "receivers: [{name: 'a b', url: 'https://x.example'}]": "needs a name of 1 to 64 letters",
    "receivers: [{name: a, url: 'ftp://x.example'}]": "needs an address such as",
    "receivers: [{name: a, url: 'https://x.example:99999'}]": "needs an address such as",
    "receivers: [{name: a, url: 'https://x.example', secret_file: /nowhere}]": "cannot be read: No such "
    "file or directory",
    "receivers: [{name: a, url: 'https://x.example'}, {name: a, url: 'https://y.example'}]": "are called 'a'",
    "receivers: [": "is not YAML",
    "receivers: [{name: a, url: 'https://x.example', template: {since: 2026-13-45}}]": "is not YAML",
    "receivers: " + "[" * 5_000: "is not YAML",
    "receivers: [{name: a, url: 'https://x.example', template: {since: 2026-11-28}}]": "has a template that "
    "is not JSON",
    "receivers: [{name: a, url: 'https://x.example', template: &a [*a]}]": "has a template that is not JSON",
    "receivers: [{name: a, url: 'https://x.example', template: [.nan]}]": "has a template that is not JSON",
}


@pytest.mark.parametrize("text", WRONG, ids=range(len(WRONG)))
def test_an_invalid_receiver_is_named(text: str, tmp_path: Path) -> None:
    file = tmp_path / "receivers.yaml"
    file.write_text(text)
    with pytest.raises(StartError) as error:
        receivers_of((), "", str(file))
    assert WRONG[text] in str(error.value)


@pytest.mark.parametrize("text", ["short", base64.b64encode(b"short").decode(), "whsec_not base64!"])
def test_an_invalid_secret_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(text)
    with pytest.raises(StartError, match="the secret in"):
        receivers_of(("https://a.example.com",), str(tmp_path / "secret"), "")
