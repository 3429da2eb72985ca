"""The official Python package of OpenAI against the server."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
from openai import OpenAI
from serving import DEMO, MMPROJ, MODEL, Server, data_url, picture_url, user

from conftest import KEY

STAR = "What color is the star?"


@pytest.fixture
def client(server):
    return OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0, timeout=60)


def ask(client, messages, **fields):
    fields = {"model": "shapes", "temperature": 0, "max_tokens": 24, **fields}
    return client.chat.completions.create(messages=messages, **fields)


def text(answer):
    return answer.choices[0].message.content


def test_models_are_listed(client):
    listed = client.models.list().data
    assert [model.id for model in listed] == ["shapes"]
    assert listed[0].architecture["input_modalities"] == ["text", "image"]
    assert client.models.retrieve("shapes").id == "shapes"


def test_pictures_are_seen(client, questions):
    right = 0
    for url, question, answers in questions:
        # with a line between picture and question, as LLaVA was trained and `visipruner run` writes it
        answer = ask(client, [user(f"\n{question}", url)])
        assert answer.object == "chat.completion" and answer.model == "shapes"
        assert answer.choices[0].finish_reason == "stop"
        assert answer.choices[0].message.role == "assistant"
        right += text(answer).strip() in answers
    assert right == len(questions), f"{right} of {len(questions)} answers are right"


def test_two_pictures_in_one_message(client):
    both = ask(client, [user("What shape is the white thing?", picture_url("shapes.png"), picture_url("trio.png"))])
    one = ask(client, [user("What shape is the white thing?", picture_url("trio.png"))])
    assert both.usage.prompt_tokens >= one.usage.prompt_tokens + 64


def test_usage_adds_up(client):
    usage = ask(client, [user(STAR, picture_url("shapes.png"))]).usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.completion_tokens > 0


def test_a_conversation_is_found_again(client):
    """Each turn computes its own text: everything before the new question was read."""
    messages = [user(STAR, picture_url("shapes.png"))]
    before = None
    for question in ("What shape is the blue object?", "How many objects are there?", None):
        answer = ask(client, messages)
        if before:
            cached = answer.usage.prompt_tokens_details.cached_tokens
            assert before.prompt_tokens <= cached < answer.usage.prompt_tokens
        before = answer.usage
        messages += [{"role": "assistant", "content": text(answer)}, user(question)] if question else []


def test_a_stream_says_the_same(client):
    for messages in ([user(STAR, picture_url("shapes.png"))], [user("Describe the image.", picture_url("trio.png"))]):
        whole = ask(client, messages)
        chunks = list(ask(client, messages, stream=True))
        assert all(chunk.object == "chat.completion.chunk" and chunk.id == chunks[0].id for chunk in chunks)
        assert chunks[0].choices[0].delta.role == "assistant"
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == text(whole)
        reasons = [chunk.choices[0].finish_reason for chunk in chunks]
        assert reasons == [None] * (len(chunks) - 1) + ["stop"]
        assert all(chunk.usage is None for chunk in chunks)


def test_a_stream_tells_its_usage_if_asked(client):
    messages = [user(STAR, picture_url("shapes.png"))]
    whole = ask(client, messages)
    *chunks, last = ask(client, messages, stream=True, stream_options={"include_usage": True})
    assert last.choices == [] and all(chunk.choices for chunk in chunks)
    assert last.usage.prompt_tokens == whole.usage.prompt_tokens
    assert last.usage.completion_tokens == whole.usage.completion_tokens


def test_a_stream_can_be_left(client, server):
    stream = ask(client, [user("Hello")], stream=True, max_tokens=1500, extra_body={"ignore_eos": True})
    next(iter(stream))
    stream.close()
    assert text(ask(client, [user(STAR, picture_url("shapes.png"))])).strip() == "yellow"


def test_logprobs(client):
    answer = ask(client, [user(STAR, picture_url("shapes.png"))], logprobs=True, top_logprobs=3)
    told = answer.choices[0].logprobs.content
    assert b"".join(bytes(token.bytes) for token in told).decode().startswith(text(answer))
    for token in told:
        assert token.logprob <= 0
        assert len(token.top_logprobs) == 3
        tops = [top.logprob for top in token.top_logprobs]
        assert tops == sorted(tops, reverse=True)
        assert token.token == token.top_logprobs[0].token, "at temperature 0 the likeliest token is taken"
        assert token.logprob == pytest.approx(tops[0])


def test_logprobs_of_a_stream(client):
    messages = [user(STAR, picture_url("shapes.png"))]
    whole = ask(client, messages, logprobs=True, top_logprobs=2).choices[0].logprobs.content
    chunks = ask(client, messages, logprobs=True, top_logprobs=2, stream=True)
    told = [token for chunk in chunks if chunk.choices[0].logprobs for token in chunk.choices[0].logprobs.content]
    assert [token.token for token in told] == [token.token for token in whole]
    for streamed, token in zip(told, whole):
        assert streamed.logprob == pytest.approx(token.logprob, abs=1e-3)


def test_a_seed_repeats_an_answer(client):
    def sampled(seed):
        return text(ask(client, [user("Hello")], temperature=1.5, seed=seed, max_tokens=32))

    assert sampled(1) == sampled(1) and sampled(2) == sampled(2)
    assert len({sampled(seed) for seed in range(6)}) > 1


def test_stop(client):
    messages = [user("Describe the image.", picture_url("trio.png"))]
    whole = text(ask(client, messages))
    stop = whole.split(",")[1][:4]
    for given in (stop, [stop], ["not said", stop]):
        answer = ask(client, messages, stop=given)
        assert text(answer) == whole[: whole.index(stop)]
        assert answer.choices[0].finish_reason == "stop"
    streamed = ask(client, messages, stop=stop, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed) == whole[: whole.index(stop)]


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_a_limit(client, name):
    fields = {"max_tokens": openai.omit, name: 2}
    answer = ask(client, [user("Describe the image.", picture_url("trio.png"))], **fields)
    assert answer.usage.completion_tokens == 2
    assert answer.choices[0].finish_reason == "length"


def test_logit_bias(client, server):
    status, found = server.ask("POST", "/tokenize", {"content": " yellow"})
    assert status == 200
    tokens = json.loads(found)["tokens"]
    messages = [user(STAR, picture_url("shapes.png"))]
    assert text(ask(client, messages)) == " yellow"
    assert "yellow" not in text(ask(client, messages, logit_bias={token: -100 for token in tokens}))
    always = ask(client, messages, logit_bias={tokens[0]: 100}, max_tokens=3, logprobs=True)
    assert {token.id for token in always.choices[0].logprobs.content} == {tokens[0]}


def test_a_policy_per_request(client):
    messages = [user(STAR, picture_url("shapes.png"))]
    fixed = {"policy": "fixed", "fusion_layer": 4, "keep": 4, "exit_from": 7}
    pruned = ask(client, messages, extra_body={"visipruner": fixed})
    assert pruned.visipruner["drops"][0]["n_kept"] == 4
    assert pruned.visipruner["rows"]["computed_or_kept"] < pruned.visipruner["rows"]["dense"]
    dense = ask(client, messages, extra_body={"visipruner": {"policy": "off"}})
    assert dense.visipruner["drops"] == []
    by_name = ask(client, messages, model="shapes:off", extra_body={"visipruner": {}})
    assert by_name.visipruner["policy"] == dense.visipruner["policy"]


def test_completions_of_text(client):
    answer = client.completions.create(model="shapes", prompt="What color", temperature=0, max_tokens=4)
    assert answer.object == "text_completion" and answer.usage.completion_tokens <= 4
    chunks = client.completions.create(model="shapes", prompt="What color", temperature=0, max_tokens=4, stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == answer.choices[0].text


def needs_response_format(client):
    """Skips where the server says that it does not do this; any other refusal is a failure."""
    try:
        ask(client, [user("Hello")], response_format={"type": "json_object"})
    except openai.BadRequestError as error:
        if "not supported" in error.message:
            pytest.skip(f"this server makes no answers to a schema: {error.message}")
        raise


SCHEMA = {
    "type": "object",
    "properties": {"color": {"type": "string", "enum": ["red", "yellow"]}, "n": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["color", "n"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("strict", [True, False])
def test_answers_to_a_schema(client, strict):
    needs_response_format(client)
    wanted = {"type": "json_schema", "json_schema": {"name": "seen", "schema": SCHEMA, "strict": strict}}
    for stream in (False, True):
        answer = ask(client, [user(STAR, picture_url("shapes.png"))], response_format=wanted, max_tokens=200, stream=stream)
        said = "".join(chunk.choices[0].delta.content or "" for chunk in answer) if stream else text(answer)
        seen = json.loads(said)
        assert set(seen) == {"color", "n"}
        assert seen["color"] in ("red", "yellow") and 0 <= seen["n"] <= 9


def test_answers_as_an_object(client):
    needs_response_format(client)
    answer = ask(client, [user("Hello")], response_format={"type": "json_object"}, max_tokens=1000)
    if answer.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(text(answer)), dict)
    else:
        assert text(answer).lstrip().startswith("{")


def test_a_schema_that_is_none(client):
    needs_response_format(client)
    for schema in (123, {"type": 123}, {"type": "hiccup"}):
        wanted = {"type": "json_schema", "json_schema": {"name": "seen", "schema": schema}}
        with pytest.raises(openai.BadRequestError):
            ask(client, [user("Hello")], response_format=wanted)


def test_a_wrong_key(server):
    for key in ("wrong", KEY[:-1], KEY + "x"):
        with pytest.raises(openai.AuthenticationError) as raised:
            ask(OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0), [user("Hello")])
        assert raised.value.status_code == 401 and raised.value.code == "invalid_api_key"


def test_what_is_too_long(client):
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as raised:
            ask(client, [user("What color is it? " * 1000)], stream=stream)
        error = raised.value
        assert error.code == "context_length_exceeded"
        assert error.body["n_prompt_tokens"] > error.body["n_ctx"] == 2048


@pytest.mark.parametrize("content", [b"hello", (DEMO / "shapes.png").read_bytes()[:300], b""], ids=["text", "cut short", "empty"])
def test_no_picture(client, content):
    with pytest.raises(openai.APIStatusError) as raised:
        ask(client, [user("What is this?", data_url(content))])
    assert raised.value.status_code == 415 and raised.value.code == "invalid_image"


@pytest.mark.parametrize("fields, param", [
    ({"temperature": -1}, "temperature"),
    ({"top_p": 2}, "top_p"),
    ({"n": 2}, "n"),
    ({"top_logprobs": 3}, "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"logit_bias": {"100000": 1}}, "logit_bias"),
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
    ({"max_tokens": -2}, "max_tokens"),
    ({"max_tokens": "many"}, "max_tokens"),
    ({"extra_body": {"visipruner": {"policy": "none such"}}}, "visipruner"),
])
def test_a_field_that_is_wrong_is_named(client, fields, param):
    with pytest.raises(openai.BadRequestError) as raised:
        ask(client, [user("Hello")], **fields)
    assert raised.value.param == param


def test_of_several_models_one_must_be_named(visipruner, tmp_path):
    (tmp_path / MODEL.name).symlink_to(MODEL)
    (tmp_path / MMPROJ.name).symlink_to(MMPROJ)
    (tmp_path / "other.gguf").symlink_to(MODEL)
    with Server(visipruner, model=("--models-dir", tmp_path)) as server:
        client = OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        assert {model.id for model in client.models.list().data} == {MODEL.stem, "other"}
        with pytest.raises(openai.NotFoundError) as raised:
            ask(client, [user("Hello")], model="none such")
        assert raised.value.code == "model_not_found"
        assert text(ask(client, [user(STAR, picture_url("shapes.png"))], model=MODEL.stem)).strip() == "yellow"
        with pytest.raises(openai.BadRequestError) as raised:
            ask(client, [user(STAR, picture_url("shapes.png"))], model="other")
        assert "projector" in raised.value.message
        assert ask(client, [user("Hello")], model="other").model == "other"


def test_another_model_is_asked_while_one_answers(visipruner, tmp_path):
    """It waits for its turn; everything else goes on."""
    for name in ("one.gguf", "two.gguf"):
        (tmp_path / name).symlink_to(MODEL)
    with Server(visipruner, "--threads", 1, "--ctx-size", 20_000, model=("--models-dir", tmp_path)) as server, ThreadPoolExecutor() as pool:
        client = OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60)
        stream = ask(client, [user("Hello")], model="one", stream=True, max_tokens=15_000, extra_body={"ignore_eos": True})
        next(stream)
        other = pool.submit(ask, client, [user("Hello")], model="two")
        until = time.monotonic() + 3
        try:
            while time.monotonic() < until:
                assert server.get("/v1/models", timeout=10)[0] == 200
                assert server.get("/health", timeout=10)[0] == 200
                next(stream)
        finally:
            stream.close()
        assert other.result(60).model == "two"


def test_a_queue_that_is_full(visipruner):
    """Past its bound the server says 503 and when to come back, and the package does."""
    with Server(visipruner, "--parallel", 1, "--max-waiting", 0) as server:
        one = OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        stream = ask(one, [user("Hello")], stream=True, max_tokens=1500, extra_body={"ignore_eos": True})
        next(iter(stream))
        with pytest.raises(openai.InternalServerError) as raised:
            ask(one, [user("Hello")])
        assert raised.value.status_code == 503
        assert int(raised.value.response.headers["retry-after"]) >= 1
        stream.close()
        patient = OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=5)
        assert text(ask(patient, [user(STAR, picture_url("shapes.png"))])).strip() == "yellow"
