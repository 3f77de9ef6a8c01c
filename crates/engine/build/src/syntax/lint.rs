//! The lint rules of Dockerfiles, under the names, descriptions and addresses that BuildKit gives them, and which of them a
//! file wants (`# check=skip=...;error=true`).

/// One rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    pub name: &'static str,
    pub description: &'static str,
    /// Part of its documentation's address; empty: it has none.
    slug: &'static str,
    /// Off unless it is asked for.
    pub experimental: bool,
}

impl Rule {
    pub fn url(&self) -> String {
        match self.slug {
            "" => String::new(),
            slug => format!("https://docs.docker.com/go/dockerfile/rule/{slug}/"),
        }
    }
}

const fn rule(name: &'static str, slug: &'static str, description: &'static str) -> Rule {
    Rule { name, description, slug, experimental: false }
}

const fn experimental(rule: Rule) -> Rule {
    Rule { experimental: true, ..rule }
}

/// All of them.
pub const RULES: [Rule; 22] = [
    rule("StageNameCasing", "stage-name-casing", "Stage names should be lowercase"),
    rule("FromAsCasing", "from-as-casing", "The 'as' keyword should match the case of the 'from' keyword"),
    rule(
        "NoEmptyContinuation",
        "no-empty-continuation",
        "Empty continuation lines will become errors in a future release",
    ),
    rule(
        "ConsistentInstructionCasing",
        "consistent-instruction-casing",
        "All commands within the Dockerfile should use the same casing (either upper or lower)",
    ),
    rule("DuplicateStageName", "duplicate-stage-name", "Stage names should be unique"),
    rule("ReservedStageName", "reserved-stage-name", "Reserved words should not be used as stage names"),
    rule(
        "JSONArgsRecommended",
        "json-args-recommended",
        "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals",
    ),
    rule(
        "MaintainerDeprecated",
        "maintainer-deprecated",
        "The MAINTAINER instruction is deprecated, use a label instead to define an image author",
    ),
    rule("UndefinedArgInFrom", "undefined-arg-in-from", "FROM command must use declared ARGs"),
    rule(
        "WorkdirRelativePath",
        "workdir-relative-path",
        "Relative workdir without an absolute workdir declared within the build can have unexpected results if the base image changes",
    ),
    rule("UndefinedVar", "undefined-var", "Variables should be defined before their use"),
    rule(
        "MultipleInstructionsDisallowed",
        "multiple-instructions-disallowed",
        "Multiple instructions of the same type should not be used in the same stage",
    ),
    rule(
        "LegacyKeyValueFormat",
        "legacy-key-value-format",
        "Legacy key/value format with whitespace separator should not be used",
    ),
    rule("InvalidBaseImagePlatform", "", "Base image platform does not match expected target platform"),
    rule(
        "RedundantTargetPlatform",
        "redundant-target-platform",
        "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior",
    ),
    rule(
        "SecretsUsedInArgOrEnv",
        "secrets-used-in-arg-or-env",
        "Sensitive data should not be used in the ARG or ENV commands",
    ),
    rule(
        "InvalidDefaultArgInFrom",
        "invalid-default-arg-in-from",
        "Default value for global ARG results in an empty or invalid base image name",
    ),
    rule(
        "FromPlatformFlagConstDisallowed",
        "from-platform-flag-const-disallowed",
        "FROM --platform flag should not use a constant value",
    ),
    experimental(rule(
        "CopyIgnoredFile",
        "copy-ignored-file",
        "Attempting to Copy file that is excluded by .dockerignore",
    )),
    experimental(rule(
        "InvalidDefinitionDescription",
        "invalid-definition-description",
        "Comment for build stage or argument should follow the format: `# <arg/stage name> <description>`. If this is not intended to be a description comment, add an empty line or comment between the instruction and the comment.",
    )),
    rule("ExposeProtoCasing", "expose-proto-casing", "Protocol in EXPOSE instruction should be lowercase"),
    rule(
        "ExposeInvalidFormat",
        "expose-invalid-format",
        "IP address and host-port mapping should not be used in EXPOSE instruction. This will become an error in a future release",
    ),
];

/// A rule by its name.
pub fn rule_named(name: &str) -> Option<&'static Rule> {
    RULES.iter().find(|rule| rule.name == name)
}

/// Which rules are looked at, and whether a broken one ends the build.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checks {
    skip: Vec<String>,
    skip_all: bool,
    experimental: Vec<String>,
    experimental_all: bool,
    pub error: bool,
}

impl Checks {
    /// `skip=A,B;error=true;experimental=all`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut checks = Self::default();
        for part in text.split(';').map(str::trim).filter(|part| !part.is_empty()) {
            let Some((key, value)) = part.split_once('=') else { return Err(format!("invalid check option {part:?}")) };
            let (key, value) = (key.trim(), value.trim());
            let names = || value.split(',').map(|name| name.trim().to_owned()).collect::<Vec<_>>();
            match key {
                "skip" if value.eq_ignore_ascii_case("all") => checks.skip_all = true,
                "skip" => checks.skip = names(),
                "experimental" if value.eq_ignore_ascii_case("all") => checks.experimental_all = true,
                "experimental" => checks.experimental = names(),
                "error" => {
                    checks.error = match value.to_ascii_lowercase().as_str() {
                        "true" | "1" | "t" => true,
                        "false" | "0" | "f" => false,
                        _ => return Err(format!("failed to parse check option error={value}: not a boolean")),
                    };
                }
                _ => return Err(format!("invalid check option {key:?}")),
            }
        }
        Ok(checks)
    }

    /// Whether a rule is looked at. Case does not matter, as with BuildKit.
    pub fn takes(&self, rule: &Rule) -> bool {
        let named = |list: &[String]| list.iter().any(|name| name.eq_ignore_ascii_case(rule.name));
        if rule.experimental && !self.experimental_all && !named(&self.experimental) {
            return false;
        }
        !self.skip_all && !named(&self.skip)
    }
}

/// Names that look as if their value were a secret: one of these words between underscores.
pub(crate) fn looks_secret(name: &str) -> bool {
    const SECRET: [&str; 10] =
        ["apikey", "auth", "credential", "credentials", "key", "password", "pword", "passwd", "secret", "token"];
    let words: Vec<String> = name.split('_').map(str::to_ascii_lowercase).collect();
    words.iter().any(|word| SECRET.contains(&word.as_str())) && !words.iter().any(|word| word == "public")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_read_as_buildkit_reads_them() {
        let rule = |name| rule_named(name).unwrap();
        let checks = Checks::parse("skip=UndefinedVar, stagenamecasing;error=true").unwrap();
        assert!(checks.error && !checks.takes(rule("UndefinedVar")) && !checks.takes(rule("StageNameCasing")));
        assert!(checks.takes(rule("FromAsCasing")) && !checks.takes(rule("CopyIgnoredFile")));
        assert!(Checks::parse("experimental=all").unwrap().takes(rule("CopyIgnoredFile")));
        assert!(!Checks::parse("skip=all").unwrap().takes(rule("FromAsCasing")));
        assert!(Checks::parse("error=maybe").is_err() && Checks::parse("what=x").is_err());
    }

    #[test]
    fn secrets_are_told_by_their_names() {
        for (name, secret) in [
            ("API_TOKEN", true),
            ("password", true),
            ("MY_PUBLIC_KEY", false),
            ("KEYBOARD", false),
            ("AWS_SECRET_ACCESS", true),
            ("MONKEY", false),
        ] {
            assert_eq!(looks_secret(name), secret, "{name}");
        }
    }

    #[test]
    fn addresses_are_those_of_the_documentation() {
        let url = rule_named("JSONArgsRecommended").unwrap().url();
        assert_eq!(url, "https://docs.docker.com/go/dockerfile/rule/json-args-recommended/");
    }
}
