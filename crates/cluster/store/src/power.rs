//! Power cuts, simulated at every write: the file under the store is recorded write by write, and what a disk may hold after a
//! cut is made from the record. Everything before the last sync is there; what came after it may be there, be missing, be
//! there in another order, or be torn in the middle. From each such disk the store must open with every acknowledged
//! write, no half of a transaction, and go on.
//!
//! A slice runs with the tests; `KNARR_POWER_CUTS=N` tries N disks for each instant, `KNARR_POWER_SEED` picks others.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use redb::StorageBackend;

use crate::disk::Disk;
use crate::medium::Medium;
use crate::{Embedded, KeyValue, Op, Put, RangeRequest, Span, Store, StoreError, Test, Txn};

#[derive(Debug, Clone)]
enum Step {
    Write(u64, Vec<u8>),
    Length(u64),
    Sync,
}

#[derive(Debug, Default)]
struct State {
    now: Vec<u8>,
    steps: Vec<Step>,
    /// Nothing more is taken.
    full: bool,
}

/// A disk in memory that remembers how it came to be.
#[derive(Debug, Clone, Default)]
struct Recorder(Arc<Mutex<State>>);

fn apply(disk: &mut Vec<u8>, step: &Step) {
    match step {
        Step::Write(at, bytes) => {
            let (at, end) = (*at as usize, *at as usize + bytes.len());
            if disk.len() < end {
                disk.resize(end, 0);
            }
            disk[at..end].copy_from_slice(bytes);
        }
        Step::Length(length) => disk.resize(*length as usize, 0),
        Step::Sync => {}
    }
}

impl Recorder {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    fn holding(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Mutex::new(State { now: bytes, ..State::default() })))
    }

    fn room(&self) -> io::Result<()> {
        match self.state().full {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => Ok(()),
        }
    }

    fn record(&self, step: Step) {
        let mut state = self.state();
        apply(&mut state.now, &step);
        state.steps.push(step);
    }

    fn store(&self) -> Embedded {
        Embedded::open_disk(Disk::on(Medium::new(self.clone()))).unwrap()
    }
}

impl StorageBackend for Recorder {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state().now.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.state();
        let from = state.now.get(offset as usize..).unwrap_or_default();
        match from.get(..out.len()) {
            Some(bytes) => out.copy_from_slice(bytes),
            None => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.room()?;
        self.record(Step::Length(length));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.record(Step::Sync);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.room()?;
        self.record(Step::Write(offset, data.to_vec()));
        Ok(())
    }
}

/// Xorshift: the same disks in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n.max(1) as u64) as usize
    }
}

const SECTOR: usize = 512;

/// A disk after a cut: `steps` are those that had been taken. How what was not synced fared is `fate`: 0 all of it is
/// lost, 1 all is there, else chance decides for each write: lost, whole, torn at a sector, and in which order.
fn disk_after(steps: &[Step], fate: usize, random: &mut Random) -> Vec<u8> {
    let synced = steps.iter().rposition(|step| matches!(step, Step::Sync)).map_or(0, |at| at + 1);
    let mut disk = Vec::new();
    steps[..synced].iter().for_each(|step| apply(&mut disk, step));
    let mut rest: Vec<Step> = steps[synced..].to_vec();
    match fate {
        0 => {}
        1 => rest.iter().for_each(|step| apply(&mut disk, step)),
        _ => {
            for at in (1..rest.len()).rev() {
                rest.swap(at, random.below(at + 1));
            }
            for step in &mut rest {
                match (random.below(4), &mut *step) {
                    (0, _) => continue,
                    (1, Step::Write(_, bytes)) => bytes.truncate(random.below(bytes.len() / SECTOR + 1) * SECTOR),
                    _ => {}
                }
                apply(&mut disk, step);
            }
        }
    }
    disk
}

/// Everything a reader can ask: the newest state and the revision.
async fn look(store: &Embedded) -> (u64, Vec<KeyValue>) {
    let reply = store.range(RangeRequest::newest(Span::all())).await.unwrap();
    (reply.revision, reply.kvs)
}

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// What is done to the store; each step is acknowledged before the next.
async fn work(store: &Embedded, n: usize) {
    let key = format!("/k/{}", n % 7);
    match n % 9 {
        // Two keys in one transaction: both or none.
        0 => {
            let txn = Txn::new().then(Op::put(key, format!("{n}"))).then(Op::put("/last", format!("{n}")));
            store.txn(txn).await.unwrap();
        }
        5 => drop(store.txn(Txn::new().when(key.clone(), Test::Exists).then(Op::delete(key))).await.unwrap()),
        // Some are larger than a page of the file.
        3 => {
            let value = format!("{n}:").repeat(1500);
            let put = Put { key: key.into(), value: value.into(), lease: 0, stamp_at: Some(0) };
            store.txn(Txn::new().then(Op::Put(put))).await.unwrap();
        }
        7 => {
            let revision = store.revision().await.unwrap();
            let _ = store.compact(revision.saturating_sub(4)).await;
        }
        _ => drop(store.txn(Txn::new().then(Op::put(key, format!("{n}")))).await.unwrap()),
    }
}

#[test]
fn a_power_cut_at_any_write_loses_nothing_acknowledged() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let disk = Recorder::default();
    let mut states = Vec::new();
    // How many steps had been taken when the state was acknowledged.
    let mut acknowledged = Vec::new();
    runtime.block_on(async {
        let store = disk.store();
        states.push(look(&store).await);
        acknowledged.push(disk.state().steps.len());
        for n in 0..60 {
            work(&store, n).await;
            states.push(look(&store).await);
            acknowledged.push(disk.state().steps.len());
        }
    });
    let steps = disk.state().steps.clone();
    assert!(steps.iter().filter(|step| matches!(step, Step::Sync)).count() > 60, "every write is synced");
    let made = acknowledged[0];
    let fates = number("KNARR_POWER_CUTS", 3).max(2);
    let mut random = Random(number("KNARR_POWER_SEED", 0x9e37_79b9) as u64 | 1);
    for cut in made..=steps.len() {
        // The last state known to be durable, and the one that may be.
        let sure = acknowledged.iter().rposition(|at| *at <= cut).unwrap();
        for fate in 0..fates {
            let opened = Recorder::holding(disk_after(&steps[..cut], fate, &mut random));
            let store = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| opened.store()))
                .unwrap_or_else(|_| panic!("not opened after step {cut}, fate {fate}"));
            let found = runtime.block_on(look(&store));
            let may = states.get(sure + 1).unwrap_or(&states[sure]);
            assert!(
                found == states[sure] || found == *may,
                "after step {cut}, fate {fate}: at {} instead of {} or {}",
                found.0,
                states[sure].0,
                may.0
            );
            if fate == fates - 1 {
                let reply = runtime.block_on(store.txn(Txn::new().then(Op::put("/again", "1")))).unwrap();
                assert_eq!(reply.revision, found.0 + 1, "it goes on where it was");
            }
        }
    }
}

#[test]
fn a_disk_that_lies_about_a_sync_is_found_out_by_this_test() {
    // The same cut, on a disk whose syncs do nothing: were the test blind to loss, this would pass as well.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let disk = Recorder::default();
    let (made, newest) = runtime.block_on(async {
        let store = disk.store();
        let made = disk.state().steps.len();
        for n in 0..10 {
            work(&store, n).await;
        }
        (made, look(&store).await)
    });
    let steps = disk.state().steps.clone();
    let without: Vec<Step> = steps
        .iter()
        .enumerate()
        .filter(|(at, step)| *at < made || !matches!(step, Step::Sync))
        .map(|(_, step)| step.clone())
        .collect();
    let opened = Recorder::holding(disk_after(&without, 0, &mut Random(1)));
    assert_ne!(runtime.block_on(look(&opened.store())), newest);
}

#[test]
fn what_failed_is_forgotten_and_what_was_acknowledged_is_not() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let disk = Recorder::default();
    let store = disk.store();
    runtime.block_on(async {
        for n in 0..20 {
            work(&store, n).await;
        }
        let put = || store.txn(Txn::new().then(Op::put("/again", "1")));
        for _ in 0..3 {
            let before = look(&store).await;
            disk.state().full = true;
            assert!(matches!(put().await, Err(StoreError::Full { .. })));
            assert!(put().await.is_err());
            disk.state().full = false;
            assert_eq!(look(&store).await, before);
            assert_eq!(put().await.map(|reply| reply.revision), Ok(before.0 + 1));
        }
        store.lease_grant(0, 60).await.unwrap();
    });
    let now = runtime.block_on(look(&store));
    drop(store);
    assert_eq!(runtime.block_on(look(&disk.store())), now);
}

/// Bytes of a small store changed, one at a time: it opens with what was written and goes on, or it is refused. Never a panic: in a
/// release build that would end the process.
fn change_each_byte(whole: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let written = runtime.block_on(look(&Recorder::holding(whole.to_vec()).store()));
    // Pages that were never written hold zeros only; a few of those bytes will do.
    let interesting = |at: usize| whole[at] != 0 || at.is_multiple_of(4099);
    let mut refused = 0;
    for at in (0..whole.len()).filter(|at| interesting(*at)).step_by(number("KNARR_CORRUPT_STEP", 7)) {
        let mut bytes = whole.to_vec();
        bytes[at] ^= 0x41;
        match Embedded::open_disk(Disk::on(Medium::new(Recorder::holding(bytes)))) {
            Ok(store) => {
                assert_eq!(runtime.block_on(look(&store)), written, "byte {at} changed what is read");
                let reply = runtime.block_on(store.txn(Txn::new().then(Op::put("/again", "1"))));
                assert_eq!(reply.map(|reply| reply.revision), Ok(written.0 + 1), "byte {at}");
            }
            Err(error) => {
                refused += 1;
                assert!(error.to_string().contains("memory"), "{error}");
            }
        }
    }
    assert!(refused > 0);
}

/// A store with some writes, as its file is while it runs and after it was closed.
fn small_store() -> (Vec<u8>, Vec<u8>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let disk = Recorder::default();
    let running = runtime.block_on(async {
        let store = disk.store();
        for n in 0..20 {
            work(&store, n).await;
        }
        disk.state().now.clone()
    });
    let closed = disk.state().now.clone();
    (running, closed)
}

#[test]
fn a_changed_byte_is_an_error_at_worst() {
    change_each_byte(&small_store().1);
}

#[test]
fn a_changed_byte_is_an_error_at_worst_after_a_kill_too() {
    change_each_byte(&small_store().0);
}
