//! What an entry's path means inside a layer. Pure: the file system is not asked.

/// The longest path and component that Linux takes.
pub const PATH_BYTES_MAX: usize = 4095;
pub const NAME_BYTES_MAX: usize = 255;
/// Deeper trees than this are attacks: whatever walks them holds a descriptor and a stack frame for each level.
pub const DEPTH_MAX: usize = 512;

/// The components of a path in an archive. Leading `/` and `./` mean the archive's root; an empty answer is the root itself.
/// `..` is refused anywhere: no layer that a tool made by comparing trees has one.
pub fn parts(path: &[u8]) -> Result<Vec<&[u8]>, String> {
    if path.is_empty() {
        return Err("empty path".into());
    }
    if path.contains(&0) {
        return Err("path contains NUL".into());
    }
    if path.len() > PATH_BYTES_MAX {
        return Err(format!("path is longer than {PATH_BYTES_MAX} bytes"));
    }
    let mut parts = Vec::new();
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err("path contains \"..\"".into()),
            _ if part.len() > NAME_BYTES_MAX => return Err(format!("name is longer than {NAME_BYTES_MAX} bytes")),
            _ => parts.push(part),
        }
    }
    if parts.len() > DEPTH_MAX {
        return Err(format!("path is deeper than {DEPTH_MAX} directories"));
    }
    Ok(parts)
}

/// What a layer's entry does to the tree below (OCI image-spec, "Layer Filesystem Changeset").
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect<'a> {
    /// The layer's root: only its metadata counts.
    Root,
    /// Something is put at `dir`/`name`.
    Put { dir: Vec<&'a [u8]>, name: &'a [u8] },
    /// `dir`/`name` of the layers below is hidden.
    Whiteout { dir: Vec<&'a [u8]>, name: &'a [u8] },
    /// Everything in `dir` of the layers below is hidden.
    Opaque { dir: Vec<&'a [u8]> },
    /// Bookkeeping that aufs left in old layers.
    Ignored,
}

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
const AUFS: [&[u8]; 3] = [b".wh..wh.aufs", b".wh..wh.orph", b".wh..wh.plnk"];

pub fn effect(path: &[u8]) -> Result<Effect<'_>, String> {
    let mut dir = parts(path)?;
    if dir.first().is_some_and(|first| AUFS.contains(first)) {
        return Ok(Effect::Ignored);
    }
    let Some(name) = dir.pop() else { return Ok(Effect::Root) };
    if dir.iter().any(|part| part.starts_with(WHITEOUT)) {
        return Err("a whiteout cannot be a directory".into());
    }
    if name == OPAQUE {
        // The root of a layer hides nothing: there is always a layer below for it to cover, or none at all.
        return if dir.is_empty() { Err("the root cannot be opaque".into()) } else { Ok(Effect::Opaque { dir }) };
    }
    match name.strip_prefix(WHITEOUT) {
        None => Ok(Effect::Put { dir, name }),
        Some(b"" | b"." | b"..") => Err("whiteout of nothing".into()),
        Some(hidden) if hidden.starts_with(WHITEOUT) => Err("unknown whiteout".into()),
        Some(hidden) => Ok(Effect::Whiteout { dir, name: hidden }),
    }
}

/// What to do with an extended attribute that an archive carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XattrRule {
    Set,
    /// Labels that are the host's to choose.
    Drop,
    /// It would change how overlayfs reads the layer.
    Refuse,
}

pub fn xattr_rule(name: &[u8]) -> XattrRule {
    if vocab::weak::without("overlay") {
        XattrRule::Set
    } else if name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.") {
        XattrRule::Refuse
    } else if name == b"security.capability" || name.starts_with(b"user.") || name.starts_with(b"system.posix_acl_") {
        XattrRule::Set
    } else {
        XattrRule::Drop
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn check(path: &[u8], expect: Expect) {
        let join = |dir: Vec<&[u8]>| String::from_utf8_lossy(&dir.join(&b'/')).into_owned();
        let text = match effect(path) {
            Ok(Effect::Root) => "root".to_owned(),
            Ok(Effect::Put { dir, name }) => format!("put {} in {:?}", name.escape_ascii(), join(dir)),
            Ok(Effect::Whiteout { dir, name }) => format!("hide {} in {:?}", name.escape_ascii(), join(dir)),
            Ok(Effect::Opaque { dir }) => format!("hide all in {:?}", join(dir)),
            Ok(Effect::Ignored) => "ignored".to_owned(),
            Err(e) => format!("error: {e}"),
        };
        expect.assert_eq(&text);
    }

    #[test]
    fn paths_become_effects() {
        check(b"./", expect!["root"]);
        check(b"/", expect!["root"]);
        check(b"etc/passwd", expect![[r#"put passwd in "etc""#]]);
        check(b"/etc/passwd", expect![[r#"put passwd in "etc""#]]);
        check(b"./a//b/./c/", expect![[r#"put c in "a/b""#]]);
        check(b"a/\xff\n", expect![[r#"put \xff\n in "a""#]]);
        check(b"a/.wh.b", expect![[r#"hide b in "a""#]]);
        check(b".wh.b", expect![[r#"hide b in """#]]);
        check(b"a/.wh..wh..opq", expect![[r#"hide all in "a""#]]);
        check(b".wh..wh.plnk/1.2", expect!["ignored"]);
        check(b".wh..wh.aufs", expect!["ignored"]);
    }

    #[test]
    fn tricks_are_refused() {
        check(b"", expect!["error: empty path"]);
        check(b"../a", expect![[r#"error: path contains "..""#]]);
        check(b"a/../../b", expect![[r#"error: path contains "..""#]]);
        check(b"a/..", expect![[r#"error: path contains "..""#]]);
        check(b"a\0b", expect!["error: path contains NUL"]);
        check(b"a/.wh.", expect!["error: whiteout of nothing"]);
        check(b"a/.wh..", expect!["error: whiteout of nothing"]);
        check(b"a/.wh...", expect!["error: whiteout of nothing"]);
        check(b".wh..wh..opq", expect!["error: the root cannot be opaque"]);
        check(b"a/.wh..wh.x", expect!["error: unknown whiteout"]);
        check(b".wh.a/b", expect!["error: a whiteout cannot be a directory"]);
        check(&[b'a'; 256], expect!["error: name is longer than 255 bytes"]);
        check(&b"a/".repeat(3000), expect!["error: path is longer than 4095 bytes"]);
    }
}
