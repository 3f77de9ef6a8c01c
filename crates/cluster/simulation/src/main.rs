//! Runs seeds and says which did not keep a promise. `scripts/simulate` builds and calls it.

use std::io::{IsTerminal as _, Write as _};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use simulation::{Failure, Options, Weakness, run};

const USAGE: &str =
    "Usage: simulate [--seed N [--log]] [--seeds A..B] [--minutes M] [--jobs J] [--keep-going] [--weaken PART]

  --seed N       run one seed; --log prints everything that happens
  --seeds A..B   run these seeds
  --minutes M    run seeds for so long, beginning with those that nobody has run (or with A of --seeds)
  --jobs J       at a time; the number of processors unless said otherwise
  --keep-going   do not stop at the first failure
  --weaken PART  put a fault into a part, to see which seeds find it";

struct Asked {
    first: u64,
    end: u64,
    until: Option<Instant>,
    jobs: usize,
    keep_going: bool,
    log: bool,
    one: bool,
    weakness: Option<Weakness>,
}

fn parse(arguments: &[String]) -> Result<Asked, String> {
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let mut asked =
        Asked { first: 0, end: 500, until: None, jobs, keep_going: false, log: false, one: false, weakness: None };
    let mut words = arguments.iter();
    let mut ranged = false;
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} wants a value"));
        let number = |text: &str| text.parse::<u64>().map_err(|error| format!("{text}: {error}"));
        match word.as_str() {
            "--seed" => {
                asked.first = number(value()?)?;
                (asked.end, asked.one, ranged) = (asked.first + 1, true, true);
            }
            "--seeds" => {
                let text = value()?;
                let (first, end) = text.split_once("..").ok_or_else(|| format!("{text}: want A..B"))?;
                (asked.first, asked.end, ranged) = (number(first)?, number(end)?, true);
            }
            "--minutes" => asked.until = Some(Instant::now() + Duration::from_secs(60 * number(value()?)?)),
            "--jobs" => asked.jobs = number(value()?)?.max(1) as usize,
            "--keep-going" => asked.keep_going = true,
            "--log" => asked.log = true,
            "--weaken" => {
                let name = value()?;
                let found = Weakness::ALL.iter().find(|weakness| format!("{weakness:?}") == *name);
                asked.weakness = Some(*found.ok_or_else(|| format!("{name}: want one of {:?}", Weakness::ALL))?);
            }
            _ => return Err(format!("unknown: {word}")),
        }
    }
    if asked.until.is_some() {
        if !ranged {
            // Another part of the numbers each time, and named with every failure.
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            asked.first = now.as_secs() * 1000;
        }
        asked.end = u64::MAX;
    }
    Ok(asked)
}

thread_local! {
    static RUNS: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

fn main() -> std::process::ExitCode {
    // A panic ends the process; it has to name its seed.
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        eprintln!("\nseed {} panics:", RUNS.get());
        usual(panic);
    }));
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let asked = match parse(&arguments) {
        Ok(asked) => asked,
        Err(why) => {
            eprintln!("simulate: {why}\n\n{USAGE}");
            return std::process::ExitCode::from(2);
        }
    };
    let began = Instant::now();
    let (next, done, writes, virtual_secs) =
        (AtomicU64::new(asked.first), AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let failures: Mutex<Vec<Failure>> = Mutex::default();
    let failed = || failures.lock().map_or(0, |failures| failures.len());
    let progress = || {
        let secs = began.elapsed().as_secs_f64();
        let count = done.load(Ordering::Relaxed);
        format!(
            "{count} seeds in {secs:.0} s ({:.1}/s), {} writes, {} virtual hours, {} failed",
            count as f64 / secs,
            writes.load(Ordering::Relaxed),
            virtual_secs.load(Ordering::Relaxed) / 3600,
            failed()
        )
    };
    std::thread::scope(|scope| {
        for _ in 0..asked.jobs {
            scope.spawn(|| {
                loop {
                    let over = asked.until.is_some_and(|until| Instant::now() >= until);
                    if over || failed() > 0 && !asked.keep_going {
                        return;
                    }
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= asked.end {
                        return;
                    }
                    RUNS.set(seed);
                    match run(seed, &Options { keep_log: asked.one, weakness: asked.weakness }) {
                        Ok(report) => {
                            writes.fetch_add(report.writes, Ordering::Relaxed);
                            virtual_secs.fetch_add(report.virtual_time.as_secs(), Ordering::Relaxed);
                            if asked.log {
                                report.log.iter().for_each(|line| println!("{line}"));
                            }
                        }
                        Err(failure) => {
                            eprintln!("\n{failure}\n");
                            failures.lock().expect("nobody panics while holding it").push(failure);
                        }
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                    if std::io::stderr().is_terminal() {
                        eprint!("\r{} ", progress());
                        let _ = std::io::stderr().flush();
                    }
                }
            });
        }
    });
    println!("\r{}", progress());
    let failures = failures.into_inner().unwrap_or_default();
    for failure in &failures {
        println!("  seed {}: {}", failure.seed, failure.why.lines().take(3).collect::<Vec<_>>().join(" "));
    }
    std::process::ExitCode::from(u8::from(!failures.is_empty()))
}
