"""The guard before every server, with clients made of messages and a clock that does not run."""

import asyncio
import json
import socket
import threading
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from types import SimpleNamespace

import pytest

from faceshifter.apps import http
from faceshifter.apps.guard import Guard, Names, Rules, client_of
from faceshifter.apps.problems import RefusedError, public, refused
from faceshifter.errors import OutputError

PIECE = {"type": "http.request", "body": b"x" * 100, "more_body": True}
LARGE = PIECE | {"body": bytes(10**5)}
END = {"type": "http.request", "body": b"", "more_body": False}


async def read_and_answer(_scope, receive, send) -> None:
    """An application that answers with the size of what it was sent, whatever goes wrong."""
    size = 0
    try:
        more = True
        while more:
            message = await receive()
            size, more = size + len(message["body"]), message["more_body"]
    except RefusedError:
        size = -1
    headers = [(b"cache-control", b"max-age=9")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": str(size).encode()})


async def refuse(_scope, _receive, _send) -> None:
    raise RefusedError(404, "not_found", "nothing is here")


async def never() -> None:
    await asyncio.Event().wait()


class Client:
    """A request, and what was answered."""

    def __init__(
        self, *pieces: dict[str, object], tick: Callable[[], None] = lambda: None, **headers: str
    ) -> None:
        """``tick`` is called with every piece; a client without pieces left sends nothing."""
        self.pieces, self.tick = list(pieces), tick
        self.sent: list[dict[str, object]] = []
        raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        self.scope = {"type": "http", "path": "/", "method": "POST", "headers": raw}

    async def receive(self) -> dict[str, object]:
        if not self.pieces:
            await never()
        self.tick()
        return self.pieces.pop(0)

    async def send(self, message: dict[str, object]) -> None:
        self.sent.append(message)

    def ask(self, guard: Guard, send: Callable[..., Awaitable[None]] | None = None) -> "Client":
        asyncio.run(guard(self.scope, self.receive, send or self.send))
        return self

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)

    @property
    def status(self) -> int:
        return self.sent[0]["status"]


def test_an_upload_that_stalls_is_refused_whatever_the_application_answers() -> None:
    ended = []
    guard = Guard(
        read_and_answer,
        Rules(idle_seconds=0.01),
        ended=lambda _, status, seconds: ended.append((status, seconds)),
        clock=lambda: 0.0,
    )
    client = Client(PIECE, expect="100-continue").ask(guard)
    assert client.status == 408
    assert json.loads(client.body)["error"] == "too_slow"
    assert ended == [(408, 0.0)]


@pytest.mark.parametrize(("seconds", "status"), [(0.1, 200), (2.0, 408)])
def test_an_upload_that_drips_is_refused(seconds: float, status: int) -> None:
    clock = [0.0]

    def tick() -> None:
        clock[0] += seconds

    client = Client(*[PIECE] * 20, END, tick=tick, transfer_encoding="chunked")
    client.ask(Guard(read_and_answer, Rules(), clock=lambda: clock[0]))
    assert client.status == status


def test_a_body_is_counted_as_it_comes_and_the_rest_of_a_refused_one_is_read() -> None:
    client = Client(*[LARGE] * 20, END, transfer_encoding="chunked")
    client.ask(Guard(read_and_answer, Rules()))
    assert client.status == 413
    assert json.loads(client.body)["message"] == "this upload has more than 1 MiB; send less"
    assert client.pieces == []
    assert (b"connection", b"close") in client.sent[0]["headers"]
    declared = Client(PIECE, content_length="2000000", expect="100-continue")
    declared.ask(Guard(read_and_answer, Rules()))
    assert declared.status == 413
    assert declared.pieces == [PIECE]


def test_a_client_that_does_not_read_its_answer_is_not_waited_for() -> None:
    ended = []

    async def block(_: object) -> None:
        await never()

    guard = Guard(
        read_and_answer, Rules(send_seconds=0.01), ended=lambda _, status, __: ended.append(status)
    )
    Client(END).ask(guard, block)
    assert ended == [200]


def test_an_application_may_refuse_and_keeps_its_own_cache_control() -> None:
    rules = Rules(headers={"Cache-Control": "no-store", "X-Robots-Tag": "noindex"})
    refused = Client(END).ask(Guard(refuse, rules))
    assert refused.status == 404
    assert json.loads(refused.body) == {"error": "not_found", "message": "nothing is here"}
    assert (b"cache-control", b"no-store") in refused.sent[0]["headers"]
    taken = Client(END).ask(Guard(read_and_answer, rules))
    assert taken.sent[0]["headers"] == [
        (b"cache-control", b"max-age=9"),
        (b"x-robots-tag", b"noindex"),
    ]


SITE = Names(local=False, more=("lab", "study.example.org"))


@pytest.mark.parametrize(
    ("names", "host", "origin", "accepted"),
    [
        (Names(), "localhost:80", None, True),
        (Names(), "127.0.0.1", "http://localhost:9", True),
        (Names(), "[::1]:80", None, True),
        (Names(), "evil.example", None, False),  # whose name resolves to this machine
        (Names(), "127.0.0.1", "http://evil.example", False),
        (Names(), "127.0.0.1", "null", False),
        (Names(), "192.0.2.1", None, False),
        (Names(), "[", None, False),
        (SITE, "192.0.2.1:80", "http://192.0.2.1:80", True),
        (SITE, "192.0.2.1:80", "http://192.0.2.9", False),
        (SITE, "lab", "http://lab", True),
        (SITE, "127.0.0.1", "https://study.example.org", True),  # behind a proxy
        (SITE, "evil.example", None, False),
    ],
)
def test_requests_are_to_a_server_s_own_names_and_from_its_own_pages(
    names: Names, host: str, origin: str | None, accepted: bool
) -> None:
    headers = {"host": host} | ({} if origin is None else {"origin": origin})
    client = Client(END, **headers).ask(Guard(read_and_answer, Rules(names=names)))
    assert client.status == (200 if accepted else 403)


def test_a_network_of_addresses_is_one_client() -> None:
    assert client_of(("192.0.2.1", 5)) == "192.0.2.1"
    assert client_of(("2001:db8::1", 5)) == client_of(("2001:db8::ffff:1", 6)) != "2001:db8::1"
    assert client_of(("2001:db8:0:1::1", 5)) != client_of(("2001:db8::1", 5))
    assert client_of(("fe80::1%eth0", 5)) == client_of(("fe80::1", 5))
    assert client_of(None) == ""


@pytest.mark.parametrize(
    ("sentence", "told"),
    [
        ("/srv/a/jobs/1/video is not a video", "video is not a video"),
        ("no (/srv/a/x.mp4), /etc/fs/key.pem; try", "no (x.mp4), key.pem; try"),
        ("'C:\\users\\me\\x.mp4' is cut off", "'x.mp4' is cut off"),
        ("see https://example.org/a/b or give JPEG/PNG", None),
    ],
)
def test_no_answer_names_a_folder_of_the_server(sentence: str, told: str | None) -> None:
    assert public(sentence) == (told or sentence)
    assert refused(OutputError(sentence)).problem.message == (told or sentence)


def test_a_connection_without_a_request_is_closed() -> None:
    listening = http.listen("127.0.0.1", 0)
    server = http.make_server(Guard(refuse, Rules()), idle_seconds=0.01)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    with socket.create_connection(listening.getsockname()) as connection:
        assert connection.recv(1) == b""
    server.should_exit = True
    thread.join()


def test_of_too_many_connections_the_oldest_half_sent_one_of_the_heaviest_client_goes() -> None:
    gone = []

    def connection(name: str, host: str, since: float, waited_for: bool = True) -> SimpleNamespace:
        transport = SimpleNamespace(abort=lambda: gone.append(name))
        fields = {"client": (host, 1), "since": since, "waited_for": waited_for}
        return SimpleNamespace(transport=transport, **fields)

    few = [connection("good, slow", "10.0.0.1", 0), connection("good", "10.0.0.1", 9)]
    many = [connection(str(since), "10.0.0.2", since) for since in (3, 2, 4)]
    at_work = connection("at work", "10.0.0.2", 1, waited_for=False)
    http.disconnect_one([*few, *many, at_work])
    assert gone == ["2"]


def test_half_sent_requests_keep_nobody_out() -> None:
    listening = http.listen("127.0.0.1", 0)
    server = http.make_server(Guard(read_and_answer, Rules()), connections=3)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    with ExitStack() as stack:
        for start in (
            b"",
            b"GET / HT",
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nx",
        ) * 3:
            half = stack.enter_context(socket.create_connection(listening.getsockname()))
            half.sendall(start)
        good = stack.enter_context(socket.create_connection(listening.getsockname()))
        good.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert good.makefile("rb").readline() == b"HTTP/1.1 200 OK\r\n"
    server.should_exit = True
    thread.join()
