//! Which capabilities a container has.

use linux::caps::NAMES as ALL;

use crate::{Error, Result};

/// Docker's default set.
pub(crate) const DEFAULT: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// The set for `--cap-add`, `--cap-drop` and `--privileged`, in the kernel's order.
///
/// `held`: bit n says that this host can hand out capability n (the engine's own bounding set). Privileged and `ALL`
/// take what is there; asking by name for one that the host cannot give is refused at start by the kernel, so it is
/// kept here.
pub(crate) fn decide_caps(add: &[String], drop: &[String], privileged: bool, held: u64) -> Result<Vec<&'static str>> {
    let can_give = |name: &&str| ALL.iter().position(|c| c == name).is_some_and(|bit| held >> bit & 1 == 1);
    let add_all = add.iter().any(|c| is_all(c));
    let drop_all = drop.iter().any(|c| is_all(c));
    let added = parse_caps("CapAdd", add)?;
    let dropped = parse_caps("CapDrop", drop)?;
    if privileged {
        return Ok(ALL.iter().copied().filter(can_give).collect());
    }
    let kept = |name: &&'static str| {
        if added.contains(name) && !(add_all && dropped.contains(name)) {
            return true;
        }
        if drop_all || dropped.contains(name) {
            return add_all && !dropped.contains(name) && can_give(name);
        }
        if add_all { can_give(name) } else { DEFAULT.contains(name) && can_give(name) }
    };
    Ok(ALL.iter().copied().filter(|name| kept(name)).collect())
}

fn is_all(name: &str) -> bool {
    name.eq_ignore_ascii_case("ALL") || name.eq_ignore_ascii_case("CAP_ALL")
}

/// `field`: the name that Docker's error has for the list.
fn parse_caps(field: &str, names: &[String]) -> Result<Vec<&'static str>> {
    let mut known = Vec::new();
    for name in names.iter().filter(|n| !is_all(n)) {
        let upper = name.to_ascii_uppercase();
        let full = if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") };
        match ALL.iter().find(|c| **c == full) {
            Some(capability) => known.push(*capability),
            None => return Err(Error::Invalid(format!("invalid {field}: unknown capability: {full:?}"))),
        }
    }
    Ok(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: u64 = (1 << 41) - 1;

    fn check(add: &[&str], drop: &[&str], privileged: bool, held: u64) -> Vec<&'static str> {
        let owned = |names: &[&str]| names.iter().map(|n| n.to_string()).collect::<Vec<_>>();
        decide_caps(&owned(add), &owned(drop), privileged, held).unwrap()
    }

    #[test]
    fn the_default_is_exactly_dockers_fourteen() {
        let mut wanted = DEFAULT.to_vec();
        wanted.sort_unstable();
        let mut got = check(&[], &[], false, EVERY);
        got.sort_unstable();
        assert_eq!(got, wanted);
    }

    #[test]
    fn adding_and_dropping_combine() {
        assert_eq!(check(&[], &["ALL"], false, EVERY), [] as [&str; 0]);
        assert_eq!(check(&["net_admin"], &["ALL"], false, EVERY), ["CAP_NET_ADMIN"]);
        assert_eq!(check(&["CAP_CHOWN", "CAP_NET_ADMIN"], &["all"], false, EVERY), ["CAP_CHOWN", "CAP_NET_ADMIN"]);
        assert_eq!(check(&["ALL"], &[], false, EVERY).len(), 41);
        assert_eq!(check(&["ALL"], &["MKNOD"], false, EVERY).len(), 40);
        assert_eq!(check(&[], &["chown"], false, EVERY).len(), 13);
        assert_eq!(check(&["SYS_TIME"], &[], false, EVERY).len(), 15);
        // A host without CAP_SYS_RESOURCE (24) gives the rest.
        assert_eq!(check(&["ALL"], &[], false, EVERY & !(1 << 24)).len(), 40);
        assert_eq!(check(&[], &["ALL"], true, EVERY & !(1 << 24)).len(), 40);
    }

    #[test]
    fn a_misspelt_capability_is_refused() {
        for bad in ["NET_ADMIM", "CAP_", "", "CAP_CAP_CHOWN", "ALLL"] {
            assert!(decide_caps(&[bad.to_owned()], &[], false, EVERY).is_err(), "{bad}");
            assert!(decide_caps(&[], &[bad.to_owned()], true, EVERY).is_err(), "{bad}");
        }
    }
}
