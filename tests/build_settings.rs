//! What the build reads from the environment.

#[path = "../build/settings.rs"]
#[allow(dead_code, reason = "the build itself uses the rest")]
mod settings;

use settings::cmake_defines;

#[test]
fn definitions_may_be_quoted_as_in_a_shell() {
    for (args, expected) in [
        ("", vec![]),
        ("-DA=1  -DB:STRING=x=y", vec![("A", "1"), ("B", "x=y")]),
        (
            r#""-DCMAKE_CXX_FLAGS=-O2 -g" -DDIR='/a b' -DC=c\ d"#,
            vec![("CMAKE_CXX_FLAGS", "-O2 -g"), ("DIR", "/a b"), ("C", "c d")],
        ),
    ] {
        let defines = cmake_defines(args).expect("definitions");
        let defines: Vec<_> = defines
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        assert_eq!(defines, expected, "{args}");
    }
}

#[test]
fn what_is_no_definition_is_named() {
    for (args, part) in [("-DA=1 -g", "'-g'"), ("'-DA=1", "not closed"), ("-DA", "'-DA'")] {
        let error = cmake_defines(args).expect_err("is refused");
        assert!(
            error.contains("VISIPRUNER_CMAKE_ARGS") && error.contains(part),
            "{error}"
        );
    }
}
