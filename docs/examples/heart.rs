//! A Rust program for `osps run`: a loop that works, beats, and stops when told to.
//!
//! `cargo build --release --examples && osps run -- target/release/examples/heart`
//! With `--hang-after SECONDS` it stops beating after a while, to see it being replaced.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "a program of its own, outside the seams"
)]

use std::time::{Duration, Instant};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let hang_after = match (args.next().as_deref(), args.next()) {
        (Some("--hang-after"), Some(seconds)) => Some(Duration::from_secs_f64(seconds.parse()?)),
        _ => None,
    };
    let started = Instant::now();
    let mut heart = match osps_heart::Heart::from_env() {
        Ok(heart) => heart,
        Err(why) => {
            eprintln!("heart: {why}");
            std::process::exit(2);
        }
    };
    while !heart.should_stop() {
        // One turn of work, shorter than the hang timeout, stands here.
        std::thread::sleep(heart.beat_interval());
        while hang_after.is_some_and(|after| started.elapsed() >= after) {
            std::hint::spin_loop();
        }
        heart.beat();
    }
    Ok(())
}
