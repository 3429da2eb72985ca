import json
import re
import urllib.request

import pytest
from axe_playwright_python.sync_playwright import Axe
from conftest import MMPROJ, MODEL
from PIL import Image
from page import DEMO, SHAPES, dropped_in, rows_in, until

QUESTION, ANSWER = "What shape is the blue object?", "square"
LONG = {"ignore_eos": True, "max_tokens": 1500}


def test_an_answer_and_what_was_seen_of_the_picture(talk, screenshots):
    talk.add(SHAPES)
    [report] = talk.ask(QUESTION)
    assert talk.answers == [ANSWER]
    assert report["drops"], "the model that ships is pruned by itself"
    kept = report["drops"][-1]["n_kept"]
    assert f"{kept} of 64 picture tokens went on" in talk.feet[0]
    talk.page.screenshot(path=screenshots / "light.png")

    # it opens behind the drop, and arrows, Home and End go through all layers
    assert talk.layer.input_value() == str(report["drops"][-1]["after_layer"] + 1)
    compare_layers(talk, report)
    talk.layer.press("End")
    assert talk.layer.input_value() == str(report["n_layer"] - 1)


def compare_layers(talk, report):
    """Goes through all layers and holds the overlay against the report."""
    talk.layer.press("Home")
    for il in range(report["n_layer"]):
        assert talk.layer.input_value() == str(il)
        assert talk.dropped() == dropped_in(report, 0, il), f"layer {il}"
        n_left = 64 - len(dropped_in(report, 0, il))
        assert (
            talk.layer.get_attribute("aria-valuetext")
            == f"layer {il}, {n_left} picture token{'' if n_left == 1 else 's'}"
        )
        talk.layer.press("ArrowRight")


def test_the_strip_draws_rows_and_costs_of_the_report(talk):
    talk.add(SHAPES)
    [report] = talk.ask(QUESTION)
    columns = talk.page.locator(".columns > span")
    assert columns.count() == report["n_layer"]
    for il in range(report["n_layer"]):
        height = float(columns.nth(il).locator(".vision").get_attribute("style").split(":")[1].strip(" %;"))
        assert height == pytest.approx(100 * rows_in(report, il) / report["n_tokens"], abs=0.01)
    said = talk.page.locator(".costs").inner_text()
    rows, kv = report["rows"], report["kv_bytes"]
    assert f"{rows['computed_or_kept']} of {rows['dense']} rows" in said
    kib = [int(n) for n in re.search(r"(\d+) of (\d+) KiB", said).groups()]
    assert kib == pytest.approx([kv["actual"] / 1024, kv["dense"] / 1024], abs=0.5)
    columns.nth(2).click()
    assert talk.layer.input_value() == "2"


def test_times_are_measured_or_estimated(serve, open_page):
    # in a server that has read nothing yet
    talk = open_page(serve("-m", MODEL, "--mmproj", MMPROJ).url)
    talk.add(SHAPES)
    [report] = talk.ask(QUESTION)
    flops, times = report["flops"], report["times_ms"]
    dense_ms = (times["prefill"] - times["policy"]) * (1 + (flops["dense"] - flops["actual"]) / flops["computed"])
    said = talk.page.locator(".costs").inner_text()
    assert float(re.search(r"Without pruning: prompt about ([\d.]+) ms", said)[1]) == pytest.approx(dense_ms, rel=0.02)
    # another question, pruned and dense: as much was read before for either, the picture
    talk.page.locator("#new-talk").click()
    talk.add(SHAPES)
    talk.page.check("#compare")
    pruned, dense = talk.ask("What color is the star?")
    assert pruned["rows"]["read_before"] == dense["rows"]["read_before"] > 0
    left, right = talk.page.locator(".costs").all_inner_texts()
    measured = [float(ms) for ms in re.search(r"prompt ([\d.]+) of ([\d.]+) ms", left).groups()]
    assert measured == pytest.approx([pruned["times_ms"]["prefill"], dense["times_ms"]["prefill"]], rel=0.02)
    assert "Without pruning" not in left + right


def test_an_answer_streams_and_stops(talk, server):
    talk.add(SHAPES)
    talk.more = LONG
    talk.begin("Describe the image.")
    words = talk.page.locator(".answer .words")
    lengths = set()
    until(lambda: lengths.add(len(words.inner_text())) or len(lengths) > 3, "an answer that grows")
    # the picture's tokens are there before the answer is
    assert talk.dropped() != set()
    assert talk.page.locator("#stop").is_visible() and not talk.page.locator("#send").is_visible()
    talk.page.keyboard.press("Escape")
    talk.wait()
    assert "stopped" in talk.feet[0]
    assert words.inner_text() != ""
    # stopping frees the slot
    until(lambda: not any(slot["is_processing"] for slot in slots(server)), "an end of the stopped request")
    # what was answered so far is what the next question follows
    talk.more = {}
    talk.ask("Is there a red circle?")
    assert talk.bodies[-1]["messages"][1]["content"].strip() == words.first.inner_text()


def slots(server):
    with urllib.request.urlopen(server.url + "slots") as answer:
        return json.load(answer)


def test_the_stop_button(talk):
    talk.more = LONG
    talk.begin("Count.")
    talk.page.locator("#stop").click()
    talk.wait()
    assert "stopped" in talk.feet[0]
    assert talk.page.evaluate("document.activeElement.id") == "question"


def test_a_new_conversation_ends_an_answer(talk):
    talk.more = LONG
    talk.begin("Count.")
    until(lambda: talk.answers != [""], "a beginning of the answer")
    talk.page.locator("#new-talk").click()
    talk.wait()
    assert talk.page.locator(".turn").count() == 0
    assert talk.page.input_value("#question") == ""
    talk.more = {}
    talk.add(SHAPES)
    talk.ask(QUESTION)
    assert talk.answers == [ANSWER]


def test_a_second_question_is_of_the_same_conversation(talk):
    talk.add(SHAPES)
    talk.ask(QUESTION)
    [report] = talk.ask("Is there a red circle?")
    assert talk.answers == ["yes"]
    first, answer, second = talk.bodies[1]["messages"]
    assert [piece["type"] for piece in first["content"]] == ["image_url", "text"]
    assert (answer["role"], answer["content"].strip()) == ("assistant", ANSWER)
    assert second == {"role": "user", "content": "Is there a red circle?"}
    assert report["rows"]["read_before"] > 64
    assert (
        f"{report['rows']['read_before']} of the prompt's {report['n_tokens']} tokens had been read before"
        in talk.page.locator("#seen").inner_text()
    )
    # the first one can be looked at again
    talk.page.get_by_role("button", name="Show what was seen").click()
    assert talk.page.locator("#seen-question").inner_text() == QUESTION
    talk.page.locator("#new-talk").click()
    assert talk.page.locator(".turn").count() == 0
    talk.ask("Count.")
    assert len(talk.bodies[-1]["messages"]) == 1


def test_an_error_is_told_and_the_conversation_kept(talk, server):
    talk.add(SHAPES)
    talk.ask(QUESTION)
    too_long = "star " * 5000
    with talk.page.expect_response("**/v1/chat/completions") as refused:
        assert talk.ask(too_long) == []
    assert refused.value.status == 400
    assert talk.errors == [refused.value.json()["error"]["message"]]
    # it goes back to where it can be shortened
    assert talk.page.input_value("#question") == too_long.strip()
    assert talk.ask("Is there a red circle?") != []
    assert talk.answers == ["yes"]
    assert len(talk.bodies[-1]["messages"]) == 3


def test_what_is_no_picture(talk):
    talk.add({"name": "broken.png", "mimeType": "image/png", "buffer": b"no picture at all"})
    with talk.page.expect_response("**/v1/chat/completions") as refused:
        talk.ask(QUESTION)
    assert refused.value.status == 415
    assert talk.errors == [refused.value.json()["error"]["message"]]
    talk.page.get_by_role("button", name="Leave out broken.png").click()
    # a format that neither side reads is not attached at all
    talk.page.set_input_files("#files", [{"name": "a.heic", "mimeType": "image/heic", "buffer": b"nor this"}])
    talk.page.get_by_text("a.heic cannot be read as a picture.").wait_for()
    assert talk.page.locator("#attached li").count() == 0


def test_two_policies_side_by_side(talk, screenshots):
    talk.add(SHAPES)
    talk.page.check("#compare")
    pruned, dense = talk.ask(QUESTION)
    assert [body["visipruner"] for body in talk.bodies] == [{}, {"policy": "off"}]
    assert talk.answers == [ANSWER, ANSWER]
    il = int(talk.layer.input_value())
    assert talk.dropped(0) == dropped_in(pruned, 0, il) != set()
    assert talk.dropped(1) == dropped_in(dense, 0, il) == set()
    talk.page.screenshot(path=screenshots / "compare.png")
    # each side goes on with its own answers
    talk.page.select_option("#policy-1", "random")
    talk.page.fill("#amount-1", "5")
    talk.ask("What color is the star?")
    assert talk.bodies[3]["visipruner"] == {"policy": "random", "budget": "5%"}
    [left, right] = talk.answers
    talk.ask("Is there a red circle?")
    assert [body["messages"][3]["content"].strip() for body in talk.bodies[-2:]] == [left, right]


def test_every_policy_that_is_offered_fits_the_model(talk):
    names = [option.get_attribute("value") for option in talk.page.locator("#policy-0 option").all()]
    assert len(names) > 10
    for name in names:
        talk.page.locator("#new-talk").click()
        talk.page.select_option("#policy-0", name)
        talk.add(SHAPES)
        [report] = talk.ask(QUESTION)
        assert talk.errors == []
        assert report["policy"]["policy"] == name or name == ""
        assert bool(report["drops"]) == (name != "off"), name
        compare_layers(talk, report)


def test_several_pictures_and_one_that_is_padded(talk, tmp_path):
    wide = tmp_path / "wide.png"
    Image.new("RGB", (200, 100), "red").save(wide)
    talk.add(SHAPES, wide)
    [report] = talk.ask("How many objects are there?")
    assert len(report["pictures"]) == 2
    for i in range(2):
        assert talk.dropped(i) == dropped_in(report, i, int(talk.layer.input_value()))
    shown = talk.page.locator("#seen-runs image").nth(1)
    assert [shown.get_attribute(name) for name in ("x", "y", "width", "height")] == ["0", "2", "8", "4"]
    # a picture that comes later is the third
    talk.add(DEMO / "trio.png")
    [report] = talk.ask("What color is the circle?")
    captions = talk.page.locator("#seen-runs figcaption").all_inner_texts()
    assert [caption.split(":")[0] for caption in captions] == ["shapes.png", "wide.png", "trio.png"]


@pytest.mark.parametrize("kind", ["paste", "drop"])
def test_pictures_are_pasted_and_dropped(talk, kind):
    talk.page.evaluate(
        """([kind, bytes]) => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], "shapes.png", { type: "image/png" }));
            const [event, field] = kind === "paste" ? [ClipboardEvent, "clipboardData"] : [DragEvent, "dataTransfer"];
            document.body.dispatchEvent(new event(kind, { [field]: data, bubbles: true, cancelable: true }));
        }""",
        [kind, list(SHAPES.read_bytes())],
    )
    talk.page.locator("#attached li").wait_for()
    talk.ask(QUESTION)
    assert talk.answers == [ANSWER]


def test_the_camera(talk):
    talk.page.locator("#open-camera").click()
    until(lambda: talk.page.evaluate("document.getElementById('video').videoWidth > 0"), "a picture of the camera")
    talk.page.locator("#take").click()
    assert talk.page.locator("#attached li").count() == 1
    assert talk.page.evaluate("document.getElementById('video').srcObject") is None
    [report] = talk.ask("Describe the image.")
    assert len(report["pictures"]) == 1


def test_formats_that_only_the_browser_reads_are_sent_as_png(talk):
    svg = b'<svg xmlns="http://www.w3.org/2000/svg" width="64" height="64"><rect width="64" height="64" fill="red"/></svg>'
    talk.add({"name": "a.svg", "mimeType": "image/svg+xml", "buffer": svg})
    [report] = talk.ask("Describe the image.")
    assert talk.bodies[0]["messages"][0]["content"][0]["image_url"]["url"].startswith("data:image/png;base64,")


def test_what_was_typed_is_text(talk):
    talk.add({"name": "<b>a</b>.png", "mimeType": "image/png", "buffer": SHAPES.read_bytes()})
    hostile = "<img src=x onerror=alert(1)><script>document.title = 'gone'</script>"
    talk.ask(hostile)
    assert talk.page.locator(".question .words").inner_text() == hostile
    assert talk.page.locator("#turns b, #turns script, #seen b").count() == 0
    assert talk.page.title() == "visipruner"


def test_settings_are_sent(talk):
    talk.page.locator("summary").click()
    talk.page.fill("#system", "Be brief.")
    talk.page.fill("#temperature", "0.5")
    talk.page.fill("#max-tokens", "1")
    talk.add(DEMO / "trio.png")
    talk.ask("Describe the image.")
    body = talk.bodies[0]
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (body["temperature"], body["max_tokens"]) == (0.5, 1)
    assert "cut off" in talk.feet[0]


def test_a_key_is_asked_for(serve, open_page):
    server = serve("-m", MODEL, "--mmproj", MMPROJ, "--api-key", "open sesame")
    talk = open_page(server.url, is_ready=False)
    talk.page.wait_for_selector("#key-form:not([hidden])")
    talk.page.fill("#key", "wrong")
    talk.page.press("#key", "Enter")
    talk.page.get_by_text("The server does not know this key.").wait_for()
    talk.page.fill("#key", "open sesame")
    talk.page.press("#key", "Enter")
    talk.page.wait_for_selector("#key-form", state="hidden")
    talk.add(SHAPES)
    talk.ask(QUESTION)
    assert talk.answers == [ANSWER]
    assert talk.page.evaluate("Object.values(sessionStorage)") == ["open sesame"]
    assert talk.page.evaluate("localStorage.length") == 0


def test_one_of_several_models(serve, open_page, tmp_path):
    for name in ("one", "two"):
        (tmp_path / f"{name}.gguf").symlink_to(MODEL)
    (tmp_path / "mmproj-one.gguf").symlink_to(MMPROJ)
    talk = open_page(serve("--models-dir", tmp_path).url)
    assert talk.page.locator("#models option").all_inner_texts() == ["one", "two"]
    talk.add(SHAPES)
    talk.ask(QUESTION)
    assert talk.bodies[0]["model"] == "one"
    # the second one has no projector
    talk.page.select_option("#models", "two")
    assert talk.page.locator("#add-files").is_disabled()
    talk.page.locator("#new-talk").click()
    talk.ask("Count.")
    assert talk.bodies[1]["model"] == "two"
    assert talk.errors == []


def test_a_model_that_is_being_loaded(server, browser, open_page):
    talk = open_page(server.url)
    states = [(503, {"error": {"message": "loading"}, "progress": 0.25}), (200, {"status": "ok"})]

    def health(route):
        status, body = states[0] if len(states) == 1 else states.pop(0)
        route.fulfill(status=status, json=body)

    talk.page.route("**/health", health)
    talk.page.reload()
    talk.page.get_by_text("is being loaded: 25 %").wait_for()
    talk.wait_until_ready()


def test_a_server_that_goes_away(serve, open_page):
    server = serve("-m", MODEL, "--mmproj", MMPROJ)
    talk = open_page(server.url)
    talk.add(SHAPES)
    talk.more = LONG
    talk.begin("Describe the image.")
    until(lambda: talk.answers != [""], "a beginning of the answer")
    server.kill()
    talk.wait()
    assert talk.errors == ["The connection broke off before the answer was complete."]
    talk.ask("And now?")
    assert talk.errors == ["The server cannot be reached. Is it still running?"]


def test_with_the_keyboard_alone(talk):
    order = []
    for _ in range(10):
        talk.page.keyboard.press("Tab")
        order.append(talk.page.evaluate("document.activeElement.id || document.activeElement.className"))
        outline = talk.page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", f"the focus on {order[-1]} is not to be seen"
    expected = ["skip", "new-talk", "turns", "question", "add-files", "open-camera", "send", "policy-0", "compare"]
    assert order[: len(expected)] == expected
    talk.page.focus(".skip")
    talk.page.keyboard.press("Enter")
    assert talk.page.evaluate("document.activeElement.id") == "question"
    talk.page.keyboard.type("Count.")
    talk.page.keyboard.press("Shift+Enter")
    talk.page.keyboard.type("Again.")
    assert talk.page.input_value("#question") == "Count.\nAgain."
    talk.page.keyboard.press("Enter")
    talk.wait()
    assert talk.page.locator(".turn").count() == 1


def test_answers_are_read_out_once(talk):
    talk.add(DEMO / "trio.png")
    talk.ask("Describe the image.")
    spoken = talk.page.locator("#spoken")
    assert spoken.get_attribute("aria-live") == "polite"
    assert re.sub(r"\s+", " ", spoken.text_content()).strip() == talk.answers[0]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_it_fits_and_can_be_used_by_all(server, open_page, screenshots, width, scheme):
    talk = open_page(server.url, width=width, scheme=scheme)
    check(talk)
    talk.add(SHAPES)
    talk.ask(QUESTION)
    check(talk)
    talk.page.check("#compare")
    talk.page.select_option("#policy-1", "divprune")
    talk.page.locator("summary").click()
    talk.ask("Where is the green triangle?")
    check(talk)
    talk.page.screenshot(path=screenshots / f"{scheme}-{width}.png", full_page=True)


def check(talk):
    assert not talk.overflows()
    found = Axe().run(talk.page)
    assert found.violations_count == 0, found.generate_report()
