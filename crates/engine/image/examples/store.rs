//! Drives the store by hand, for measuring: `store ROOT load ARCHIVE`, `store ROOT save NAME FILE`, `store ROOT list`,
//! `store ROOT remove NAME`, `store ROOT check`. Prints what happened, wall time, CPU time and peak memory.

use std::fs::File;
use std::time::Instant;

use image::{ListFilter, LoadOptions, Options, Store};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let [root, verb, rest @ ..] = args.as_slice() else { return Err("usage: store ROOT VERB ...".into()) };
    let root = std::path::Path::new(root);
    std::fs::create_dir_all(root)?;
    let start = Instant::now();
    let store = Store::open(root, db::Db::open(&root.join("knarr.db"))?, Options::default())?;
    println!("open {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
    let start = Instant::now();
    match (*verb, rest) {
        ("load", [archive]) => {
            let mut input: Box<dyn std::io::Read + Send> =
                if *archive == "-" { Box::new(std::io::stdin()) } else { Box::new(File::open(archive)?) };
            let loaded = store.load(&mut input, &LoadOptions::default(), &|_| {})?;
            println!("{loaded:#?}");
        }
        ("save", [name, file]) => store.save(&[(*name).to_owned()], &mut File::create(file)?)?,
        ("list", []) => println!("{:#?}", store.list(&ListFilter::default())?),
        ("remove", [name]) => println!("{:#?}", store.remove(name, Default::default(), &|_| false)?),
        ("check", []) => println!("{:#?}", store.check(true)?),
        ("export", [name, file]) => {
            let id = store.resolve(name)?;
            store.prepare("example", &id)?;
            store.export("example", &mut File::create(file)?)?;
            store.remove_snapshot("example")?;
        }
        _ => return Err("unknown verb".into()),
    }
    println!("{verb} {:.2} s", start.elapsed().as_secs_f64());
    let status = std::fs::read_to_string("/proc/self/status")?;
    println!("{}", status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default());
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    println!("CPU user {} ms, system {} ms", fields[11].parse::<u64>()? * 10, fields[12].parse::<u64>()? * 10);
    Ok(())
}
