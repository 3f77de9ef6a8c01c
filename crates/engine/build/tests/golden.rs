//! What Dockerfiles are read as: each `tests/golden/NAME.dockerfile` gives the tree in `NAME.tree`, one line an instruction, or
//! the mistake. `KNARR_GOLDEN=write` writes what is found into the files, for whoever then reads the difference.

use std::fmt::Write;
use std::path::Path;

use build::syntax::{Statement, parse};

fn line(out: &mut String, statement: &Statement) {
    let (span, instruction) = (&statement.span, &statement.instruction);
    writeln!(out, "  {}-{} {instruction:?}", span.first, span.last).unwrap();
}

fn tree(text: &str) -> String {
    let file = match parse(text) {
        Ok(file) => file,
        Err(error) => return format!("{error}\n"),
    };
    let mut out = format!("escape {:?}\n{:?}\n", file.escape, file.directives);
    file.globals.iter().for_each(|statement| line(&mut out, statement));
    for stage in &file.stages {
        let (base, name, platform, said) = (&stage.base, &stage.name, &stage.platform, &stage.description);
        writeln!(out, "{}: from {base:?} as {name:?} for {platform:?}: {said:?}", stage.span.first).unwrap();
        stage.body.iter().for_each(|statement| line(&mut out, statement));
    }
    for warning in &file.warnings {
        writeln!(out, "warning {}: {}: {}", warning.line, warning.rule, warning.message).unwrap();
    }
    out
}

#[test]
fn dockerfiles_are_read_as_they_were() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "dockerfile"));
    assert!(files.len() >= 10);
    for path in files {
        let found = tree(&std::fs::read_to_string(&path).unwrap());
        let golden = path.with_extension("tree");
        if std::env::var_os("KNARR_GOLDEN").is_some_and(|wish| wish == "write") {
            std::fs::write(&golden, &found).unwrap();
        }
        let kept = std::fs::read_to_string(&golden).unwrap_or_default();
        assert!(found == kept, "{} is read as\n{found}\nand was\n{kept}", path.display());
    }
}
