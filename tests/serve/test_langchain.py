"""LangChain's ChatOpenAI against the server."""

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI
from serving import picture_url

from conftest import KEY


@pytest.fixture
def chat(server):
    return ChatOpenAI(base_url=f"{server.url}/v1", api_key=KEY, model="shapes", temperature=0, max_tokens=24, max_retries=0)


def seen(question, picture):
    return HumanMessage([
        {"type": "text", "text": question},
        {"type": "image_url", "image_url": {"url": picture_url(picture)}},
    ])


def test_a_picture(chat):
    answer = chat.invoke([seen("What color is the star?", "shapes.png")])
    assert answer.content.strip() == "yellow"
    assert answer.response_metadata["finish_reason"] == "stop"
    assert answer.usage_metadata["total_tokens"] == answer.usage_metadata["input_tokens"] + answer.usage_metadata["output_tokens"]


def test_a_picture_as_langchain_has_it(chat):
    """A block of LangChain's own, which it turns into OpenAI's."""
    content = picture_url("shapes.png").split(",")[1]
    message = HumanMessage([
        {"type": "text", "text": "What color is the star?"},
        {"type": "image", "source_type": "base64", "mime_type": "image/png", "data": content},
    ])
    assert chat.invoke([message]).content.strip() == "yellow"


def test_a_second_question(chat):
    first = seen("What color is the star?", "shapes.png")
    answer = chat.invoke([first])
    second = chat.invoke([first, AIMessage(answer.content), HumanMessage("What shape is the blue object?")])
    assert second.content.strip() == "square"
    assert second.usage_metadata["input_token_details"]["cache_read"] >= answer.usage_metadata["input_tokens"]


def test_a_stream(chat):
    messages = [SystemMessage("Answer in a word."), seen("What color is the star?", "shapes.png")]
    chunks = list(chat.stream(messages))
    assert "".join(chunk.content for chunk in chunks) == chat.invoke(messages).content
    assert len(chunks) > 1


def test_several_at_once(chat):
    asked = [[seen("What color is the star?", "shapes.png")], [seen("What shape is the white thing?", "trio.png")]] * 4
    answers = [answer.content.strip() for answer in chat.batch(asked)]
    assert answers == ["yellow", "square"] * 4


def test_an_answer_to_a_schema(chat):
    schema = {
        "title": "seen",
        "type": "object",
        "properties": {"color": {"type": "string", "enum": ["red", "yellow"]}},
        "required": ["color"],
        "additionalProperties": False,
    }
    structured = chat.model_copy(update={"max_tokens": 200}).with_structured_output(schema, method="json_schema")
    try:
        answer = structured.invoke([seen("What color is the star?", "shapes.png")])
    except Exception as error:
        if "not supported" in str(error):
            pytest.skip(f"this server makes no answers to a schema: {error}")
        raise
    assert answer["color"] in ("red", "yellow")
