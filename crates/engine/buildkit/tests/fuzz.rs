//! Broken packets and messages of a client: refused, or a tree whose every path stays inside.

use buildkit::fuzzing;

#[test]
fn packets() {
    let target = fuzz::Target::new("packets", "").seed(fuzzing::a_tree());
    target.words(["..", "/", "a/", "\0", "\u{2f}etc", "d/l/x"]).run(|bytes| {
        let paths = match fuzzing::tree(bytes) {
            Ok(paths) => paths,
            Err(error) => return Err(error.len().min(64)),
        };
        for (at, path) in paths.iter().enumerate() {
            assert!(!path.starts_with('/') && path.split('/').all(|part| !matches!(part, "" | "." | "..")), "{path:?}");
            if let Some((parent, _)) = path.rsplit_once('/') {
                assert!(paths[..at].iter().any(|earlier| earlier == parent), "{path:?} came before {parent:?}");
            }
        }
        Ok(paths.len())
    });
}

#[test]
fn messages() {
    let target =
        fuzz::Target::new("build-messages", "").seed([0, 0x0a, 3, b'a', b'b', b'c']).seed([2, 0x0a, 2, 0x1a, 0]);
    target.run(|bytes| {
        let (kind, rest) = bytes.split_first()?;
        fuzzing::message(*kind, rest).map(|length| length.min(32))
    });
}
