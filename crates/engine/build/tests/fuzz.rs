//! Broken Dockerfiles and pattern files: refused with a line, or planned into a graph that keeps its promises.

use build::plan::{self, Base, Bases, Files, Options};
use build::{Patterns, syntax};
use vocab::Digest;

struct AnyImage;

impl Bases for AnyImage {
    fn resolve(&self, reference: &str, _: &image::Platform) -> Result<Base, String> {
        if reference.len() > 200 {
            return Err("too long".into());
        }
        Ok(Base { id: Digest::from_sha256([1; 32]), config: plan::Config::default() })
    }
}

#[test]
fn dockerfiles() {
    let options = Options::default();
    let host = image::Platform::parse("linux/amd64").unwrap();
    let target = fuzz::Target::new("dockerfile", env!("CARGO_MANIFEST_DIR"));
    let words = [
        "FROM a\n",
        "RUN ",
        "COPY ",
        "ADD ",
        "ONBUILD ",
        "<<EOF",
        "<<-'E'",
        "\nEOF\n",
        "\\\n",
        "${",
        "}",
        ":-",
        "##",
        "%%",
        "//",
        "--mount=",
        "type=bind,",
        "target=/",
        "from=",
        "--from=",
        "[\"",
        "\"]",
        "\"",
        "'",
        "$",
        "# escape=`\n",
        "ARG ",
        "ENV ",
        "=",
        "AS x\n",
        "../",
    ];
    target.words(words).run(|bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return Err("text") };
        let file = match syntax::parse(text) {
            Ok(file) => file,
            Err(error) => {
                assert!(error.line >= 1 && error.line <= text.lines().count().max(1), "{error}");
                return Err("syntax");
            }
        };
        for stage in &file.stages {
            assert!(stage.body.iter().all(|s| s.span.first <= s.span.last && s.span.first > stage.span.first));
        }
        let Ok(graph) = plan::plan(&file, &options, &host, &AnyImage) else { return Err("plan") };
        for (at, node) in graph.nodes.iter().enumerate() {
            assert!(node.inputs().iter().all(|input| !matches!(input, Files::Node(n) if *n >= at)));
            if let plan::Op::Copy(copy) = &node.op {
                assert!(copy.destination.starts_with('/') && !copy.destination.split('/').any(|part| part == ".."));
            }
        }
        assert!(graph.result < graph.nodes.len());
        Ok((graph.nodes.len(), graph.config.history.len().min(8)))
    });
}

#[test]
fn patterns() {
    let target = fuzz::Target::new("patterns", "").seed("**/*.o\n!keep/a.o\n[a-z]?\\*\n").seed("*\n!a\n");
    target.words(["**", "!", "[", "]", "^", "\\", "/", "..", "?", "\n"]).run(|bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return Err(()) };
        let patterns = Patterns::parse(text).map_err(|_| ())?;
        Ok((patterns.excludes("a/b.o"), patterns.excludes("keep/a.o"), patterns.may_include_below("keep")))
    });
}
