"""Who may ask: hosts, pages of other sites, content types, keys; and what one key learns of another's: nothing."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from erecap.errors import ConfigError
from erecap.serving.app import create_app
from erecap.serving.background import running
from erecap.serving.engine import Ask, Engine
from erecap.serving.guard import is_loopback
from erecap.serving.keys import Keys
from erecap.session.session import ReplanSession
from tests.context.small_tokenizers import byte_level
from tests.serving.recorded import ASKED, Behind, asked, proxied
from tests.session.chats import model, start

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def local() -> Iterator[tuple[Behind, str]]:
    """A proxy that checks hosts."""
    with proxied(hosts=["robot.local"]) as (behind, url):
        behind.answers(b"{}")
        yield behind, url


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:1234", 200),
        ("127.0.0.1", 200),
        ("127.9.9.9:80", 200),
        ("[::1]:8000", 200),
        ("robot.local", 200),
        ("evil.test", 421),
        ("evil.test:8000", 421),
        ("localhost.evil.test", 421),
        ("", 421),
        ("127.0.0.1.evil.test", 421),
        ("localhost@evil.test", 421),
        ("evil.test@localhost", 421),
        ("localhost:x", 421),
        ("[::1", 421),
        ("10.0.0.7", 421),
        ("2130706433", 421),
        ("localhost/../evil", 421),
    ],
)
def test_hosts(local: tuple[Behind, str], host: str, status: int) -> None:
    for path in ("/health", "/metrics", "/v1/models"):
        assert httpx.get(local[1] + path, headers={"Host": host}).status_code == status


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://localhost:3000", 200),
        ("http://127.0.0.1", 200),
        ("https://robot.local", 200),
        ("null", 403),
        ("https://evil.test", 403),
        ("http://localhost.evil.test", 403),
        ("file://", 403),
        ("http://a@localhost", 403),
    ],
)
def test_pages_of_other_sites(local: tuple[Behind, str], origin: str, status: int) -> None:
    assert httpx.post(f"{local[1]}/v1/x", json={}, headers={"Origin": origin}).status_code == status


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("application/json", 200),
        ("Application/JSON; charset=utf-8", 200),
        ("multipart/form-data; boundary=x", 200),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("", 415),
        ("text/plain; application/json", 415),
    ],
)
def test_content_types(local: tuple[Behind, str], kind: str, status: int) -> None:
    url, headers = local[1], {"Content-Type": kind} if kind else {}
    assert httpx.post(f"{url}/v1/files", content=b"x", headers=headers).status_code == status
    assert httpx.post(f"{url}/v1/cancel").status_code == httpx.delete(f"{url}/v1/files/1").status_code == 200


def test_our_own_server_takes_json_alone(serve) -> None:  # type: ignore[no-untyped-def]
    server = serve()
    url, body = (
        f"{server.url}/v1/chat/completions",
        b'{"model": "tiny", "messages": [{"role": "user", "content": "x"}]}',
    )
    for kind in ("text/plain", "multipart/form-data"):
        got = httpx.post(url, content=body, headers={"Content-Type": kind})
        assert got.status_code == 415 and "allowed: application/json" in got.json()["error"]["message"]
    assert httpx.post(url, content=iter([body]), headers={"Content-Type": "text/css"}).status_code == 415  # in chunks


def test_half_a_surrogate_pair_in_a_refusal(serve) -> None:  # type: ignore[no-untyped-def]
    body = b'{"model": "\\ud800", "messages": [{"role": "user", "content": "x"}]}'
    got = httpx.post(f"{serve().url}/v1/chat/completions", content=body, headers=JSON)
    assert got.status_code == 404 and "no model" in got.json()["error"]["message"]


@pytest.mark.parametrize(
    ("host", "is_one"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("", False),
        ("x", False),
    ],
)
def test_addresses_of_this_machine_alone(host: str, is_one: bool) -> None:
    assert is_loopback(host) == is_one


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--host", "0.0.0.0"), "--host: '0.0.0.0' can be reached from other machines, and no key is asked for"),
        (("--host", "::"), "--host: '::' can be reached from other machines"),
        (("--key-file", "none.txt"), "--key-file: none.txt cannot be read: No such file or directory"),
        (("--key-file", "twice.txt"), "--key-file: twice.txt: keys: one is there twice"),
        (("--key-file", "empty.txt"), "--key-file: empty.txt: keys: got none"),
        (("--key-file", "odd.txt"), "--key-file: odd.txt has bytes beyond ASCII (byte 3)"),
        (("--key-file", "one.txt", "--api-key-env", "HOME"), "--key-file: got it beside --api-key-env"),
        (("--upstream", "http://a:b@x/v1"), "--upstream: has a name or password"),
        (("--upstream", "http://a:b@x\uff0fy/v1"), "--upstream: no URL; allowed: such as"),
        (("--upstream", "x.test/v1"), "--upstream: got 'x.test/v1'; allowed: http or https"),
    ],
)
def test_what_no_server_is_started_with(erecap, tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:  # type: ignore[no-untyped-def]
    for name, text in {"twice": "a\nb\na\n", "empty": "# none\n\n", "odd": "abc\u00e9", "one": "a"}.items():
        (tmp_path / f"{name}.txt").write_text(text, encoding="utf-8")
    upstream = () if "--upstream" in arguments else ("--upstream", "http://127.0.0.1:9/v1")
    code, _, err = erecap("serve", "--keep-tokens", "99", *upstream, *arguments)
    assert code == 2 and words in err.splitlines()[-1]


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e400"])
@pytest.mark.parametrize("option", ["--timeout", "--body-mb", "--answer-mb", "--memory-gb", "--pays"])
def test_numbers_that_are_none(erecap, option: str, value: str) -> None:  # type: ignore[no-untyped-def]
    code, _, err = erecap("serve", option, value)
    assert code == 2 and option in err and "Traceback" not in err


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Of a server with two keys."""
    keys = Keys(["alice-key", "bob-key"])
    made, tokenizer = model(window=4096), byte_level()
    engine = Engine(
        made, tokenizer, lambda: ReplanSession(made, tokenizer), at_once=2, sessions=5, tenants=keys.tenants
    )
    with running(create_app(engine, "tiny", key=keys)) as url:
        yield url


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


class TestTenants:
    """Two keys."""

    def ask(self, url: str, key: str, messages: list) -> int:  # type: ignore[type-arg]
        """A chat; the tokens that were found read."""
        body = {"model": "tiny", "messages": messages, "max_tokens": 2, "temperature": 0}
        got = httpx.post(
            f"{url}/v1/chat/completions", json=body, headers={"Authorization": f"Bearer {key}"}, timeout=60
        )
        return got.json()["usage"]["prompt_tokens_details"]["cached_tokens"]

    def metrics(self, url: str, key: str) -> list[str]:
        page = httpx.get(f"{url}/metrics", headers=bearer(key)).text
        return [line for line in page.splitlines() if not line.startswith("#") and "_created" not in line]

    def test_one_learns_nothing_of_the_other(self, url: str) -> None:
        assert self.ask(url, "alice-key", start()) == 0
        before = self.metrics(url, "bob-key")
        assert self.ask(url, "alice-key", start()) > 0
        for number in range(4):  # more than are remembered for her: none of his goes for hers
            self.ask(url, "alice-key", [{"role": "user", "content": f"another {number}"}])
        after = self.metrics(url, "bob-key")
        without_pages = [line for line in after if 'path="/metrics"' not in line]
        assert without_pages == [line for line in before if 'path="/metrics"' not in line]
        assert not any(name in line for line in after for name in ("running", "waiting"))
        assert self.ask(url, "bob-key", start()) == 0
        assert self.ask(url, "bob-key", start()) > 0
        assert 'erecap_tokens_total{kind="completion"} 4.0' in self.metrics(url, "bob-key")

    def test_nobody_drafts_from_the_answers_of_another(self) -> None:
        made, tokenizer = model(), byte_level()

        def make_session() -> ReplanSession:
            return ReplanSession(made, tokenizer, draft="automaton-run")

        def passes(engine: Engine, tenant: str) -> int:
            ask = Ask(start(), {"max_new_tokens": 40}, tenant=tenant)
            engine.submit(ask)
            return ask.answer.result(timeout=120).usage.decode_passes

        with closing(Engine(made, tokenizer, make_session, at_once=2, sessions=4, tenants=("a", "b"))) as engine:
            first = passes(engine, "a")
            assert passes(engine, "b") == first
            assert passes(engine, "a") < first

    def test_without_a_key_nothing_is_told(self, url: str) -> None:
        assert httpx.get(f"{url}/metrics").status_code == 401
        assert httpx.get(f"{url}/v1/models", headers={"Authorization": "Bearer alice-ke"}).status_code == 401
        assert httpx.get(f"{url}/v1/models", headers={"Authorization": "Basic alice-key"}).status_code == 401
        assert httpx.get(f"{url}/health").json() == {"status": "ok"}

    def test_shares_that_are_too_small_are_refused(self) -> None:
        made, tokenizer = model(), byte_level()
        with pytest.raises(ValueError, match="got 9 for 2 keys, with 8 answered at once; allowed: at least 16"):
            Engine(made, tokenizer, lambda: ReplanSession(made, tokenizer), sessions=9, tenants=("a", "b"))


def test_a_proxy_keeps_the_conversations_of_keys_apart() -> None:
    """Shortened chats depend on what was shown before: of the same key."""
    chat = [
        {"role": "system", "content": "s"},
        *({"role": "user", "content": f"{n} " + 90 * "word "} for n in range(9)),
    ]

    def told(url: str, key: str, messages: list) -> bytes:  # type: ignore[type-arg]
        body = {**ASKED, "messages": messages}
        return httpx.post(f"{url}/v1/chat/completions", json=body, headers=bearer(key)).content

    with proxied(key=Keys(["a", "b"])) as (behind, url):
        behind.answers(b"{}")
        bodies = []
        for keys in ("a", "b"):
            for length in range(4, 11):
                told(url, keys, chat[:length])
            bodies.append(behind.body)
        told(url, "b", chat)
        assert bodies[0] == bodies[1] == behind.body
        assert 'kind="prompt"' in httpx.get(f"{url}/metrics", headers={"Authorization": "Bearer a"}).text
        assert asked(url).status_code == 401


def test_what_one_key_was_shown_changes_nothing_for_another() -> None:
    """One key's chat is compacted at its full length, before another key leads the same chat from its beginning."""
    chat = [{"role": "system", "content": "s"}, {"role": "user", "content": "Find the mug."}]
    for number in range(12):
        chat += [
            {"role": "assistant", "content": f"go {number}"},
            {"role": "user", "content": f"{number} " + "see " * 40},
        ]

    def led(url: str, behind: Behind, key: str) -> list[bytes]:
        bodies = []
        for length in range(18, len(chat) + 1, 2):
            body = {**ASKED, "messages": chat[:length]}
            httpx.post(f"{url}/v1/chat/completions", json=body, headers=bearer(key))
            bodies.append(behind.body)
        return bodies

    keys = Keys(["a", "b"])
    with proxied(key=keys) as (behind, url):
        behind.answers(b"{}")
        alone = led(url, behind, "b")
    with proxied(key=keys) as (behind, url):
        behind.answers(b"{}")
        body = {**ASKED, "messages": chat}
        httpx.post(f"{url}/v1/chat/completions", json=body, headers=bearer("a"))
        assert led(url, behind, "b") == alone != led(url, behind, "a")


def test_a_proxy_as_a_person_starts_it(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("# two robots\nalice-key\n\n  bob-key  \n")
    command = [sys.executable, "-m", "erecap.cli.main", "serve", "--upstream", "http://127.0.0.1:9/v1", "--port", "0"]
    command += ["--keep-tokens", "99", "--key-file", str(tmp_path / "keys"), "--allow-host", "Robot.local"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        said = [process.stderr.readline(), process.stderr.readline()]
        assert said[0] == "note: nothing answers at 127.0.0.1 yet; until it does, clients get status 502\n"
        found = re.fullmatch(
            r"serving a proxy before http://127\.0\.0\.1:9/v1 at (http://127\.0\.0\.1:\d+)/v1; .*\n", said[1]
        )
        assert found is not None, said
        for key, host, status in (("bob-key", "robot.local", 502), ("bob-key", "x", 421), ("x", "localhost", 401)):
            got = httpx.get(f"{found[1]}/v1/models", headers={**bearer(key), "Host": host}, timeout=30)
            assert got.status_code == status
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    finally:
        process.kill()


def test_keys() -> None:
    with pytest.raises(ConfigError, match="key 2: allowed are printable ASCII"):
        Keys(["fine", "not fine"])
    keys = Keys(["a", "b", "c"])
    assert len(set(keys.tenants)) == 3 and keys.tenant(b"bearer  b") == keys.tenants[1]
    assert keys.tenant(b"Bearer d") is keys.tenant(b"a") is keys.tenant(b"") is None
    assert not any(key in tenant for key in ("a-long-key",) for tenant in Keys(["a-long-key", "b"]).tenants)
