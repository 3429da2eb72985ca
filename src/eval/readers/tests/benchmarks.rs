//! Each reader on a small copy of its benchmark's files, laid out as published.

use super::*;

const POPE: &str = concat!(
    r#"{"question_id": 1, "image": "COCO_1.jpg", "text": "Is there a dog in the image?\nAnswer the question using a single word or phrase.", "category": "adversarial"}"#,
    "\n",
    r#"{"question_id": 2, "image": "COCO_1.jpg", "text": "Is there a cat in the image?\nAnswer the question using a single word or phrase.", "category": "adversarial"}"#,
    "\n",
    r#"{"question_id": 3, "image": "COCO_2.jpg", "text": "Is there a car in the image?\nAnswer the question using a single word or phrase.", "category": "popular"}"#,
    "\n"
);

fn pope(adversarial: &str, popular: &str) -> TempDir {
    folder(&[
        ("llava_pope_test.jsonl", POPE),
        ("coco/coco_pope_adversarial.json", adversarial),
        ("coco/coco_pope_popular.json", popular),
        ("val2014/COCO_1.jpg", ""),
    ])
}

#[test]
fn pope_answers_are_found_by_order_within_the_category() {
    let folder = pope(
        "{\"question_id\": 1, \"image\": \"COCO_1.jpg\", \"text\": \"Is there a dog in the image?\", \"label\": \"no\"}\n{\"question_id\": 2, \"image\": \"COCO_1.jpg\", \"text\": \"Is there a cat in the imange?\", \"label\": \"yes\"}\n",
        "{\"question_id\": 1, \"image\": \"COCO_2.jpg\", \"text\": \"Is there a car in the image?\", \"label\": \"yes\"}\n",
    );
    let file = file(&folder, "llava_pope_test.jsonl");
    assert_eq!(file.detect().unwrap(), Format::Pope);
    let questions = file.read().unwrap();
    let answers: Vec<_> = questions
        .iter()
        .map(|question| question.answers[0].as_str())
        .collect();
    assert_eq!(answers, ["no", "yes", "yes"]);
    assert_eq!(questions[2].id, "3");
    assert_eq!(questions[2].category.as_deref(), Some("popular"));
    assert_eq!(questions[0].scoring, Scoring::YesNo);
    assert_eq!(image(&questions[0], &folder), "val2014/COCO_1.jpg");
    assert!(
        questions[0]
            .prompt
            .ends_with("?\nAnswer the question using a single word or phrase.")
    );
}

#[test]
fn pope_answers_of_another_release_are_refused() {
    let label = |image: &str| {
        format!("{{\"question_id\": 1, \"image\": \"{image}\", \"text\": \"t\", \"label\": \"no\"}}\n")
    };
    let (one, two) = (label("COCO_1.jpg"), label("COCO_2.jpg"));
    let message = error(&pope(&(one.clone() + &two), &two), "llava_pope_test.jsonl");
    assert!(
        message.contains("line 2") && message.contains("COCO_2.jpg"),
        "{message}"
    );
    let message = error(&pope(&one, &two), "llava_pope_test.jsonl");
    assert!(
        message.contains("line 2") && message.contains("is not there"),
        "{message}"
    );
    let message = error(&pope(&(one.clone() + &one + &one), &two), "llava_pope_test.jsonl");
    assert!(
        message.contains("3 answers") && message.contains("2 questions"),
        "{message}"
    );
}

#[test]
fn answers_that_are_nowhere() {
    let folder = folder(&[("llava_pope_test.jsonl", POPE)]);
    assert!(error(&folder, "llava_pope_test.jsonl").contains("coco_pope_adversarial.json"));
    let given = QuestionFile {
        annotations: Some(folder.path().join("elsewhere")),
        ..file(&folder, "llava_pope_test.jsonl")
    };
    assert!(given.read().unwrap_err().to_string().contains("elsewhere"));
}

#[test]
fn gqa() {
    let line = |id: &str| {
        format!(
            "{{\"question_id\": \"{id}\", \"image\": \"n1.jpg\", \"text\": \"Is it overcast?\\nAnswer the question using a single word or phrase.\", \"category\": \"default\"}}\n"
        )
    };
    let annotations = r#"{"201": {"answer": "no", "types": {"structural": "verify", "semantic": "attr", "detailed": "w"}, "imageId": "n1"}, "202": {"answer": "grey"}}"#;
    let folder = folder(&[
        ("llava_gqa_testdev_balanced.jsonl", &(line("202") + &line("201"))),
        ("short.jsonl", &line("203")),
        ("questions1.2/testdev_balanced_questions.json", annotations),
    ]);
    let questions = file(&folder, "llava_gqa_testdev_balanced.jsonl").read().unwrap();
    assert_eq!(
        (questions[0].answers[0].as_str(), questions[1].answers[0].as_str()),
        ("grey", "no")
    );
    assert_eq!(questions[1].category.as_deref(), Some("verify"));
    assert_eq!(
        (questions[0].scoring, questions[0].grade("Grey.").score),
        (Scoring::Gqa, 1.0)
    );
    let unknown = QuestionFile {
        format: Some(Format::Gqa),
        ..file(&folder, "short.jsonl")
    };
    let message = unknown.read().unwrap_err().to_string();
    assert!(
        message.contains("line 1") && message.contains("question_id 203"),
        "{message}"
    );
}

#[test]
fn textvqa_questions_are_found_by_picture_and_text() {
    let line = |question: &str| {
        format!(
            "{{\"question_id\": \"831b\", \"image\": \"831b.jpg\", \"text\": \"{question}\\nReference OCR token: A, B\\nAnswer the question using a single word or phrase.\", \"category\": \"default\"}}\n"
        )
    };
    let annotation = |id: u32, question: &str, answer: &str| serde_json::json!({"question_id": id, "image_id": "831b", "question": question, "answers": vec![answer; 10], "image_width": 1});
    let annotations = serde_json::json!({"dataset_type": "val", "data": [
        annotation(34602, "what brand is it?", "nous les gosses"), annotation(34603, "How old?", "10")
    ]});
    let folder = folder(&[
        (
            "llava_textvqa_val_v051_ocr.jsonl",
            &(line("How old?") + &line("What brand is it?")),
        ),
        ("other.jsonl", &line("Who?")),
        ("TextVQA_0.5.1_val.json", &annotations.to_string()),
    ]);
    let questions = file(&folder, "llava_textvqa_val_v051_ocr.jsonl").read().unwrap();
    assert_eq!(
        (questions[0].id.as_str(), questions[1].id.as_str()),
        ("34603", "34602")
    );
    assert_eq!(questions[0].answers, vec!["10"; 10]);
    assert_eq!(questions[0].grade("ten").score, 1.0);
    assert!(questions[0].prompt.contains("Reference OCR token"));
    let message = error(&folder, "other.jsonl");
    assert!(
        message.contains("line 1") && message.contains("\"Who?\""),
        "{message}"
    );
}

#[test]
fn mme_with_both_of_its_folder_layouts() {
    let line = |image: &str, question: &str, category: &str| {
        format!(
            "{{\"question_id\": \"{image}\", \"image\": \"{image}\", \"text\": \"{question}\\nAnswer the question using a single word or phrase.\", \"category\": \"{category}\"}}\n"
        )
    };
    let art = "artwork/images/1.jpg";
    let lines = line("color/0.png", "Is it red?", "color")
        + &line("color/0.png", "Is it blue?", "color")
        + &line(art, "Is it old?", "artwork");
    let folder = folder(&[
        ("llava_mme.jsonl", &lines),
        (
            "MME_Benchmark_release_version/color/0.txt",
            "Is it red? Please answer yes or no.\tYes\nIs it blue?  Please answer yes or no.\tNo\n",
        ),
        (
            "MME_Benchmark_release_version/artwork/questions_answers_YN/1.txt",
            "Is it old? Please answer yes or no.\tNo\n",
        ),
        ("MME_Benchmark_release_version/artwork/images/1.jpg", ""),
    ]);
    let file = file(&folder, "llava_mme.jsonl");
    assert_eq!(file.detect().unwrap(), Format::Mme);
    let questions = file.read().unwrap();
    let ids: Vec<_> = questions.iter().map(|question| question.id.as_str()).collect();
    assert_eq!(ids, ["color/0.png#1", "color/0.png#2", "artwork/images/1.jpg#1"]);
    let answers: Vec<_> = questions
        .iter()
        .map(|question| question.answers[0].as_str())
        .collect();
    assert_eq!(answers, ["Yes", "No", "No"]);
    assert_eq!(questions[1].group.as_deref(), Some("color/0.png"));
    assert_eq!(questions[2].category.as_deref(), Some("artwork"));
    assert_eq!(
        image(&questions[2], &folder),
        "MME_Benchmark_release_version/artwork/images/1.jpg"
    );
}

#[test]
fn scienceqa_with_and_without_a_picture() {
    let conversations = serde_json::json!([
        {"id": "4", "conversations": [
            {"from": "human", "value": "Which figure of speech?\nA. chiasmus\n(a cross)\nB. apostrophe"}, {"from": "gpt", "value": "B"}]},
        {"id": "5", "image": "5/image.png", "conversations": [
            {"from": "human", "value": "<image>\nContext: A. B. Smith.\nWhich?\nA. one\nB. two\nC. three"}, {"from": "gpt", "value": "C"}]}
    ]);
    let folder = folder(&[
        ("llava_test_CQM-A.json", &conversations.to_string()),
        (
            "broken.json",
            r#"[{"id": "4", "conversations": [{"from": "human", "value": "q"}]}]"#,
        ),
        ("notjson.json", "[{]"),
        ("images/test/5/image.png", ""),
    ]);
    let questions = file(&folder, "llava_test_CQM-A.json").read().unwrap();
    assert!(questions[0].images.is_empty());
    assert_eq!(questions[0].options, ["chiasmus\n(a cross)", "apostrophe"]);
    assert_eq!(questions[0].category.as_deref(), Some("text only"));
    assert_eq!(image(&questions[1], &folder), "images/test/5/image.png");
    assert_eq!(questions[1].options, ["one", "two", "three"]);
    assert_eq!(
        questions[1].prompt,
        "Context: A. B. Smith.\nWhich?\nA. one\nB. two\nC. three\nAnswer with the option's letter from the given choices directly."
    );
    assert_eq!(
        (questions[1].grade("three").score, questions[1].grade("B").score),
        (1.0, 0.0)
    );
    let message = error(&folder, "broken.json");
    assert!(
        message.contains("entry 1") && message.contains("conversations[1].value"),
        "{message}"
    );
    assert!(error(&folder, "notjson.json").contains("column"));
}

#[test]
fn mmbench_with_its_pictures_inside() {
    let table = "index\tquestion\thint\tA\tB\tC\tD\tanswer\tcategory\timage\n\
        241\tWhich?\tLook \"\"here\"\".\tleft\tright\t\t\tB\tspatial\tAQID\n\
        242\t\"Two\nlines?\"\tnan\tNone\tfew\tmany\tall\tA\tcount\t241\n";
    let folder = folder(&[
        ("mmbench_dev_20230712.tsv", table),
        (
            "broken.tsv",
            "index\tquestion\tA\tanswer\timage\n1\tq\tx\tA\t***\n",
        ),
        (
            "lacking.tsv",
            "index\tquestion\tA\tanswer\timage\n1\tq\tx\t\tAQID\n",
        ),
    ]);
    let questions = file(&folder, "mmbench_dev_20230712.tsv").read().unwrap();
    assert_eq!(questions[0].options, ["left", "right"]);
    assert!(questions[0].prompt.ends_with(
        "Which?\nA. left\nB. right\nAnswer with the option's letter from the given choices directly."
    ));
    assert!(questions[0].prompt.starts_with("Look "));
    assert!(questions[1].prompt.starts_with("Two\nlines?\nA. None\n"));
    let picture = vec![ImageSource::Bytes([1, 2, 3].into())];
    assert_eq!((&questions[0].images, &questions[1].images), (&picture, &picture));
    assert_eq!(questions[1].category.as_deref(), Some("count"));
    let message = error(&folder, "broken.tsv");
    assert!(
        message.contains("line 2") && message.contains("image is not base64"),
        "{message}"
    );
    assert!(error(&folder, "lacking.tsv").contains("answer is missing"));
}
