//! Measures durable commits: `commits FILE COUNT THREADS`.

use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().collect();
    let (path, count, threads): (_, u64, u64) = (&args[1], args[2].parse()?, args[3].parse()?);
    const RECORDS: db::Table<u64, String> = db::Table::new("records");
    let start = Instant::now();
    let db = db::Db::open(path.as_ref())?;
    println!("open {:.2} ms", start.elapsed().as_secs_f64() * 1e3);
    let start = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let db = &db;
            scope.spawn(move || {
                for n in 0..count {
                    let written = db.write(|txn| txn.put(&RECORDS, &(thread * count + n), &"x".repeat(2000)));
                    written.expect("the disk takes it");
                }
            });
        }
    });
    let seconds = start.elapsed().as_secs_f64();
    let all = count * threads;
    println!(
        "{all} commits in {seconds:.2} s: {:.2} ms each, {:.0}/s",
        seconds * 1e3 / count as f64,
        all as f64 / seconds
    );
    println!("{} bytes on disk", db.size_bytes()?);
    Ok(())
}
