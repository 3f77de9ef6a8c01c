//! Who a process runs as: `user[:group]` resolved against the container's own `/etc/passwd` and `/etc/group`.
//!
//! The files are the image's and so hostile: the shell opens them in the root as regular files only and reads at most
//! [`FILE_BYTES_MAX`]; here lines that do not parse are skipped.

use crate::{Error, Result};

pub(crate) const FILE_BYTES_MAX: usize = 1 << 20;

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct ExecUser {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Every group: the primary one first, so that a denial meant for the primary group cannot be dodged.
    pub(crate) groups: Vec<u32>,
    pub(crate) home: String,
}

struct PasswdLine<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

struct GroupLine<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

/// Resolves `spec` (empty: uid 0). `group_add` are `--group-add`'s names or numbers.
pub(crate) fn resolve_user(spec: &str, group_add: &[String], passwd: &[u8], group: &[u8]) -> Result<ExecUser> {
    let (user_word, group_word) = spec.split_once(':').unwrap_or((spec, ""));
    let passwd = String::from_utf8_lossy(passwd);
    let group = String::from_utf8_lossy(group);

    let number = parse_id(user_word)?;
    let wanted_uid = if user_word.is_empty() { Some(0) } else { number };
    let line = passwd.lines().filter_map(parse_passwd).find(|line| match wanted_uid {
        Some(uid) => line.uid == uid,
        None => line.name == user_word,
    });
    let (uid, mut gid, home) = match (&line, wanted_uid) {
        (Some(line), _) => (line.uid, line.gid, line.home),
        (None, Some(uid)) => (uid, 0, "/"),
        (None, None) => {
            return Err(Error::Invalid(format!("unable to find user {user_word}: no matching entries in passwd file")));
        }
    };

    let mut supplementary = Vec::new();
    if !group_word.is_empty() {
        gid = find_group(group_word, &group)?;
    } else if let Some(line) = &line {
        let member = |g: &GroupLine<'_>| g.members.split(',').any(|m| m.trim() == line.name);
        supplementary.extend(group.lines().filter_map(parse_group).filter(member).map(|g| g.gid));
    }
    for word in group_add {
        supplementary.push(find_group(word, &group)?);
    }
    let mut groups = vec![gid];
    for gid in supplementary {
        if !groups.contains(&gid) {
            groups.push(gid);
        }
    }
    Ok(ExecUser { uid, gid, groups, home: clean_home(home) })
}

/// A home with control bytes would put lines of its own into whatever prints the environment.
fn clean_home(home: &str) -> String {
    if home.is_empty() || home.chars().any(char::is_control) { "/".into() } else { home.into() }
}

fn find_group(word: &str, group: &str) -> Result<u32> {
    if let Some(gid) = parse_id(word)? {
        return Ok(gid);
    }
    let found = group.lines().filter_map(parse_group).find(|line| line.name == word);
    found
        .map(|line| line.gid)
        .ok_or_else(|| Error::Invalid(format!("unable to find group {word}: no matching entries in group file")))
}

/// A word of digits is a number, whatever names exist; `None` is a name.
fn parse_id(word: &str) -> Result<Option<u32>> {
    if word.is_empty() || !word.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(None);
    }
    match word.parse::<u32>() {
        Ok(id) if id <= i32::MAX as u32 => Ok(Some(id)),
        _ if vocab::weak::without("user-range") => Ok(Some(word.parse::<u64>().unwrap_or(0) as u32)),
        _ => Err(Error::Invalid(format!("uids and gids must be in range 0-2147483647: {word}"))),
    }
}

fn parse_passwd(line: &str) -> Option<PasswdLine<'_>> {
    let mut fields = line.split(':');
    let name = fields.next()?;
    let _password = fields.next()?;
    let uid = parse_id(fields.next()?.trim()).ok()??;
    let gid = parse_id(fields.next()?.trim()).ok()??;
    let home = fields.nth(1).unwrap_or_default();
    Some(PasswdLine { name, uid, gid, home })
}

fn parse_group(line: &str) -> Option<GroupLine<'_>> {
    let mut fields = line.split(':');
    let name = fields.next()?;
    let _password = fields.next()?;
    let gid = parse_id(fields.next()?.trim()).ok()??;
    Some(GroupLine { name, gid, members: fields.next().unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nbroken\ndaemon:x:1:1::/usr/sbin:\napp:x:1000:100:App:/home/app:/bin/sh\n\
        5000:x:77:77::/odd:\nbig:x:4294967296:0::/:\nlines:x:1001:1001::/h\x0bome:\nroot2:x:0:5::/root2:\n";
    const GROUP: &str =
        "root:x:0:root,app\nusers:x:100:\nwheel:x:10:app,root\naudio:x:29:\nwheel2:x:10:app\n1234:x:55:\n";

    fn check(spec: &str, group_add: &[&str]) -> Result<(u32, u32, Vec<u32>, String), String> {
        let group_add: Vec<String> = group_add.iter().map(|g| g.to_string()).collect();
        let user = resolve_user(spec, &group_add, PASSWD.as_bytes(), GROUP.as_bytes()).map_err(|e| e.to_string())?;
        Ok((user.uid, user.gid, user.groups, user.home))
    }

    #[test]
    fn users_resolve_as_docker_resolves_them() {
        let rows: [(&str, u32, u32, &[u32], &str); 11] = [
            ("", 0, 0, &[0, 10], "/root"),
            ("root", 0, 0, &[0, 10], "/root"),
            ("0", 0, 0, &[0, 10], "/root"),
            ("00", 0, 0, &[0, 10], "/root"),
            ("app", 1000, 100, &[100, 0, 10], "/home/app"),
            ("1000", 1000, 100, &[100, 0, 10], "/home/app"),
            ("app:wheel", 1000, 10, &[10], "/home/app"),
            ("app:29", 1000, 29, &[29], "/home/app"),
            // A numeric name never wins over the number.
            ("5000", 5000, 0, &[0], "/"),
            ("2147483647:2147483647", 2147483647, 2147483647, &[2147483647], "/"),
            ("lines", 1001, 1001, &[1001], "/"),
        ];
        for (spec, uid, gid, groups, home) in rows {
            assert_eq!(check(spec, &[]), Ok((uid, gid, groups.to_vec(), home.to_owned())), "{spec}");
        }
        assert_eq!(check("app", &["audio", "audio", "4000"]).unwrap().2, [100, 0, 10, 29, 4000]);
        assert_eq!(check(":1234", &[]).unwrap().1, 1234);
    }

    #[test]
    fn nothing_wraps_to_root() {
        for spec in [
            "2147483648",
            "4294967295",
            "4294967296",
            "18446744073709551616",
            "app:4294967296",
            "99999999999999999999999",
        ] {
            assert!(check(spec, &[]).unwrap_err().starts_with("uids and gids must be in range"), "{spec}");
        }
        for spec in ["-0", "-1", "0x0", "+0", "root\n", "big", "٠", "nobody", " 0"] {
            assert!(check(spec, &[]).unwrap_err().starts_with("unable to find user"), "{spec:?}");
        }
        for spec in ["app:nogroup", "0:-1"] {
            assert!(check(spec, &[]).unwrap_err().starts_with("unable to find group"), "{spec:?}");
        }
        assert!(check("", &["nogroup"]).is_err());
    }

    #[cfg(feature = "weaken")]
    #[test]
    fn tests_notice_a_weakened_build() {
        vocab::weak::noticed(&[("user-range", "decide::user::tests::nothing_wraps_to_root")]);
    }

    #[test]
    fn without_files_numbers_still_work() {
        assert_eq!(resolve_user("12:34", &[], b"", b"").unwrap().groups, [34]);
        assert_eq!(resolve_user("", &[], b"", b"").unwrap().home, "/");
    }
}
