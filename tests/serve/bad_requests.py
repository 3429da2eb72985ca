"""Bad requests to `visipruner serve`: none may end it, none may hang, each is answered with the right status.

    python tests/serve/bad_requests.py [VISIPRUNER] [--seed N] [--number N]

The cases that are written down come first, random ones fill up to the number. After every one the server must be well, and at
the end an ordinary question must be answered as before."""

import contextlib
import dataclasses
import json
import random
import socket
import struct
import sys
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

from serving import DEMO, Server, arguments, data_url, picture_url, user

CHAT = "/v1/chat/completions"
KEY = "sk-a-key-of-this-test"
# what the server is started with; slow clients are let go after this long
TIMEOUT_S = 2
# the longest that anything may take: a time-out, and a machine that is busy
LIMIT_S = TIMEOUT_S + 20
CLOSED = "closed"
GOOD = (DEMO / "shapes.png").read_bytes()


@dataclasses.dataclass
class Case:
    """What is sent, and with which statuses it may be answered; CLOSED: the connection is closed without an answer."""

    name: str
    allowed: tuple
    raw: bytes
    # sent again and again, this far apart, until there is an answer
    drip: bytes = b""
    # nothing more is sent
    half_closed: bool = False


def head(method, path, length=None, headers=(), key=KEY):
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost"]
    lines += [f"Authorization: Bearer {key}"] if key else []
    lines += [f"Content-Length: {length}"] if length is not None else []
    return "\r\n".join([*lines, *headers, "", ""]).encode("utf-8", "surrogateescape")


def post(body, path=CHAT, headers=("Content-Type: application/json",), key=KEY):
    if not isinstance(body, bytes):
        body = (body if isinstance(body, str) else json.dumps(body)).encode("utf-8", "surrogatepass")
    return head("POST", path, len(body), headers, key) + body


def chat(**fields):
    return post({"messages": [user("Hello")], "max_tokens": 2, **fields})


def seen(url, **fields):
    return chat(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}], **fields)


def png(width, height, rows=None, depth=8, kind=2):
    """A black picture; fewer rows than its head says make it one that is cut short."""
    channels = {0: 1, 2: 3, 6: 4}[kind]
    line = b"\0" + bytes(width * channels * depth // 8)
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(line) for _ in range(height if rows is None else rows)) + packer.flush()
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)), (b"IDAT", packed), (b"IEND", b"")]
    parts = [struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def fields_of_wrong_kinds():
    """Every field, with values of kinds that it does not have."""
    wrong = {
        "model": [5, [], {}, True],
        "messages": [None, 5, "text", {}, [], [5], [None], [{}], [{"role": 5}], [{"role": "user"}], [{"role": "user", "content": 5}],
                     [{"role": "king", "content": "a"}], [{"role": "user", "content": [5]}], [{"role": "user", "content": [{}]}],
                     [{"role": "user", "content": [{"type": "image_url"}]}], [{"role": "user", "content": [{"type": "sound"}]}],
                     [{"role": "user", "content": [{"type": "image_url", "image_url": 5}]}],
                     [{"role": "tool", "content": "a", "tool_call_id": "1"}],
                     [{"role": "system", "content": "only"}], [{"role": "user", "content": [{"type": "text"}]}]],
        "stream": ["yes", 1, [], {}],
        "stream_options": [5, "a", {"include_usage": "yes"}],
        "logprobs": ["yes", 1],
        "top_logprobs": [-1, 1.5, "a", 21, 2**62, 3],
        "tools": [[{"type": "function", "function": {"name": "f"}}], {"a": 1}],
        "functions": [[{"name": "f"}]],
        "response_format": [5, "json", {"type": "sound"}, {"type": 5}],
        "visipruner": [5, "off", [], {"policy": "none such"}, {"policy": 5}, {"unheard": 1}, {"policy": "fixed"},
                       {"policy": "fixed", "fusion_layer": 10**6, "keep": 4, "exit_from": 10**6 + 1},
                       {"policy": "fixed", "fusion_layer": -1, "keep": 4, "exit_from": 7},
                       {"policy": "fixed", "fusion_layer": 4, "keep": "many", "exit_from": 7}],
        "max_tokens": ["a", 1.5, -2, 2**70, [], True],
        "max_completion_tokens": ["a", 1.5, -2],
        "temperature": ["hot", -1, 1e39, 1e308, [], True],
        "top_p": ["a", -0.1, 1.5, 1e308],
        "top_k": ["a", 1.5, 2**40, 2**70],
        "min_p": ["a", -1, 2],
        "seed": ["a", 1.5, 2**70],
        "stop": [5, {}, [5], [["a"]]],
        "presence_penalty": ["a", 1e39],
        "frequency_penalty": ["a", 1e39],
        "repeat_penalty": ["a", 0, -1, 1e39],
        "repeat_last_n": ["a", 1.5, 2**31, 2**62],
        "logit_bias": [5, "a", {"a": 1}, {"5": "a"}, {"-1": 1}, {"1000000": 1}, {"5": 1e39}, [[5]], [["a", 1]], [[5, True]]],
        "n": [0, 2, -1, "a", 2**70],
        "ignore_eos": ["a", 1],
        "return_progress": ["a", 1],
    }
    for name, values in wrong.items():
        for value in values:
            yield Case(f"{name}={json.dumps(value)[:60]}", (400,), chat(**{name: value}))
    for value in (5, "", [], ["a", "b"], None, {}, [[1]]):
        yield Case(f"prompt={json.dumps(value)}", (400,), post({"prompt": value}, "/v1/completions"))
    yield Case("logprobs of a completion=1000", (400,), post({"prompt": "a", "logprobs": 1000}, "/v1/completions"))
    for path, field, values in (("/tokenize", "content", (5, None, {})), ("/detokenize", "tokens", (5, None, ["a"], [2**40], [-1], [10**6]))):
        for value in values:
            yield Case(f"{path} {field}={json.dumps(value)}", (400,), post({field: value}, path))


def bodies():
    """What is no JSON, or none that can be taken."""
    yield Case("no body", (400,), post(""))
    yield Case("a byte order mark", (400,), post(b"\xef\xbb\xbf{}"))
    yield Case("no UTF-8", (400,), post(b'{"messages": [{"role": "user", "content": "\xff\xfe"}]}'))
    yield Case("half a surrogate pair", (400,), post('{"messages": [{"role": "user", "content": "\\ud800"}]}'))
    yield Case("NaN", (400,), post('{"messages": [{"role": "user", "content": "a"}], "temperature": NaN}'))
    yield Case("Infinity", (400,), post('{"messages": [{"role": "user", "content": "a"}], "temperature": -Infinity}'))
    yield Case("a number out of range", (400,), post('{"messages": [{"role": "user", "content": "a"}], "temperature": 1e999}'))
    yield Case("nested lists", (400,), post("[" * 100_000))
    yield Case("nested objects", (400,), post('{"a":' * 100_000))
    yield Case("nested content", (400,), post('{"messages": [{"role": "user", "content": ' + "[" * 120 + "]" * 120 + "}]}"))
    yield Case("a list", (400,), post([1, 2]))
    yield Case("packed", (400, 415), post(b"\x1f\x8b\x08\0\0\0\0\0", headers=("Content-Encoding: gzip",)))
    yield Case("a form", (400,), post("a=b&c=d", headers=("Content-Type: application/x-www-form-urlencoded",)))
    yield Case("too long a prompt", (400,), chat(messages=[user("What color? " * 5000)]))
    yield Case("too long a prompt, streamed", (400,), chat(messages=[user("What color? " * 5000)], stream=True))
    yield Case("a long text of one word", (400,), chat(messages=[user("a" * 3_000_000)]))
    yield Case("larger than the limit", (413,), post(b" " * ((64 << 20) + 1)))
    yield Case("said to be larger than the limit", (413,), head("POST", CHAT, 10**12))
    yield Case("larger than the limit, with leave asked", (413,), head("POST", CHAT, 10**12, ["Expect: 100-continue"]))


def pictures():
    """Pictures that are none, or too large."""
    yield Case("a text", (415,), seen(data_url(b"hello")))
    yield Case("empty", (415,), seen(data_url(b"")))
    yield Case("SVG", (415,), seen(data_url(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml")))
    yield Case("an HTML page", (415,), seen("data:text/html;base64,aGVsbG8="))
    for length in (8, 20, 40, 100, len(GOOD) // 2, len(GOOD) - 30):
        yield Case(f"cut short after {length} bytes", (415,), seen(data_url(GOOD[:length])))
    yield Case("fewer rows than said", (415,), seen(data_url(png(100, 100, rows=10))))
    yield Case("0 x 0", (415,), seen(data_url(png(0, 0, rows=0))))
    yield Case("100000 x 100000", (413,), seen(data_url(png(100_000, 100_000, rows=1))))
    yield Case("30000 x 30000, said", (413,), seen(data_url(png(30_000, 30_000, rows=1))))
    yield Case("20000 x 20000, packed", (413,), seen(data_url(png(20_000, 20_000, rows=2000))))
    yield Case("60000 x 60000 of 16 bits", (413,), seen(data_url(png(60_000, 60_000, rows=1, depth=16, kind=6))))
    for url in ("", "a", "data:", "data:image/png", "data:image/png;base64", "data:image/png,abc", "data:image/png;base64,@@@@",
                "data:image/png;base64,A", "é:", "ftp://localhost/a.png", "http://127.0.0.1/a.png", "https://localhost/a.png",
                "http://169.254.169.254/latest/meta-data", "file:///etc/passwd", "file://../../etc/passwd", "javascript:1"):
        yield Case(f"url {url!r}", (400,), seen(url))
    yield Case("a picture in the system's words", (400,), chat(messages=[
        {"role": "system", "content": [{"type": "image_url", "image_url": {"url": picture_url("shapes.png")}}]}, user("Hello")]))
    yield Case("100 pictures", (400,), chat(messages=[user("a", *[data_url(png(8, 8))] * 100)]))


def addresses():
    for method, path, status in (
        ("GET", CHAT, 405), ("PUT", CHAT, 405), ("DELETE", "/v1/models", 405), ("POST", "/health", 405), ("PATCH", "/tokenize", 405),
        ("GET", "/none", 404), ("POST", "/v1", 404), ("GET", "/../../etc/passwd", 404), ("GET", "/%00", 404), ("GET", "//", 404),
        ("GET", "/v1/models/none", 404), ("BREW", "/health", 405),
    ):
        yield Case(f"{method} {path}", (status,), head(method, path, 0))
    yield Case("an address too long", (414,), head("GET", "/" + "a" * 100_000))
    for name, key in (("no key", None), ("a wrong key", "wrong"), ("an empty key", ""), ("half a key", KEY[:5]), ("a long key", KEY * 1000)):
        yield Case(name, (401,), post({"messages": [user("Hello")]}, key=key))
    yield Case("a key of another kind", (401,), post({"messages": [user("Hello")]}, key=None, headers=[f"Authorization: Basic {KEY}"]))


def protocol():
    """What is no HTTP."""
    yield Case("TLS", (400,), b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + bytes(64))
    yield Case("words", (400,), b"hello there\r\n\r\n")
    yield Case("an unknown version", (400,), b"GET /health HTTP/3.0\r\n\r\n")
    yield Case("a length below 0", (400,), head("POST", CHAT, -5))
    yield Case("a length that is none", (400,), head("POST", CHAT, "many"))
    yield Case("a length out of range", (400,), head("POST", CHAT, 10**30))
    yield Case("two lengths", (400,), head("POST", CHAT, 5, ["Content-Length: 6"]) + b"hello!")
    yield Case("a chunk that is none", (400,), head("POST", CHAT, headers=["Transfer-Encoding: chunked"]) + b"zz\r\n")
    yield Case("a chunk of 2^64 bytes", (400,), head("POST", CHAT, headers=["Transfer-Encoding: chunked"]) + b"ffffffffffffffffff\r\n")
    yield Case("an unknown encoding", (400, 501), head("POST", CHAT, headers=["Transfer-Encoding: sound"]) + b"{}")
    yield Case("a header with a zero", (400,), head("GET", "/health", headers=["A: \0"]))
    yield Case("a header without a colon", (400,), head("GET", "/health", headers=["hello"]))
    yield Case("a header too long", (431,), head("GET", "/health", headers=["A: " + "a" * 600_000]))
    yield Case("too many headers", (431,), head("GET", "/health", headers=[f"A{i}: a" for i in range(1000)]))
    yield Case("bytes in an address", (400,), b"GET /\xff\xfe HTTP/1.1\r\nHost: a\r\n\r\n")


def slow_clients():
    """Each ends by itself: its time is up, or its connection is closed."""
    yield Case("says nothing", (CLOSED, 408), b"")
    yield Case("says a letter", (CLOSED, 408), b"P")
    yield Case("begins HTTP/2 and stops", (CLOSED, 408, 400), b"PRI * HTTP/2.0\r\n")
    yield Case("begins HTTP/2 whole and stops", (CLOSED, 408, 400, 505), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    yield Case("half a head", (CLOSED, 408), b"GET /health HTTP/1.1\r\nHost: a\r\n")
    yield Case("a head by drops", (CLOSED, 408), b"GET /health HTTP/1.1\r\nHost: a\r\n", drip=b"A: b\r\n")
    yield Case("no body", (408,), head("POST", CHAT, 1000))
    yield Case("half a body", (408,), head("POST", CHAT, 1000) + b'{"messages": [')
    yield Case("a body by drops", (408,), head("POST", CHAT, 100_000), drip=b" ")
    yield Case("a body by chunks", (408,), head("POST", CHAT, headers=["Transfer-Encoding: chunked"]), drip=b"1\r\n \r\n")
    yield Case("goes after half a head", (CLOSED,), b"GET /health HT", half_closed=True)
    yield Case("goes after half a body", (CLOSED, 400), head("POST", CHAT, 1000) + b"{", half_closed=True)
    yield Case("goes after its question", (CLOSED, 200), chat(), half_closed=True)


def random_cases(rng):
    """Bodies that were good, damaged in one place; pictures, too."""
    good = {"model": "a", "messages": [user("What is this?", picture_url("shapes.png"))], "max_tokens": 2, "temperature": 0.5,
            "top_p": 0.9, "seed": 1, "stop": ["a"], "logit_bias": {"5": 1}, "stream": False, "visipruner": {"policy": "off"}}
    junk = [None, True, -1, 0, 1.5, 2**63, 2**70, -(2**70), "", "\0", "a" * 1000, [], {}, [[]], {"a": {}}, "\ud83d\ude00", [None], 1e300]
    while True:
        kind = rng.randrange(4)
        if kind == 0:
            text = bytearray(json.dumps(good).encode())
            at = rng.randrange(len(text))
            text[at : at + rng.randrange(1, 4)] = rng.randbytes(rng.randrange(3))
            # where it fell into a text, it is still JSON; where it fell into the picture, that may be none
            yield Case(f"bytes at {at}", (200, 400, 415), post(bytes(text)))
        elif kind == 1:
            body, name, value = dict(good), rng.choice(list(good)), rng.choice(junk)
            body[name] = value
            yield Case(f"{name}={str(value)[:20]!r}", (200, 400), post(body))
        elif kind == 2:
            content = bytearray(GOOD)
            for _ in range(rng.randrange(1, 5)):
                content[rng.randrange(8, len(content))] = rng.randrange(256)
            yield Case("bytes of a picture", (200, 413, 415), seen(data_url(bytes(content))))
        else:
            line = bytearray(chat()[:200])
            line[rng.randrange(60)] = rng.choice(b"\0\r\n\t \xff:/%")
            # closed: what looks like a head that goes on
            yield Case("bytes of a head", (CLOSED, 200, 400, 401, 404, 405, 408, 505), bytes(line))


def answered(server, case):
    """The status of an answer, CLOSED, or what went wrong."""
    began = time.monotonic()
    received = b""
    with socket.create_connection(("127.0.0.1", server.port), timeout=0.2) as connection:
        try:
            connection.settimeout(LIMIT_S)
            connection.sendall(case.raw)
        except OSError:
            pass  # it has answered before it heard all
        try:
            if case.half_closed:
                connection.shutdown(socket.SHUT_WR)
            connection.settimeout(0.2)
            while time.monotonic() < began + LIMIT_S:
                try:
                    more = connection.recv(65536)
                    received += more
                    if not more:
                        return status(received) or CLOSED
                except TimeoutError:
                    if case.drip:
                        connection.sendall(case.drip)
                if found := status(received):
                    return found
        except OSError:
            return status(received) or CLOSED
    return f"hangs for {LIMIT_S} s"


def status(received):
    """That of the last head: leave to send a body (100) is no answer."""
    for part in received.split(b"\r\n\r\n"):
        if part.startswith(b"HTTP/1.") and not part[9:].startswith(b"100"):
            return int(part[9:12])
    return None


def leaves_a_stream(server):
    """A client that asks for a long answer, reads no byte of it, and stays: others are answered meanwhile, and the server gets
    rid of it."""
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        connection.sendall(chat(stream=True, max_tokens=400, ignore_eos=True, logprobs=True, top_logprobs=20))
        code, _ = server.ask("POST", CHAT, {"messages": [user("Hello")], "max_tokens": 2})
        if code != 200:
            return [f"{code} while another client reads nothing"]
        until = time.monotonic() + 120
        while time.monotonic() < until:
            slots = json.loads(server.get("/slots")[1])
            if not any(slot["is_processing"] for slot in slots):
                return []
            time.sleep(0.2)
    return [f"a request whose client reads nothing keeps its slot: {slots}"]


def lock_others_out(server):
    """More clients than may wait, each with a body that does not come: a question is answered meanwhile."""
    with contextlib.ExitStack() as stack:
        for _ in range(100):
            slow = stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            slow.sendall(head("POST", CHAT, 1000) + b"{")
        code, _ = server.ask("POST", CHAT, {"messages": [user("Hello")], "max_tokens": 2})
    return [] if code == 200 else [f"{code} while 100 clients send their bodies slowly"]


def main():
    given = arguments(__doc__.splitlines()[0], seed=(1, "of the random cases"), number=(300, "of cases"))
    question = [user("What color is the star?", picture_url("shapes.png"))]
    written = [case for cases in (fields_of_wrong_kinds, bodies, pictures, addresses, protocol, slow_clients) for case in cases()]
    random_ones = random_cases(random.Random(given.seed))
    cases = written + [next(random_ones) for _ in range(max(0, given.number - len(written)))]
    faults = []
    with Server(given.visipruner, "--timeout", TIMEOUT_S, "--threads", 1, api_key=KEY) as server:
        before = server.chat(question, max_tokens=8)[1]["choices"]
        with ThreadPoolExecutor(8) as pool:
            for case, found in zip(cases, pool.map(lambda case: checked(server, case), cases)):
                if found not in case.allowed:
                    faults.append(f"{case.name}: {found}, expected {' or '.join(map(str, case.allowed))}")
        faults += lock_others_out(server)
        faults += leaves_a_stream(server)
        if server.is_alive() and server.chat(question, max_tokens=8)[1]["choices"] != before:
            faults.append("the same question is answered in another way than before")
        if not server.is_alive() or "panicked" in server.log:
            faults.append(f"the server has ended or panicked:\n{server.log[-2000:]}")
    print(f"{len(cases)} bad requests ({len(cases) - len(written)} random, seed {given.seed}): {len(faults)} not answered as expected")
    for fault in faults:
        print(" ", fault)
    return bool(faults)


def checked(server, case):
    """What came of a case; the server must be well afterwards."""
    if not server.is_alive():
        return "not sent, the server has ended"
    found = answered(server, case)
    began = time.monotonic()
    try:
        health = server.get("/health", timeout=LIMIT_S)[0]
    except OSError as error:
        return f"{found}, then no health: {error}"
    took = time.monotonic() - began
    return found if health == 200 and took < LIMIT_S else f"{found}, then health {health} after {took:.1f} s"


if __name__ == "__main__":
    sys.exit(main())
