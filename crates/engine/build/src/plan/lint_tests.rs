//! One Dockerfile for each lint rule, and what the rule says of it.

use super::*;
use crate::syntax::{lint, parse};

struct Images;

impl Bases for Images {
    fn resolve(&self, reference: &str, _: &image::Platform) -> Result<Base, String> {
        let architecture = if reference == "arm" { "arm64" } else { "amd64" };
        let config = Config { architecture: architecture.into(), os: "linux".into(), ..Config::default() };
        Ok(Base { id: Digest::from_sha256([7; 32]), config })
    }
}

fn graph(text: &str, options: &Options) -> Result<Graph, PlanError> {
    plan(&parse(text)?, options, &image::Platform::parse("linux/amd64").unwrap(), &Images)
}

/// `line rule: message`, one a line.
fn warnings(text: &str) -> Vec<String> {
    let options = Options { ignore: Some(crate::Patterns::parse("left.out").unwrap()), ..Options::default() };
    let graph = graph(text, &options).unwrap();
    graph.warnings.iter().map(|w| format!("{} {}: {}", w.line, w.rule, w.message)).collect()
}

#[test]
fn every_rule_says_what_buildkit_says() {
    let rows: &[(&str, &[&str])] = &[
        ("FROM a AS Builder", &["1 StageNameCasing: Stage name 'Builder' should be lowercase"]),
        ("FROM a as b", &["1 FromAsCasing: 'as' and 'FROM' keywords' casing do not match"]),
        ("FROM a\nRUN b \\\n\n c", &["3 NoEmptyContinuation: Empty continuation line"]),
        (
            "FROM a\nrun b\nRUN c",
            &["2 ConsistentInstructionCasing: Command 'run' should match the case of the command majority (uppercase)"],
        ),
        (
            "FROM a AS x\nFROM b AS x",
            &["2 DuplicateStageName: Duplicate stage name \"x\", stage names should be unique"],
        ),
        (
            "FROM a AS context",
            &["1 ReservedStageName: Stage name should not use the same name as reserved stage \"context\""],
        ),
        (
            "FROM a\nCMD b",
            &[
                "2 JSONArgsRecommended: JSON arguments recommended for CMD to prevent unintended behavior related to OS signals",
            ],
        ),
        ("FROM a\nSHELL [\"/bin/bash\", \"-c\"]\nCMD b", &[]),
        (
            "FROM a\nMAINTAINER b",
            &["2 MaintainerDeprecated: Maintainer instruction is deprecated in favor of using label"],
        ),
        (
            "ARG VERSION=1\nFROM a:${VERSON}x",
            &["2 UndefinedArgInFrom: FROM argument 'VERSON' is not declared (did you mean VERSION?)"],
        ),
        (
            "FROM a\nWORKDIR b\nWORKDIR c",
            &["2 WorkdirRelativePath: Relative workdir \"b\" can have unexpected results if the base image changes"],
        ),
        ("FROM a\nWORKDIR /b\nWORKDIR c", &[]),
        (
            "FROM a\nENV NAME=x\nLABEL b=$NAMED c=${NONE:-d}",
            &["3 UndefinedVar: Usage of undefined variable '$NAMED' (did you mean $NAME?)"],
        ),
        ("FROM a\nARG B\nLABEL b=$B", &[]),
        (
            "FROM a\nCMD [\"b\"]\nCMD [\"c\"]",
            &[
                "2 MultipleInstructionsDisallowed: Multiple CMD instructions should not be used in the same stage because only the last one will be used",
            ],
        ),
        (
            "FROM a\nENV b c",
            &["2 LegacyKeyValueFormat: \"ENV key=value\" should be used instead of legacy \"ENV key value\" format"],
        ),
        (
            "FROM arm",
            &[
                "1 InvalidBaseImagePlatform: Base image arm was pulled with platform \"linux/arm64\", expected \"linux/amd64\" for current build",
            ],
        ),
        (
            "FROM --platform=$TARGETPLATFORM a",
            &[
                "1 RedundantTargetPlatform: Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior",
            ],
        ),
        (
            "FROM a\nENV API_TOKEN=x PUBLIC_KEY=y",
            &["2 SecretsUsedInArgOrEnv: Do not use ARG or ENV instructions for sensitive data (ENV \"API_TOKEN\")"],
        ),
        (
            "ARG TAG=x\nFROM a:$TAG\nARG PASSWORD",
            &["3 SecretsUsedInArgOrEnv: Do not use ARG or ENV instructions for sensitive data (ARG \"PASSWORD\")"],
        ),
        (
            "FROM --platform=linux/amd64 a",
            &["1 FromPlatformFlagConstDisallowed: FROM --platform flag should not use constant value \"linux/amd64\""],
        ),
        ("FROM --platform=linux/amd64 a AS build-amd64", &[]),
        (
            "# check=experimental=all\nFROM a\nCOPY left.out kept /x/",
            &["3 CopyIgnoredFile: Attempting to Copy file \"left.out\" that is excluded by .dockerignore"],
        ),
        ("FROM a\nCOPY left.out /x/", &[]),
        (
            "# check=experimental=all\n\n# what it is\nFROM a AS base\n# good words\n\n# base fine\nFROM a AS base2",
            &[
                "4 InvalidDefinitionDescription: Comment for FROM should follow the format: `# base <description>`",
                "8 InvalidDefinitionDescription: Comment for FROM should follow the format: `# base2 <description>`",
            ],
        ),
        (
            "FROM a\nEXPOSE 80/TCP",
            &["2 ExposeProtoCasing: Defined protocol '80/TCP' in EXPOSE instruction should be lowercase"],
        ),
        (
            "FROM a\nEXPOSE 127.0.0.1:80:80",
            &[
                "2 ExposeInvalidFormat: EXPOSE instruction should not define an IP address or host-port mapping, found '127.0.0.1:80:80'",
            ],
        ),
    ];
    let mut seen = std::collections::BTreeSet::new();
    for (text, expected) in rows {
        assert_eq!(warnings(text), *expected, "{text}");
        seen.extend(expected.iter().filter_map(|line| line.split([' ', ':']).nth(1)));
    }
    let default = warnings_of_default();
    seen.extend(default.iter().map(String::as_str));
    let missing: Vec<_> = lint::RULES.iter().filter(|rule| !seen.contains(rule.name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// A default that names no image is only seen when somebody gives a value.
fn warnings_of_default() -> Vec<String> {
    let mut options = Options::default();
    options.args.insert("BASE".into(), Some("a".into()));
    let graph = graph("ARG BASE\nFROM $BASE", &options).unwrap();
    let said: Vec<_> = graph.warnings.iter().map(|w| w.message.as_str()).collect();
    assert_eq!(said, ["Default value for ARG $BASE results in empty or invalid base image name"]);
    graph.warnings.iter().map(|w| w.rule.to_owned()).collect()
}

#[test]
fn a_file_says_which_rules_it_wants_and_whether_they_are_errors() {
    assert_eq!(warnings("# check=skip=JSONArgsRecommended\nFROM a\nCMD b"), [""; 0]);
    assert_eq!(warnings("# check=skip=all\nFROM a as b\nCMD b"), [""; 0]);
    let text = "# check=error=true\nFROM a as b\nCMD c";
    let error = graph(text, &Options::default()).unwrap_err();
    assert_eq!(error.to_string(), "lint violation found for rules: FromAsCasing, JSONArgsRecommended");
    assert_eq!(error.line(), Some(2));
    let only = Options { only_check: true, ..Options::default() };
    assert_eq!(graph(text, &only).unwrap().warnings.len(), 2);
    // The caller's word counts.
    let mut options = Options::default();
    options.args.insert("BUILDKIT_DOCKERFILE_CHECK".into(), Some("skip=all".into()));
    assert!(graph(text, &options).unwrap().warnings.is_empty());
    assert!(graph("# check=what=x\nFROM a", &Options::default()).is_err());
}

#[test]
fn outlines_and_targets_read_as_buildx_prints_them() {
    let text = "# BASE what to stand on\nARG BASE=a\n# build makes it\nFROM $BASE AS build\n# V the version\nARG V=1\nARG W\nRUN --mount=type=secret,id=s,required --mount=type=ssh --mount=type=cache,target=/c x\nFROM build\n";
    let graph = graph(text, &Options::default()).unwrap();
    expect_test::expect![[r#"
        BUILD ARG    VALUE    DESCRIPTION
        BASE         a        what to stand on
        V            1        the version
        W

        SECRET    REQUIRED
        s         true

        SSH        REQUIRED
        default

    "#]]
    .assert_eq(&graph.outline.text());
    let json = serde_json::to_value(&graph.outline).unwrap();
    assert_eq!(json["cache"][0]["ID"], "/c");
    assert_eq!(json["secrets"][0]["required"], true);
    assert_eq!(json["args"][1]["location"]["ranges"][0]["start"]["line"], 6);
    expect_test::expect![[r#"
        TARGET       DESCRIPTION
        build        makes it
        (default)
    "#]]
    .assert_eq(&Targets::of(&parse(text).unwrap()).text());
}

#[test]
fn warnings_read_as_buildx_prints_them() {
    let text = "FROM a\nCMD b\n";
    let graph = graph(text, &Options::default()).unwrap();
    expect_test::expect![[r#"
        Check complete, 1 warning has been found!

        WARNING: JSONArgsRecommended - https://docs.docker.com/go/dockerfile/rule/json-args-recommended/
        JSON arguments recommended for CMD to prevent unintended behavior related to OS signals
        Dockerfile:2
        --------------------
           1 |     FROM a
           2 | >>> CMD b
        --------------------
    "#]]
    .assert_eq(&warnings_text(&graph.warnings, "Dockerfile", text));
    let json = warnings_json(&graph.warnings, "Dockerfile", text);
    assert_eq!(json["warnings"][0]["ruleName"], "JSONArgsRecommended");
    assert_eq!(json["warnings"][0]["location"]["ranges"][0]["end"]["line"], 2);
    assert_eq!(warnings_text(&[], "Dockerfile", text), "Check complete, no warnings found.\n");
}
