//! Readers of what others send, given mutated samples: none panics, hangs, or takes more memory than a bound.
//!
//! Each target of fuzz/targets.rs runs in its own process with a limited address space, so that huge allocations, stack
//! overflows and aborts are found like panics. Inputs follow from a seed:
//!
//! - `SLUICE_FUZZ_SEED`: the first one; the same without it.
//! - `SLUICE_FUZZ_SECONDS`: for all targets together, a minute without it.
//!
//! A failure names the seed of its input and the file that holds it.

mod mutate;
mod samples;
#[path = "../../../../fuzz/targets.rs"]
mod targets;

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustix::process::{Resource, Rlimit, setrlimit};
use sluice::planner::TASK_STACK_BYTES;

use self::targets::{TARGETS, Target};

const SECONDS: u64 = 60;
const TARGET: &str = "SLUICE_FUZZ_TARGET";
/// What an input may take beyond what the process has when it begins, bytes. The planner's stack alone has 256 MiB.
const ADDRESS_SPACE: u64 = 1 << 30;
/// How much longer than its time a process may take; one input takes far less.
const EXTRA_TIME: Duration = Duration::from_secs(60);

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable)
        .ok()
        .map_or(default, |text| text.parse().expect("a number"))
}

fn input_file(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{target}"))
}

/// The input of a seed.
fn input_of(seed: u64, samples: &[Vec<u8>]) -> Vec<u8> {
    let mut random = StdRng::seed_from_u64(seed);
    let first = random.random_range(0..samples.len());
    let other = random.random_range(0..samples.len());
    mutate::mutated(&samples[first], &samples[other], &mut random)
}

#[test]
fn readers_take_any_bytes() {
    let each = number("SLUICE_FUZZ_SECONDS", SECONDS) / TARGETS.len() as u64;
    let failures: Vec<String> = TARGETS
        .into_iter()
        .filter_map(|(name, _)| run_apart(name, Duration::from_secs(each.max(1))))
        .collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Runs a target in a process of its own; what it failed with.
fn run_apart(name: &str, time: Duration) -> Option<String> {
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .args(["fuzz::one_target_in_this_process", "--exact", "--nocapture"])
        .env(TARGET, name)
        .env("SLUICE_FUZZ_SECONDS", time.as_secs().to_string())
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut said = child.stderr.take().expect("it is piped");
    let reader = std::thread::spawn(move || {
        let mut text = Vec::new();
        // Non-UTF-8 bytes are shown escaped.
        let _ = said.read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    });
    let deadline = Instant::now() + time + EXTRA_TIME;
    let ended = loop {
        match child.try_wait().expect("it is ours") {
            Some(status) => break Some(status),
            None if Instant::now() > deadline => break None,
            None => std::thread::sleep(Duration::from_millis(50)),
        }
    };
    if ended.is_none() {
        child.kill().expect("it is ours");
        child.wait().expect("it is ours");
    }
    let text = reader.join().expect("it only reads");
    let tail: Vec<&str> = text.lines().rev().take(12).collect();
    let tail: Vec<&str> = tail.into_iter().rev().collect();
    if ended.is_some_and(|status| status.success()) {
        eprintln!(
            "{name}: {}",
            tail.iter().find(|line| line.contains("inputs")).unwrap_or(&"")
        );
        return None;
    }
    let seed = std::fs::read_to_string(input_file(name).with_extension("seed")).unwrap_or_default();
    Some(format!(
        "{name}: {} with the input of SLUICE_FUZZ_SEED={seed}, which {} holds\n{}",
        ended.map_or("it hangs".to_owned(), |status| status.to_string()),
        input_file(name).with_extension("input").display(),
        tail.join("\n")
    ))
}

/// What [`run_apart`] starts; alone it does nothing.
#[test]
fn one_target_in_this_process() {
    let Ok(name) = std::env::var(TARGET) else {
        return;
    };
    let target = TARGETS
        .into_iter()
        .find(|(other, _)| *other == name)
        .expect("a target");
    let run = std::thread::Builder::new().stack_size(TASK_STACK_BYTES);
    let run = run.spawn(move || run_target(target)).expect("a thread");
    run.join().expect("it found nothing");
}

fn run_target((name, target): Target) {
    let samples = samples::of(name);
    assert!(!samples.is_empty(), "{name} has no sample");
    for sample in &samples {
        target(sample);
    }
    let limit = virtual_bytes().saturating_add(ADDRESS_SPACE);
    setrlimit(
        Resource::As,
        Rlimit {
            current: Some(limit),
            maximum: Some(limit),
        },
    )
    .expect("it may be lowered");
    // Readers catch panics as part of their work: do not print them.
    std::panic::set_hook(Box::new(|_| {}));
    // Overwrites the file: creating it anew takes longer.
    let [of_input, of_seed] =
        ["input", "seed"].map(|end| File::create(input_file(name).with_extension(end)).expect("a file"));
    let first = number("SLUICE_FUZZ_SEED", 1);
    let end = Instant::now() + Duration::from_secs(number("SLUICE_FUZZ_SECONDS", SECONDS));
    let mut inputs = 0;
    for seed in first.. {
        let input = input_of(seed, &samples);
        of_input.write_all_at(&input, 0).expect("a file");
        of_input.set_len(input.len() as u64).expect("a file");
        of_seed
            .write_all_at(seed.to_string().as_bytes(), 0)
            .expect("a file");
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(&input))) {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            let text = text.unwrap_or_default();
            let _ = writeln!(std::io::stderr(), "panicked: {text}");
            std::process::exit(101);
        }
        inputs += 1;
        if Instant::now() > end {
            break;
        }
    }
    let _ = writeln!(std::io::stderr(), "{inputs} inputs from seed {first}");
}

/// The size of this process's address space.
fn virtual_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("on Linux");
    let size = status.lines().find_map(|line| line.strip_prefix("VmSize:"));
    let kilobytes = size.and_then(|text| text.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kilobytes.expect("a size") << 10
}
