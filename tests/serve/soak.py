"""A soak of `visipruner serve`: mixed requests from several clients at once, each answered as it is answered alone.

    python tests/serve/soak.py [VISIPRUNER] [--requests N] [--clients N] [--seed N]

Pictures, several turns, policies, streams; one client in ten goes away in the middle, one request in twenty is bad. What a
request is answered alone is asked of the same server first, one at a time; those of which a token was a close choice are left
out, as sums are rounded in another way beside others. Fails if an answer is lost or differs, if a request is still at work at
the end, or if memory grows after the first tenth (at most the first 1,000)."""

import dataclasses
import http.client
import io
import json
import random
import statistics
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from PIL import Image

import bad_requests
from serving import DEMO, Server, arguments, data_url, user

GOES_AWAY, IS_BAD = 0.10, 0.05
# log-probabilities between the first and the second choice; batches of other sizes move them by up to 0.05
CLOSE = 0.1
# what a warm allocator may still add
GROWTH_MIB = 32
POLICIES = [None, {"policy": "off"}, {"policy": "fixed", "fusion_layer": 4, "keep": 4, "exit_from": 7},
            {"policy": "visipruner"}, {"policy": "divprune", "budget": 16}]


def pictures():
    """The pictures that ship, turned and mirrored: {(name, how): data URL}."""
    found = {}
    for name in ("shapes.png", "crosses.png", "trio.png"):
        for turn in range(8):
            with Image.open(DEMO / name) as picture:
                turned = picture.convert("RGB").rotate(90 * (turn % 4))
            if turn >= 4:
                turned = turned.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            file = io.BytesIO()
            turned.save(file, "PNG")
            found[name, turn] = data_url(file.getvalue())
    return found


@dataclasses.dataclass
class Asked:
    """A request, and what it is answered alone."""

    name: str
    path: str
    body: dict
    alone: str = ""


class Requests:
    """All requests that there are, each with its answer alone. Conversations go on with the answers that were given."""

    def __init__(self, server, rng):
        self.server, self.rng, self.usable, self.n_close = server, rng, [], 0
        listed = json.loads((DEMO / "questions.json").read_text())
        self.questions = [asked["question"] for of in listed for asked in of["questions"]]
        self.seen = pictures()
        self.add_conversations()
        self.add_pairs()
        self.add_texts()

    def add(self, name, body, path="/v1/chat/completions"):
        asked = Asked(name, path, {"temperature": 0, **body})
        asked.alone, margin = alone(self.server, asked)
        if margin < CLOSE:
            self.n_close += 1
        else:
            self.usable.append(asked)
        return asked.alone

    def chat(self, name, messages, policy=None, n=16, **more):
        body = {"messages": messages, "max_tokens": n, **more}
        return self.add(name, body | ({"visipruner": policy} if policy else {}))

    def add_conversations(self):
        for (name, turn), url in self.seen.items():
            for policy in POLICIES:
                said = self.rng.sample(self.questions, 3)
                messages = [user(said[0], url)]
                for question in [*said[1:], None]:
                    given = self.chat(f"{name} {turn} {policy}, turn {len(messages) // 2 + 1}", messages, policy)
                    if question:
                        messages = [*messages, {"role": "assistant", "content": given}, user(question)]

    def add_pairs(self):
        for _ in range(20):
            one, two = self.rng.sample(sorted(self.seen), 2)
            messages = [user(self.rng.choice(self.questions), self.seen[one], self.seen[two])]
            self.chat(f"{one} and {two}", messages, self.rng.choice(POLICIES))

    def add_texts(self):
        for question in self.questions:
            messages = [{"role": "system", "content": "Answer in a word."}, user(question)]
            self.chat(f"text {question}", messages, n=40, ignore_eos=True)
            body = {"prompt": question, "max_tokens": 20, "ignore_eos": True}
            self.add(f"completion {question}", body, "/v1/completions")


def alone(server, asked):
    """The text of an answer, and how close the closest choice of a token was."""
    told = {"logprobs": 2} if "prompt" in asked.body else {"logprobs": True, "top_logprobs": 2}
    status, raw = server.ask("POST", asked.path, {**asked.body, **told}, timeout=300)
    assert status == 200, f"{status} {raw[:300]}"
    choice = json.loads(raw)["choices"][0]
    tops = [token["top_logprobs"] for token in choice["logprobs"]["content"]]
    return text_of(choice), min((one["logprob"] - two["logprob"] for one, two in tops), default=CLOSE)


def text_of(choice):
    """That of a choice, whole or a piece of it."""
    return choice["text"] if "text" in choice else (choice.get("message") or choice["delta"]).get("content") or ""


def answer(server, asked, stream):
    """The text of an answer."""
    status, raw = server.ask("POST", asked.path, {**asked.body, "stream": stream}, timeout=300)
    assert status == 200, f"{status} {raw[:300]}"
    if not stream:
        return text_of(json.loads(raw)["choices"][0])
    data = [line.removeprefix(b"data: ") for line in raw.splitlines() if line.startswith(b"data: ")]
    assert data[-1] == b"[DONE]", f"a stream that breaks off: {raw[-300:]}"
    chunks = [json.loads(line)["choices"] for line in data[:-1]]
    return "".join(text_of(choices[0]) for choices in chunks if choices)


def go_away(server, asked, rng):
    """Asks, and leaves: at once, after a while, or in the middle of a stream."""
    body = {**asked.body, "stream": rng.random() < 0.7, "max_tokens": 200, "ignore_eos": True}
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=300)
    connection.request("POST", asked.path, json.dumps(body))
    if body["stream"] and rng.random() < 0.7:
        connection.getresponse().read(rng.randrange(1, 1500))
    else:
        time.sleep(rng.random() * 0.05)
    connection.close()


class Soak:
    """What was asked, and what came of it."""

    def __init__(self, server, all_requests, bad, n, seed):
        self.server, self.all, self.bad, self.n, self.seed = server, all_requests, bad, n, seed
        self.lock = threading.Lock()
        self.n_begun = self.n_done = 0
        self.counts = {"answered": 0, "streamed": 0, "gone away": 0, "bad": 0}
        self.faults, self.memory, self.seconds = [], [], []

    def client(self):
        while True:
            with self.lock:
                if self.n_begun == self.n or not self.server.is_alive():
                    return
                number, self.n_begun = self.n_begun, self.n_begun + 1
            began = time.monotonic()
            try:
                kind, fault = self.one(random.Random(self.seed * 1_000_003 + number))
            except (OSError, AssertionError, ValueError, http.client.HTTPException) as error:
                kind, fault = None, f"lost: {error!r}"
            self.note(number, kind, fault, time.monotonic() - began)

    def one(self, rng):
        """Sends one request; what it was, and what is wrong with its answer."""
        kind, asked = rng.random(), rng.choice(self.all)
        if kind < GOES_AWAY:
            go_away(self.server, asked, rng)
            return "gone away", None
        if kind < GOES_AWAY + IS_BAD:
            case = rng.choice(self.bad)
            status = bad_requests.answered(self.server, case)
            return "bad", None if status in case.allowed else f"{case.name}: {status}, expected {case.allowed}"
        stream = rng.random() < 0.5
        text = answer(self.server, asked, stream)
        fault = None if text == asked.alone else f"{asked.name}: {text!r}, alone {asked.alone!r}"
        return "streamed" if stream else "answered", fault

    def note(self, number, kind, fault, seconds):
        with self.lock:
            if kind:
                self.counts[kind] += 1
            if kind in ("answered", "streamed"):
                self.seconds.append(seconds)
            if fault:
                self.faults.append(f"request {number}: {fault}")
            self.n_done += 1
            if self.n_done % max(1, self.n // 100) == 0:
                self.memory.append((self.n_done, self.server.rss_mib()))
            if self.n_done % max(1, self.n // 10) == 0:
                print(f"{self.n_done:6} requests, {self.server.rss_mib():.0f} MiB, {len(self.faults)} faults", flush=True)


def grown(memory, n):
    """MiB by which the median of the last tenth is above that of what follows the warm-up."""
    warm = min(1000, n // 10)
    later = [mib for at, mib in memory if at > warm]
    tenth = max(1, len(later) // 10)
    return statistics.median(later[-tenth:]) - statistics.median(later[:tenth])


def still_at_work(server, seconds=60):
    """Requests that have not ended; clients that went away are noticed within a call of the engine."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if not any(slot["is_processing"] for slot in json.loads(server.get("/slots")[1])):
            return 0
        time.sleep(0.2)
    return sum(slot["is_processing"] for slot in json.loads(server.get("/slots")[1]))


def main():
    given = arguments(__doc__.splitlines()[0], requests=(10_000, "requests"), clients=(8, "clients at once"), seed=(1, "of what is sent"),
                      threads=(1, "threads of the engine"), parallel=(4, "requests answered at a time"))
    quick = [case for cases in (bad_requests.fields_of_wrong_kinds, bad_requests.pictures) for case in cases()]
    flags = ["--parallel", given.parallel, "--threads", given.threads, "--cache-ram", 64]
    with Server(given.visipruner, *flags) as server:
        # what is no fault of a soak is left to bad_requests.py
        bad = [case for case in quick if bad_requests.answered(server, case) in case.allowed]
        began = time.monotonic()
        made = Requests(server, random.Random(given.seed))
        asked = made.usable
        print(f"{len(asked)} different requests in {time.monotonic() - began:.0f} s, {made.n_close} left out as close, "
              f"{server.rss_mib():.0f} MiB", flush=True)
        soak = Soak(server, asked, bad, given.requests, given.seed)
        began = time.monotonic()
        with ThreadPoolExecutor(given.clients) as pool:
            for client in [pool.submit(soak.client) for _ in range(given.clients)]:
                client.result()
        took = time.monotonic() - began
        faults = soak.faults
        if not server.is_alive():
            faults.append(f"the server has ended:\n{server.log[-2000:]}")
        elif n_left := still_at_work(server):
            faults.append(f"{n_left} requests are still at work")
        else:
            changed = [one.name for one in random.Random(0).sample(asked, 20) if answer(server, one, False) != one.alone]
            faults += [f"{name} is answered in another way afterwards" for name in changed]
        if soak.n_done != given.requests:
            faults.append(f"{given.requests - soak.n_done} requests were not sent")
        more = grown(soak.memory, given.requests)
        if more > GROWTH_MIB:
            faults.append(f"memory grows: {[(at, round(mib)) for at, mib in soak.memory[::10]]}")
    told = ", ".join(f"{n} {kind}" for kind, n in soak.counts.items())
    slow = sorted(soak.seconds)
    print(f"{soak.n_done} requests in {took:.0f} s ({soak.n_done / took:.1f} a second): {told}")
    print(f"seconds until answered: median {slow[len(slow) // 2]:.2f}, 99 of 100 within {slow[len(slow) * 99 // 100]:.2f}, all within {slow[-1]:.2f}")
    print(f"memory after the warm-up: {more:+.1f} MiB, at the end {soak.memory[-1][1]:.0f} MiB")
    print(f"{len(faults)} faults")
    for fault in faults[:50]:
        print(" ", fault)
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
