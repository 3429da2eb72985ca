"""How long `visipruner serve` takes to the first token, of which the engine itself, and with several clients.

    python tests/serve/first_token.py [VISIPRUNER] --model GGUF --mmproj GGUF [--rounds N] [--clients N] [--other URL]

Each round asks two questions about a picture that was never seen. What counts is the time from sending the request to its first
token; beside it stands what the engine says of itself (`timings`: picture and prompt). `--other` is a second server with the same
model, llama-server for example, that is asked the same in turn. `--clients` then asks further questions at once. Medians; needs
nothing but Python and Pillow."""

import argparse
import http.client
import io
import json
import random
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

from PIL import Image

from serving import Server, data_url, program, user

QUESTIONS = ["What is in this picture, and what stands next to it?", "Which colours are there, from left to right, and why?"]


def picture(seed):
    """Noise that no server has seen."""
    noise = random.Random(seed).randbytes(336 * 336 * 3)
    file = io.BytesIO()
    Image.frombytes("RGB", (336, 336), noise).save(file, "PNG")
    return data_url(file.getvalue())


def ask(url, question, seen, n_tokens):
    """Seconds to the first token and to the last, tokens, and the last chunk's timings."""
    place = urlsplit(url)
    connection = http.client.HTTPConnection(place.hostname, place.port, timeout=3600)
    body = {
        "messages": [user(question, seen)], "temperature": 0, "max_tokens": n_tokens, "ignore_eos": True, "stream": True,
        "stream_options": {"include_usage": True},
    }
    text, began, first, timings = json.dumps(body), time.perf_counter(), None, {}
    connection.request("POST", "/v1/chat/completions", text, {"content-type": "application/json"})
    answer = connection.getresponse()
    if answer.status != 200:
        raise SystemExit(f"{url} answers {answer.status}: {answer.read()[:500]}")
    for line in answer:
        if not line.startswith(b"data: {"):
            continue
        chunk = json.loads(line[6:])
        timings = chunk.get("timings") or timings
        if first is None and any(choice.get("delta", {}).get("content") for choice in chunk["choices"]):
            first = time.perf_counter() - began
    connection.close()
    return first or float("nan"), time.perf_counter() - began, timings


def measure(urls, rounds, n_clients):
    """{name: {what: median}}"""
    seen = {name: {} for name in urls}

    def note(name, what, value):
        seen[name].setdefault(what, []).append(value)

    for i in range(rounds):
        shown = picture(i)
        for name, url in urls.items():
            for nth, question in zip(("first question", "second question"), QUESTIONS):
                first, _, timings = ask(url, question, shown, 2)
                note(name, f"{nth}, ms", first * 1e3)
                if "image_ms" in timings:
                    own = timings["image_ms"] + timings["prompt_ms"]
                    note(name, f"{nth}, of which the engine, ms", own)
    shown = picture(0)
    for i in range(rounds):
        for name, url in urls.items():
            with ThreadPoolExecutor(n_clients) as clients:
                began = time.perf_counter()
                list(clients.map(lambda n: ask(url, f"{i}, {n}: {QUESTIONS[n % 2]}", shown, 64), range(n_clients)))
                note(name, f"{n_clients} clients, tokens per second", 64 * n_clients / (time.perf_counter() - began))
    return {name: {what: statistics.median(values) for what, values in of.items()} for name, of in seen.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("visipruner", nargs="?")
    parser.add_argument("--model", required=True)
    parser.add_argument("--mmproj", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--other", help="the address of another server, http://127.0.0.1:PORT")
    parser.add_argument("--flags", default="", help="further flags of visipruner serve, in one word")
    given = parser.parse_args()
    model = ("-m", given.model, "--mmproj", given.mmproj)
    with Server(program(given.visipruner), *given.flags.split(), model=model) as served:
        urls = {"visipruner": served.url} | ({"other": given.other} if given.other else {})
        for name, url in urls.items():
            ask(url, "Hello", picture(-1), 1)  # weights come into memory
        for name, found in measure(urls, given.rounds, given.clients).items():
            for what, value in found.items():
                print(f"{name:12} {what:45} {value:10.1f}")


if __name__ == "__main__":
    main()
