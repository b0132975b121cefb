"""Paths, headers and keys on their way through a proxy, and the addresses that it is started with."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from erecap.errors import ConfigError
from erecap.serving.failures import ApiFailure
from erecap.serving.headers import end_to_end
from erecap.serving.keys import Keys
from erecap.serving.paths import path_below
from erecap.serving.upstream import answers, checked_url
from tests.serving.recorded import ASKED, Behind, asked, proxied


@pytest.fixture(scope="module")
def through() -> Iterator[tuple[Behind, str]]:
    with proxied() as both:
        yield both


def status(url: str, target: str, method: str = "GET") -> int:
    """The status of a request whose target goes over the line as it is."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    connection.putrequest(method, target, skip_accept_encoding=True)
    connection.endheaders()
    found = connection.getresponse().status
    connection.close()
    return found


@pytest.mark.parametrize(
    "target",
    [
        "/v1/%2e%2e/admin",
        "/v1/../admin",
        "/v1/.%2e/admin",
        "/v1/./models",
        "/v1/%252e%252e/admin",
        "/v1/a%2fb",
        "/v1/a%2Fb",
        "/v1/a%5cb",
        "/v1/..%5cadmin",
        "/v1//admin",
        "/v1/models/",
        "/v1/..;/admin",
        "/v1/%c0%ae%c0%ae/admin",
        "/v1/%ef%bc%8e%ef%bc%8e/admin",
        "/v1/a%00b",
        "/v1/a%0d%0aX:y",
        "/v1/a%",
        "/v1/a%zz",
        "/v1/a%23b",
        "/v1/a%3fb",
        "/v1/%20",
        "/v1/%09models",
        "/%76%31/models",
        "/v1/...",
        "/v1/a|b",
        "/v1/a\\..\\b",
    ],
)
def test_odd_paths_are_refused(through: tuple[Behind, str], target: str) -> None:
    behind, url = through
    behind.answers(b"{}")
    behind.head = []
    assert status(url, target) == 400 and behind.head == []


@pytest.mark.parametrize(
    "target", ["http://evil.test/v1/models", "https://x/v1/../../admin", "//evil.test/v1/models", "*"]
)
def test_targets_that_are_no_paths_are_refused(through: tuple[Behind, str], target: str) -> None:
    behind, url = through
    behind.head = []
    assert status(url, target, "OPTIONS" if target == "*" else "GET") in (400, 404) and behind.head == []
    assert status(url, "/favicon.ico") == status(url, "/admin/v1/models") == 404 and behind.head == []


@pytest.mark.parametrize(
    ("target", "asked_for"),
    [
        ("/v1/models/org.name-1_x~", "/base/v1/models/org.name-1_x~"),
        ("/v1/models/a%3Ab", "/base/v1/models/a:b"),
        ("/v1/models/m:tag@1?x=%2e%2e%2f&y=a+b", "/base/v1/models/m:tag@1?x=%2e%2e%2f&y=a+b"),
        ("/v1/files/..a/b..", "/base/v1/files/..a/b.."),
        ("/v1/%6dodels", "/base/v1/models"),
    ],
)
def test_plain_paths_pass_below_the_base(through: tuple[Behind, str], target: str, asked_for: str) -> None:
    behind, url = through
    behind.answers(b"{}")
    assert status(url, target) == 200 and behind.head[0] == f"GET {asked_for} HTTP/1.1".encode()


@given(st.text("/.%2eE5cf\\;?#aA\u00e9 ", max_size=12), st.binary(max_size=6))
def test_no_path_leaves_the_base(text: str, query: bytes) -> None:
    try:
        found = path_below(b"/v1/" + text.encode(), b"/v1", query)
    except ApiFailure as failure:
        assert failure.status == 400
        return
    joined = httpx.URL("http://x/base/v1").copy_with(raw_path=b"/base/v1" + found)
    assert joined.host == "x" and joined.raw_path == b"/base/v1" + found
    assert joined.path.startswith("/base/v1/") and "/../" not in f"{joined.path}/" and "\\" not in joined.path


def test_headers_of_connections_and_proxies_end_here(through: tuple[Behind, str]) -> None:
    behind, url = through
    behind.answers(
        b"{}",
        b"Set-Cookie: a=1",
        b"Set-Cookie: b=2; Path=/",
        b"X-Said: caf\xc3\xa9 \xff",
        b"Connection: X-Mine, close",
        b"X-Mine: 1",
        b"Keep-Alive: timeout=5",
        b"Proxy-Authenticate: Basic",
        b"Upgrade: h2c",
        b"Trailer: X",
    )
    given = [
        ("Connection", "x-secret , keep-alive"),
        ("X-Secret", "1"),
        ("Keep-Alive", "5"),
        ("Proxy-Authorization", "Basic x"),
        ("Proxy-Connection", "x"),
        ("TE", "trailers"),
        ("Upgrade", "h2c"),
        ("X-Forwarded-For", "1.2.3.4"),
        ("Via", "x"),
        ("Forwarded", "for=x"),
        ("X-Two", "1"),
        ("X-Two", "2"),
    ]
    sent = [(name.encode(), value.encode()) for name, value in given]
    sent += [(b"Content-Type", b"application/json"), (b"X-Name", "caf\u00e9 \u5b89".encode()), (b"Cookie", b"c=3")]
    for path, body in (("chat/completions", json.dumps(ASKED).encode()), ("embeddings", b"{}")):
        got = httpx.post(f"{url}/v1/{path}", content=body, headers=sent)
        names = {line.split(b":")[0].lower() for line in behind.head[1:]}
        gone = {b"x-secret", b"te", b"upgrade", b"via", b"forwarded", b"x-forwarded-for", b"keep-alive"}
        assert not names & gone and not any(name.startswith(b"proxy-") for name in names)
        assert behind.sent(b"x-two") == [b"1", b"2"] and behind.sent(b"x-name") == ["caf\u00e9 \u5b89".encode()]
        assert behind.sent(b"cookie") == [b"c=3"] and len(behind.sent(b"content-length")) == 1
        assert behind.sent(b"host") == [behind.url.removeprefix("http://").encode()]
        raw = [value for name, value in got.headers.raw if name.lower() == b"set-cookie"]
        assert raw == [b"a=1", b"b=2; Path=/"]
        assert [value for name, value in got.headers.raw if name.lower() == b"x-said"] == [b"caf\xc3\xa9 \xff"]
        for name in ("x-mine", "proxy-authenticate", "upgrade", "trailer", "keep-alive"):
            assert name not in got.headers
        assert len(got.headers.get_list("date")) == len(got.headers.get_list("content-length") or [0]) == 1


def test_names_that_connection_lists_are_found_in_every_spelling() -> None:
    given = [(b"CONNECTION", b"a, B"), (b"connection", b"c"), (b"A", b"1"), (b"b", b"2"), (b"C", b"3"), (b"D", b"4")]
    assert end_to_end(given, ()) == [(b"d", b"4")]


OVERRIDING = (
    "X-Original-URL X-Original-URI X-Original-Host X-Original-Method X-Rewrite-URL X-HTTP-Method-Override X-HTTP-Method"
    " X-Method-Override X-Forwarded-Prefix X-Forwarded-Ssl X-Forwarded-User X-Forwarded-Server X-Forwarded-Anything "
    "X-Real-IP x_original_url X_Forwarded_User Proxy_Authorization"
).split()


def test_headers_that_override_what_was_checked_end_here(through: tuple[Behind, str]) -> None:
    behind, url = through
    behind.answers(b"{}")
    headers = dict.fromkeys(OVERRIDING, "/admin") | {"X-Original": "kept", "X-Forwarding": "kept", "x_own": "kept"}
    for send in (lambda: httpx.get(f"{url}/v1/models", headers=headers), lambda: asked_with(url, headers)):
        assert send().status_code == 200
        sent = b"\n".join(behind.head[1:])
        assert b"/admin" not in sent and sent.count(b"kept") == 3


def asked_with(url: str, headers: dict[str, str]) -> httpx.Response:
    return httpx.post(f"{url}/v1/chat/completions", json=ASKED, headers=headers)


def test_a_clients_key_does_not_go_beside_ours_in_another_spelling() -> None:
    with proxied(upstream_key="ours") as (behind, url):
        behind.answers(b"{}")
        httpx.get(f"{url}/v1/models", headers={"X_Api_Key": "theirs", "api_key": "theirs"})
        assert b"theirs" not in b"\n".join(behind.head)


def test_cookies_of_one_client_are_not_sent_for_another(through: tuple[Behind, str]) -> None:
    behind, url = through
    behind.answers(b"{}", b"Set-Cookie: session=alice; Path=/")
    asked(url)
    asked(url)
    assert behind.sent(b"cookie") == []


@pytest.mark.parametrize(
    ("options", "client", "sent"),
    [
        ({}, "theirs", [b"Bearer theirs"]),
        ({"upstream_key": "ours"}, "theirs", [b"Bearer ours"]),
        ({"key": "door"}, "door", []),  # the proxy's own key stays here
        ({"key": Keys(["door", "other"])}, "other", []),
        ({"key": "door", "upstream_key": "ours"}, "door", [b"Bearer ours"]),
    ],
)
def test_whose_key_the_server_behind_gets(options: dict, client: str, sent: list[bytes]) -> None:  # type: ignore[type-arg]
    with proxied(**options) as (behind, url):
        behind.answers(b"{}")
        headers = {"Authorization": f"Bearer {client}", "X-Api-Key": "mine"}
        for path in ("chat/completions", "embeddings"):
            assert httpx.post(f"{url}/v1/{path}", json=ASKED, headers=headers).status_code == 200
            assert behind.sent(b"authorization") == sent
            assert behind.sent(b"x-api-key") == ([] if "upstream_key" in options else [b"mine"])


def test_a_redirection_is_the_clients_to_follow(through: tuple[Behind, str]) -> None:
    behind, url = through
    behind.answers(b"", b"Location: http://evil.test/", status=b"307 Temporary Redirect")
    assert (got := asked(url)).status_code == 307 and got.headers["location"] == "http://evil.test/"


def test_a_packed_chat_is_refused(through: tuple[Behind, str]) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    got = httpx.post(f"{through[1]}/v1/chat/completions", content=b"x", headers=headers)
    assert got.status_code == 415 and "send it uncompressed" in got.json()["error"]["message"]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ftp://x/v1", "allowed: http or https"),
        ("x:8000/v1", "allowed: http or https"),
        ("http:///v1", "allowed: http"),
        ("http://x:port/v1", "allowed: such as"),
        ("http://x:99999/v1", "allowed: such as"),
        ("http://[::1/v1", "--upstream"),
        ("http://x/v1?key=1", "allowed: http or https"),
        ("http://x/v1#a", "allowed: http or https"),
        ("", "allowed: http"),
        ("http://x/../v1", "segments"),
        ("http://x/%2e%2e/v1", "segments"),
        ("http://x/a b/v1", "segments"),
        ("file:///etc/passwd", "allowed: http"),
        ("http://x/v1\n", "--upstream"),
        ("http://\\xe4.example/v1", "allowed: http or https, a host"),
        ("http://x\\y/v1", "--upstream"),
        ("http://x.example\\@evil.test/v1", "--upstream"),
        ("http://a b/v1", "--upstream"),
        ("http://a%2fb/v1", "--upstream"),
        ("http://../v1", "allowed: http or https, a host"),
        ("http://x..y/v1", "--upstream"),
        ("http://x;y/v1", "--upstream"),
        ("http://user:secret@x/v1", "has a name or"),
    ],
)
def test_addresses_that_cannot_be_behind(url: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        checked_url(url)
    assert words in str(caught.value) and "\n" not in str(caught.value) and "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://x",
        "https://[::1]:8/v1/",
        "http://caf\u00e9.test/openai/v1",
        "HTTP://X/v1",
        "http://my_host.x:8/v1",
        "http://10.0.0.1/v1",
        "http://x.test./v1",
    ],
)
def test_addresses_that_can(url: str) -> None:
    assert checked_url(url).scheme in ("http", "https")


def test_whether_somebody_answers(through: tuple[Behind, str]) -> None:
    assert answers(checked_url(through[0].url))
    assert not answers(checked_url("http://127.0.0.1:9/v1"))
