//! The range of addresses that services have, and the link on which this machine answers some of them itself.
//!
//! Every cloud of a machine has a range of its own: where two had one, nobody could say whose service a process of the host
//! asks for. The range's route stands on a link of the cloud's, which nothing is attached to: a machine without a way out
//! reaches services by it, others see that the range is taken, and all of it goes with the link.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use linux::netlink::Socket;

use crate::{Block, block};

/// As everybody in this network namespace who chooses addresses calls it.
const CHOOSING: &[u8] = b"knarr-chooses-subnets";
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum GroundError {
    #[error("all ranges for services are in use; name one with --service-cidr")]
    Exhausted,
    #[error("somebody else keeps choosing addresses")]
    Busy,
    #[error("{action} {path}")]
    File { action: &'static str, path: String, source: std::io::Error },
    #[error(transparent)]
    Kernel(#[from] linux::Error),
}

/// Fifteen bytes at most; the tag has eight.
pub fn link_name(tag: &str) -> String {
    format!("c{tag}-svc")
}

/// The range's address with this number.
pub fn nth(range: &Block, number: u32) -> IpAddr {
    block::address(range.ends().0 + u128::from(number), range.is_ipv4())
}

/// Where ranges are looked for. The cloud at the usual place has what people expect. The others have room for sixteen thousand
/// services, or, where so many run on one machine that those are in use, for four thousand; each begins elsewhere.
fn candidates(tag: &str, usual: bool) -> impl Iterator<Item = Block> + use<> {
    let first = usual.then(|| "10.96.0.0/16".to_owned());
    let parts = |seconds: std::ops::Range<u32>, prefix: u32| -> Vec<String> {
        let step = 1 << (24 - prefix);
        seconds
            .flat_map(|second| (0..256 / step).map(move |part| format!("10.{second}.{}.0/{prefix}", part * step)))
            .collect()
    };
    let hash = tag.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let elsewhere = move |mut all: Vec<String>| {
        let begin = hash as usize % all.len();
        all.rotate_left(begin);
        all
    };
    let (large, small) = (elsewhere(parts(97..108, 18)), elsewhere(parts(108..112, 20)));
    first.into_iter().chain(large).chain(small).filter_map(|text| Block::parse(&text))
}

fn overlap(one: &Block, other: &Block) -> bool {
    one.contains(other.first()) || other.contains(one.first())
}

/// Chooses the range and lays its link: what was asked for, what the file remembers, or what nobody uses. `source` is the
/// address that this machine asks services from, `own` are numbers of addresses that it answers itself.
pub fn lay(
    tag: &str,
    usual: bool,
    file: &Path,
    asked: Option<Block>,
    source: Option<IpAddr>,
    own: &[u32],
) -> Result<Block, GroundError> {
    let began = Instant::now();
    let _choosing = loop {
        match linux::net::claim(CHOOSING) {
            Ok(claim) => break claim,
            Err(error) if !error.is(linux::Errno::ADDRINUSE) => return Err(error.into()),
            Err(_) if began.elapsed() > PATIENCE => return Err(GroundError::Busy),
            Err(_) => std::thread::sleep(Duration::from_millis(2)),
        }
    };
    let mut route = Socket::route()?;
    let name = link_name(tag);
    let before = route.link(&name)?;
    let remembered = fs::read_to_string(file).ok().and_then(|text| Block::parse(&text));
    let taken: Vec<Block> =
        route.destinations()?.into_iter().filter_map(|(to, prefix)| Block::of(to, prefix)).collect();
    let free = |range: &Block| !taken.iter().any(|other| other.prefix() > 0 && overlap(range, other));
    let range = match (asked, remembered) {
        (Some(asked), _) => asked,
        // Services have their addresses for good. Another cloud that took the range meanwhile is told of.
        (None, Some(remembered)) => {
            if before.is_none() && !free(&remembered) {
                tracing::warn!(range = %remembered, "the range of services is also somebody else's on this machine");
            }
            remembered
        }
        (None, None) => candidates(tag, usual).find(free).ok_or(GroundError::Exhausted)?,
    };
    let failed = |action| move |source| GroundError::File { action, path: file.display().to_string(), source };
    if let Some(directory) = file.parent() {
        fs::create_dir_all(directory).map_err(failed("make the directory of"))?;
    }
    fs::write(file, range.to_string()).map_err(failed("write"))?;
    let link = match before {
        Some(link) => link,
        None => {
            route.add_bridge(&name, None, None)?;
            let gone = || linux::Error::new("netlink", format_args!("find link {name}"), linux::Errno::NODEV);
            route.link(&name)?.ok_or_else(gone)?
        }
    };
    // Nobody speaks there.
    let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1");
    let have = route.addresses()?;
    for number in own {
        let address = nth(&range, *number);
        let whole = if address.is_ipv4() { 32 } else { 128 };
        if !have.contains(&(link.index, address, whole)) {
            route.add_address(link.index, address, whole)?;
        }
    }
    route.add_range(range.first(), range.prefix(), link.index, source)?;
    Ok(range)
}

/// Takes the link away, and with it addresses and route; no error where there is none.
pub fn remove(tag: &str) -> Result<(), GroundError> {
    let mut route = Socket::route()?;
    if let Some(link) = route.link(&link_name(tag))? {
        match route.delete_link(link.index) {
            Err(error) if error.is(linux::Errno::NODEV) => {}
            other => other?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_cloud_has_the_usual_range_and_others_begin_elsewhere() {
        let first = |tag: &str, usual| candidates(tag, usual).next().unwrap().to_string();
        assert_eq!(first("0123abcd", true), "10.96.0.0/16");
        assert_ne!(first("0123abcd", false), first("0123abce", false));
        let all: Vec<Block> = candidates("0123abcd", true).collect();
        let rooms: Vec<(u8, usize)> = all
            .chunk_by(|one, next| one.prefix() == next.prefix())
            .map(|part| (part[0].prefix(), part.len()))
            .collect();
        assert_eq!(rooms, [(16, 1), (18, 44), (20, 64)]);
        let own = Block::parse("10.96.0.0/12").unwrap();
        assert!(all.iter().all(|one| own.contains(one.first())));
        for (at, one) in all.iter().enumerate() {
            assert!(!all[at + 1..].iter().any(|other| overlap(one, other)), "{one}");
        }
        assert_eq!(nth(&all[0], 10).to_string(), "10.96.0.10");
        assert!(link_name("0123abcd").len() <= 15);
    }
}
