//! User namespaces: which ids of the host stand for a container's. Who has which range is read from `/etc/subuid` and `/etc/subgid`, as
//! every tool of Linux does it.

use linux::idmap::{IdMaps, IdSpan};

use crate::{Error, HostConfig, Result};

/// The user whose ranges dockerd takes for `--userns-remap=default`.
const DEFAULT_USER: &str = "dockremap";
/// The user whose ranges Podman takes for `--userns=auto`.
const AUTO_USER: &str = "containers";
/// Where containers' ranges are taken from when nobody gave any: what systemd sets aside for them.
const AUTO_IDS: IdSpan = IdSpan { inside: 0, outside: 524_288, count: 1_878_458_368 };
/// Ids of a container with a range of its own, unless it says how many: every user that an image may have.
const AUTO_SIZE: u32 = 65_536;

/// What an engine knows of ids.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserRanges {
    /// The ids of every container that does not say otherwise (`--userns-remap`); `None`: the host's own.
    pub remap: Option<IdMaps>,
    /// From which containers get ranges of their own.
    auto: IdMaps,
    /// Taken by others.
    taken: IdMaps,
}

/// What they have.
pub(crate) struct Files<'a> {
    pub(crate) passwd: &'a str,
    pub(crate) group: &'a str,
    pub(crate) subuid: &'a str,
    pub(crate) subgid: &'a str,
}

pub(crate) fn user_ranges(remap: Option<&str>, files: &Files<'_>) -> Result<UserRanges> {
    let remap = remap.filter(|text| !text.is_empty()).map(|text| remapped(text, files)).transpose()?;
    let own = |text| ranges(text, |name| name == AUTO_USER);
    let (uid, gid) = (own(files.subuid), own(files.subgid));
    let given = !uid.is_empty() && !gid.is_empty();
    let auto = if given { IdMaps { uid, gid } } else { IdMaps { uid: vec![AUTO_IDS], gid: vec![AUTO_IDS] } };
    let others = |text: &str| if given { Vec::new() } else { ranges(text, |_| true) };
    Ok(UserRanges { remap, auto, taken: IdMaps { uid: others(files.subuid), gid: others(files.subgid) } })
}

/// The ranges of one user, one after the other from id 0 on.
fn remapped(text: &str, files: &Files<'_>) -> Result<IdMaps> {
    let refused = |why: String| Error::Invalid(format!("Can't create ID mappings: {why}"));
    if let Some((first, count)) = text.split_once('+') {
        let number = |text: &str| text.parse::<u32>().ok();
        let given = number(first).zip(number(count)).filter(|(first, count)| {
            // Ids of the host's own users are no range for strangers.
            *first > 0 && *count > 0 && first.checked_add(*count).is_some()
        });
        let (outside, count) = given.ok_or_else(|| refused(format!("{text:?} is not a range FIRST+COUNT of ids")))?;
        let span = vec![IdSpan { inside: 0, outside, count }];
        return Ok(IdMaps { uid: span.clone(), gid: span });
    }
    let (user, group) = text.split_once(':').unwrap_or((text, ""));
    let user = if user == "default" { DEFAULT_USER } else { user };
    let field = |line: &'_ str, at: usize| line.split(':').nth(at).unwrap_or_default().to_owned();
    let known = |line: &&str, wanted: &str| field(line, 0) == wanted || field(line, 2) == wanted;
    let line = files.passwd.lines().find(|line| known(line, user));
    // Ranges may stand there for a number that no user has.
    let (name, number) = match line {
        Some(line) => (field(line, 0), field(line, 2)),
        None if user.bytes().all(|b| b.is_ascii_digit()) && !user.is_empty() => (user.to_owned(), user.to_owned()),
        None => return Err(refused(format!("no such user: {user:?}"))),
    };
    let number_given = |group: &str| group.bytes().all(|b| b.is_ascii_digit());
    if !number_given(group) && !files.group.lines().any(|line| known(&line, group)) {
        return Err(refused(format!("no such group: {group:?}")));
    }
    let of = |text: &str| {
        let by_number = ranges(text, |who| who == number);
        if by_number.is_empty() { ranges(text, |who| who == name) } else { by_number }
    };
    let maps = IdMaps { uid: of(files.subuid), gid: of(files.subgid) };
    for (list, what) in [(&maps.uid, "subuid"), (&maps.gid, "subgid")] {
        if list.is_empty() {
            return Err(refused(format!("no {what} ranges found for user {name:?} in /etc/{what}")));
        }
    }
    Ok(maps)
}

/// Lines `name:first:count`; what is none is passed over, as everywhere.
fn ranges(text: &str, whose: impl Fn(&str) -> bool) -> Vec<IdSpan> {
    let mut spans: Vec<IdSpan> = Vec::new();
    for line in text.lines() {
        let fields: Vec<&str> = line.trim().split(':').collect();
        let [name, first, count] = fields[..] else { continue };
        let (Ok(outside), Ok(count)) = (first.parse::<u32>(), count.parse::<u32>()) else { continue };
        let inside = spans.last().map_or(0, |last| last.inside + last.count);
        // Beyond the largest id there is nothing to give.
        let fits = |start: u32| start.checked_add(count).is_some();
        if whose(name) && count > 0 && fits(outside) && fits(inside) {
            spans.push(IdSpan { inside, outside, count });
        }
    }
    spans
}

/// `HostConfig.UsernsMode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UsersMode {
    /// As the engine does it.
    Engine,
    Host,
    /// A range of its own, of so many ids.
    Auto(u32),
}

pub(crate) fn users_mode(host: &HostConfig) -> Result<UsersMode> {
    let text = host.userns_mode.as_str();
    let refused = || Error::Invalid(format!("invalid user namespace mode: {text}"));
    Ok(match text {
        "" => UsersMode::Engine,
        "host" => UsersMode::Host,
        "auto" => UsersMode::Auto(AUTO_SIZE),
        text => {
            let size = text.strip_prefix("auto:size=").and_then(|size| size.parse().ok());
            UsersMode::Auto(size.filter(|size| *size > 0).ok_or_else(refused)?)
        }
    })
}

/// Another container whose namespaces are to be shared.
pub(crate) struct Shared {
    pub(crate) name: String,
    pub(crate) users: Option<IdMaps>,
}

/// The ids of a new container. To share a namespace of another kind, containers must share their user namespace, so theirs come first.
/// `used` tells the ids of other containers.
pub(crate) fn decide_users(
    host: &HostConfig,
    ranges: &UserRanges,
    shared: &[Shared],
    used: &dyn Fn() -> Vec<IdMaps>,
) -> Result<Option<IdMaps>> {
    let mode = users_mode(host)?;
    if let [first, others @ ..] = shared
        && mode != UsersMode::Host
    {
        if matches!(mode, UsersMode::Auto(_)) {
            return Err(Error::Invalid(format!(
                "conflicting options: user namespace mode {} and the namespaces of container {}",
                host.userns_mode, first.name
            )));
        }
        if let Some(other) = others.iter().find(|other| other.users != first.users) {
            return Err(Error::Invalid(format!(
                "conflicting options: containers {} and {} do not share a user namespace",
                first.name, other.name
            )));
        }
        return with_checks(host, first.users.clone());
    }
    with_checks(
        host,
        match mode {
            UsersMode::Host => None,
            UsersMode::Engine => ranges.remap.clone(),
            UsersMode::Auto(size) => {
                let used = used();
                let all = || used.iter().chain([&ranges.taken]).chain(&ranges.remap);
                let find = |pool: &[IdSpan], of: fn(&IdMaps) -> &Vec<IdSpan>| {
                    let taken: Vec<IdSpan> = all().flat_map(of).copied().collect();
                    free_span(pool, &taken, size).map(|span| vec![span]).ok_or_else(|| Error::Other {
                        what: format!("cannot give a container {size} ids of its own"),
                        kind: vocab::ErrorKind::Exhausted,
                        message: "no range of so many is free: see /etc/subuid and /etc/subgid, user containers".into(),
                    })
                };
                Some(IdMaps { uid: find(&ranges.auto.uid, |m| &m.uid)?, gid: find(&ranges.auto.gid, |m| &m.gid)? })
            }
        },
    )
}

/// What the host's root alone can have, in dockerd's words.
fn with_checks(host: &HostConfig, users: Option<IdMaps>) -> Result<Option<IdMaps>> {
    let why = match () {
        () if users.is_none() => return Ok(None),
        () if host.privileged => {
            "privileged mode is incompatible with user namespaces.  You must run the container in the host namespace when running privileged mode"
        }
        () if host.network_mode == "host" => {
            "cannot share the host's network namespace when user namespaces are enabled"
        }
        () if host.network_mode.starts_with("ns:/") => {
            "cannot join a network namespace by its path when user namespaces are enabled"
        }
        () if host.pid_mode == "host" => "cannot share the host PID namespace when user namespaces are enabled",
        () => return Ok(users),
    };
    Err(Error::Invalid(why.into()))
}

/// The lowest `size` ids of the pool that nobody has.
fn free_span(pool: &[IdSpan], taken: &[IdSpan], size: u32) -> Option<IdSpan> {
    let at = |outside: u32| IdSpan { inside: 0, outside, count: size };
    for range in pool {
        let end = u64::from(range.outside) + u64::from(range.count);
        let ends = taken.iter().map(|other| u64::from(other.outside) + u64::from(other.count));
        // What is free begins where the pool or something taken ends.
        let mut starts: Vec<u32> = [u64::from(range.outside)]
            .into_iter()
            .chain(ends)
            .filter(|start| *start >= u64::from(range.outside) && start + u64::from(size) <= end)
            .filter_map(|start| u32::try_from(start).ok())
            .collect();
        starts.sort_unstable();
        let free = starts.into_iter().map(at).find(|span| !taken.iter().any(|other| span.shares_outside(other)));
        if free.is_some() {
            return free;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILES: Files<'_> = Files {
        passwd: "root:x:0:0::/:/bin/sh\nme:x:1000:1000::/:\ndockremap:x:999:999::/:\nbare:x:5:5::/:\n",
        group: "root:x:0:\nme:x:1000:\n",
        subuid: "me:100000:65536\ndockremap:1000000:1000\nodd\n999:x:5\ndockremap:3000000:64\n77:9:1\nme:4294967295:9\n",
        subgid: "me:200000:65536\n999:5000000:10\n77:9:1\n",
    };

    fn shown(maps: &IdMaps) -> String {
        let side = |spans: &[IdSpan]| linux::idmap::lines(spans).trim_end().replace('\n', ",");
        format!("{} | {}", side(&maps.uid), side(&maps.gid))
    }

    #[test]
    fn a_user_is_remapped_to_its_ranges() {
        let rows = [
            ("me", "0 100000 65536 | 0 200000 65536"),
            ("1000:me", "0 100000 65536 | 0 200000 65536"),
            ("default", "0 1000000 1000,1000 3000000 64 | 0 5000000 10"),
            ("77", "0 9 1 | 0 9 1"),
            ("bare", "Can't create ID mappings: no subuid ranges found for user \"bare\" in /etc/subuid"),
            ("nobody", "Can't create ID mappings: no such user: \"nobody\""),
            ("me:no", "Can't create ID mappings: no such group: \"no\""),
            ("100000+65536", "0 100000 65536 | 0 100000 65536"),
            ("0+10", "Can't create ID mappings: \"0+10\" is not a range FIRST+COUNT of ids"),
            ("7+0", "Can't create ID mappings: \"7+0\" is not a range FIRST+COUNT of ids"),
            ("4294967295+1", "Can't create ID mappings: \"4294967295+1\" is not a range FIRST+COUNT of ids"),
            ("me+1", "Can't create ID mappings: \"me+1\" is not a range FIRST+COUNT of ids"),
            (":me", "Can't create ID mappings: no such user: \"\""),
        ];
        for (text, wanted) in rows {
            let got = user_ranges(Some(text), &FILES);
            let got = got.map(|ranges| shown(&ranges.remap.unwrap())).unwrap_or_else(|error| error.to_string());
            assert_eq!(got, wanted, "{text}");
        }
        assert_eq!(user_ranges(None, &FILES).unwrap().remap, None);
        assert_eq!(user_ranges(Some(""), &FILES).unwrap().remap, None);
    }

    fn decide(change: impl FnOnce(&mut HostConfig), remap: bool, shared: &[Shared], used: &[IdMaps]) -> String {
        let mut host = HostConfig::default();
        change(&mut host);
        let ranges = user_ranges(remap.then_some("me"), &FILES).unwrap();
        match decide_users(&host, &ranges, shared, &|| used.to_vec()) {
            Ok(None) => "host".into(),
            Ok(Some(maps)) => shown(&maps),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn ids_follow_the_mode_and_what_only_the_hosts_root_may_have_is_refused() {
        let mine = "0 100000 65536 | 0 200000 65536";
        let mode = |text: &'static str| move |h: &mut HostConfig| h.userns_mode = text.into();
        assert_eq!(decide(mode(""), false, &[], &[]), "host");
        assert_eq!(decide(mode(""), true, &[], &[]), mine);
        assert_eq!(decide(mode("host"), true, &[], &[]), "host");
        for bad in
            ["what", "private", "auto:", "auto:size=0", "auto:size=x", "auto:size=4294967296", "auto:uidmapping=0:1:1"]
        {
            let got = decide(|h| h.userns_mode = bad.into(), true, &[], &[]);
            assert_eq!(got, format!("invalid user namespace mode: {bad}"));
        }
        assert!(decide(|h| h.privileged = true, true, &[], &[]).starts_with("privileged mode is incompatible"));
        assert_eq!(decide(|h| h.privileged = true, false, &[], &[]), "host");
        let of_host = |h: &mut HostConfig| (h.network_mode, h.userns_mode) = ("host".into(), "auto".into());
        assert!(decide(of_host, false, &[], &[]).starts_with("cannot share the host's network namespace"));
        assert!(
            decide(|h| h.pid_mode = "host".into(), true, &[], &[]).starts_with("cannot share the host PID namespace")
        );
    }

    #[test]
    fn who_shares_a_namespace_shares_the_ids() {
        let maps = |outside| {
            let span = vec![IdSpan { inside: 0, outside, count: 9 }];
            Some(IdMaps { uid: span.clone(), gid: span })
        };
        let other = |name: &str, users| Shared { name: name.into(), users };
        assert_eq!(decide(|_| (), true, &[other("a", None)], &[]), "host");
        assert_eq!(decide(|_| (), false, &[other("a", maps(7)), other("b", maps(7))], &[]), "0 7 9 | 0 7 9");
        assert!(decide(|_| (), true, &[other("a", maps(7)), other("b", None)], &[]).contains("do not share"));
        assert_eq!(decide(|h| h.userns_mode = "host".into(), true, &[other("a", maps(7))], &[]), "host");
        assert!(
            decide(|h| h.userns_mode = "auto".into(), true, &[other("a", None)], &[]).contains("conflicting options")
        );
    }

    #[test]
    fn every_container_gets_ids_that_nobody_has() {
        let auto = |used: &[IdMaps]| {
            let host = HostConfig { userns_mode: "auto".into(), ..HostConfig::default() };
            decide_users(&host, &user_ranges(Some("me"), &FILES).unwrap(), &[], &|| used.to_vec()).unwrap().unwrap()
        };
        let mut used: Vec<IdMaps> = Vec::new();
        for _ in 0..100 {
            used.push(auto(&used));
        }
        type Side = fn(&IdMaps) -> IdSpan;
        for (of, file) in [((|m| m.uid[0]) as Side, FILES.subuid), (|m| m.gid[0], FILES.subgid)] {
            let foreign = ranges(file, |_| true);
            for (n, one) in used.iter().map(of).enumerate() {
                let earlier = used[..n].iter().map(of);
                let clash = earlier.chain(foreign.iter().copied()).any(|other| one.shares_outside(&other));
                assert!(!clash && one.outside >= 524_288 && one.count == 65_536, "{one:?}");
            }
        }
        // What one gives back the next one gets.
        let gone = used.remove(40);
        assert_eq!(auto(&used), gone);
        // The user containers has a say; its ranges end.
        let files = Files { subuid: "containers:10:20\n", subgid: "containers:50:20\n", ..FILES };
        let ranges = user_ranges(None, &files).unwrap();
        let mode = |size: u32| HostConfig { userns_mode: format!("auto:size={size}"), ..HostConfig::default() };
        let first = decide_users(&mode(15), &ranges, &[], &Vec::new).unwrap().unwrap();
        assert_eq!(shown(&first), "0 10 15 | 0 50 15");
        let second = decide_users(&mode(5), &ranges, &[], &|| vec![first.clone()]).unwrap().unwrap();
        assert_eq!(shown(&second), "0 25 5 | 0 65 5");
        let error = decide_users(&mode(6), &ranges, &[], &|| vec![first.clone()]).unwrap_err();
        assert_eq!(error.kind(), vocab::ErrorKind::Exhausted);
    }
}
