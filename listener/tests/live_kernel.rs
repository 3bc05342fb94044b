//! Random operations on real Linux sockets and on the stack, compared step by step.
//!
//! `cargo test -p hearken-listener --test live_kernel -- --sequences 20000 --seed 7`
//!
//! Each sequence runs in a network namespace of this test's own (so it needs root, and says so where it has not).
//! Ports, addresses and sockets are few, so that conflicts are the rule. What chance decides in the kernel is followed:
//! an ephemeral port is compared by its parity, and a connection to a reuseport group is steered to the member that the
//! kernel chose, which must be one that the stack may choose.
//!
//! Under load the kernel now and then answers late. So a sequence that differs is run again on other ports, and
//! counts as a mismatch if it differs three times out of three.
//!
//! Not seen: segments (clients of both sides behave well), timers, any device but a loopback.

mod common;
mod live;

use std::process::ExitCode;
use std::time::Instant;

use live::ops::{Rng, knobs, sequence};
use live::run::{Namespace, run};

/// Sequences in one namespace: each try takes four ports below the ephemeral range.
const SEQUENCES_PER_NAMESPACE: usize = 2000;
const TRIES: usize = 3;

struct Args {
    sequences: usize,
    seed: u64,
}

fn args() -> Args {
    let mut args = Args { sequences: 1000, seed: u64::from(std::process::id()) };
    let from_clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    args.seed ^= from_clock.map_or(0, |now| now.as_nanos() as u64);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut number = || words.next().and_then(|word| word.parse().ok());
        match word.as_str() {
            "--sequences" => args.sequences = number().expect("--sequences takes a number") as usize,
            "--seed" => args.seed = number().expect("--seed takes a number"),
            // What the common test runner takes means nothing here.
            _ => {}
        }
    }
    args
}

fn main() -> ExitCode {
    let Args { sequences, seed } = args();
    println!("live_kernel: {sequences} sequences, seed {seed}");
    let worker = std::thread::spawn(move || soak(sequences, seed));
    match worker.join() {
        Ok(Ok(0)) => ExitCode::SUCCESS,
        Ok(Ok(_)) => ExitCode::FAILURE,
        Ok(Err(reason)) => {
            println!("live_kernel: SKIPPED: {reason}");
            ExitCode::SUCCESS
        }
        Err(_) => ExitCode::FAILURE,
    }
}

/// Runs in a thread of its own, because the namespace is the thread's.
fn soak(sequences: usize, seed: u64) -> Result<usize, String> {
    let (began, mut mismatches, mut late) = (Instant::now(), 0, 0);
    let mut namespace = Namespace::enter()?;
    for number in 0..sequences {
        if number % SEQUENCES_PER_NAMESPACE == SEQUENCES_PER_NAMESPACE - 1 {
            namespace = Namespace::enter()?;
        }
        let mut rng = Rng::new(seed, number as u64);
        let (knobs, ops) = (knobs(&mut rng), sequence(&mut rng));
        let mut differences = Vec::new();
        for _ in 0..TRIES {
            match run(&mut namespace, &knobs, &ops) {
                Ok(()) => break,
                Err(difference) => differences.push(difference),
            }
        }
        if differences.len() == TRIES {
            mismatches += 1;
            println!("sequence {number} of seed {seed}: {}", differences.join("\n  again: "));
            println!("  {knobs:?}");
            for (step, op) in ops.iter().enumerate() {
                println!("  {step:2} {op:?}");
            }
        } else {
            late += differences.len();
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "live_kernel: {sequences} sequences in {seconds:.1} s: {mismatches} mismatches; {late} passed when repeated"
    );
    Ok(mismatches)
}
