//! `osps page`: a live page of one instance, for people and for what scrapes it.
//!
//! ```text
//! model    what is shown, and what is new of it
//! look     the one who looks, for all who follow; they never hold him up
//! graph    who needs whom, and where it is drawn
//! ask      what a request may: pure
//! html     the page, complete without its script;  page.css  page.js
//! server   connections and their limits
//! ```
//!
//! A process of its own that reads and changes nothing: the watchdog knows nothing of it, and it
//! works when the watchdog is dead. Whoever reaches its port sees summaries; whole reports need the
//! token. Tested in tests/page.rs, and in a real browser in tests/browser.

mod ask;
mod graph;
mod html;
mod look;
mod model;
mod server;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use self::ask::Rules;
use self::look::Board;
use self::server::{CONNECTIONS, Server};
use crate::error::{Error, Invalid};
use crate::instance::place::Place;
use crate::sys::{Failed, output, process};

/// What the operator wants.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Where it listens.
    pub listen: SocketAddr,
    /// That may be where other machines reach it.
    pub allow_remote: bool,
    /// Further names that it has.
    pub hosts: Vec<String>,
}

/// Serves the page for ever.
pub fn main(place: Place, wanted: Wanted) -> Result<ExitCode, Error> {
    let Wanted { listen, allow_remote, hosts } = wanted;
    if !listen.ip().is_loopback() && !allow_remote {
        let why = "other machines reach that, and whoever does sees names, pids and sentences of \
                   reports: say --allow-remote as well, or let a proxy ask for passwords";
        let (option, value) = ("--listen", listen.to_string());
        return Err(Invalid { option, value, why: why.to_owned() }.into());
    }
    let failed = |answer| Failed::to("listen on", listen)(answer);
    process::raise_descriptor_limit();
    if process::descriptor_limit().is_some_and(|limit| limit < CONNECTIONS as u64 + 50) {
        log::warn!("the limit of open descriptors is too low for {CONNECTIONS} connections");
    }
    let token = random().map_err(|answer| Failed::to("make", "a token")(answer))?;
    let board = Arc::new(Board::new(place));
    let looker = Arc::clone(&board);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(failed)?;
    let listener = runtime.block_on(server::listen(listen)).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    std::thread::Builder::new()
        .name("looker".to_owned())
        .spawn(move || looker.watch())
        .map_err(Failed::to("start", "the thread that looks"))?;
    let url = format!("http://{address}/?token={token}\n");
    output::print(url.as_bytes());
    let server = Arc::new(Server { board, rules: Rules { token, hosts } });
    runtime.block_on(server.serve(listener));
    Ok(ExitCode::SUCCESS)
}

/// What nobody can guess: 128 bits, as text.
fn random() -> std::io::Result<String> {
    let mut bytes = [0; 16];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(format!("{:032x}", u128::from_le_bytes(bytes)))
}
