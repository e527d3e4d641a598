//! Goal: what was acknowledged stays, whoever dies; one process at a time owns the data; clients
//! are served by the course's protocol and by RESP, and no client can harm another.
//!
//! Method: black box. The real binary, raw sockets, real signals. The big tests draw faults from a
//! seed, which is printed; `OSPS_SEED` draws the same faults again. What the servers must not do
//! behind everybody's back is watched from outside, in the segment.
//!
//! What it cannot show: the same interleaving twice (tests/ownership plays
//! those), an epoch that lived shorter than a look at it, and clients on other hosts.
#![allow(clippy::unwrap_used, reason = "a test that fails panics")]
#![allow(clippy::print_stderr, reason = "a test tells its seed")]
#![allow(clippy::disallowed_methods, reason = "these tests run in real time")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use osps::pair::link::{tube_down, tube_up};
use osps::pair::wire::{self, Frame, FrameKind};
use osps::sys::process::Process;
use osps_heart::ids::{Epoch, Generation, Owner, SlotId};
use osps_heart::segment::{Access, Segment};
use osps_heart::sync::Ordering;
use osps_heart::words::State;

use common::{
    Client, Launch, NO_RESTARTS, NOBODY, Osps, PRIMARY, READ_ONLY, Random, SECONDARY, SOON, Signal,
    Talk, fifo, ms, pass, port, process_in, resident, ticks, told_seed, wait_until, watch_owner,
};

// ---- Clients ----

/// The course's way: ask the primary, get a port, connect there.
fn session(osps: &Osps, word: &str) -> Client {
    let mut dispatcher = osps.client(PRIMARY);
    dispatcher.send(word.as_bytes());
    Client::to(port(&dispatcher.bare_once().unwrap()))
}

fn start(args: &[&str]) -> Osps {
    let osps = Launch::pair(args).start();
    osps.wait_linked();
    osps
}

fn assert_no_restarts(osps: &Osps) {
    for slot in 0..osps.segment().slots().len() {
        assert_eq!(osps.restarts(slot), NO_RESTARTS, "slot {slot}\n{}", osps.log());
    }
}

fn owner(osps: &Osps) -> Owner {
    osps.segment().owner().current()
}

// ---- 1. Nothing lost, while everything dies ----

/// What one client did, and what came of it.
#[derive(Debug, Default)]
struct Deeds {
    own_acknowledged: i64,
    own_unknown: i64,
    shared_acknowledged: Vec<i64>,
    shared_unknown: i64,
    set_acknowledged: i64,
    set_sent: i64,
    /// The highest value seen of own, shared, set.
    seen: [i64; 3],
    cuts: usize,
    read_only: usize,
}

impl Deeds {
    /// A value was read or came back from a write: none ever goes back.
    fn see(&mut self, which: usize, value: i64, rises: bool) -> Result<(), String> {
        let seen = self.seen[which];
        let goes_back = if rises { value <= seen } else { value < seen };
        if goes_back {
            return Err(format!("{} went from {seen} to {value}", ["own", "shared", "set"][which]));
        }
        self.seen[which] = value;
        Ok(())
    }

    /// Some requests over one connection. An `Err` is a fault of osps.
    fn use_connection(
        &mut self,
        number: usize,
        client: &mut Client,
        random: &mut Random,
    ) -> Result<(), String> {
        for _ in 0..=random.below(30) {
            let kind = random.below(6);
            let request = match kind {
                0 => format!("INCR own{number}"),
                1 => "INCR shared".to_owned(),
                2 => {
                    self.set_sent += 1;
                    format!("SET set{number} {}", self.set_sent)
                }
                3 => format!("GET own{number}"),
                4 => "GET shared".to_owned(),
                _ => format!("GET set{number}"),
            };
            let reply = match client.try_ask(&request) {
                Ok(reply) => reply,
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    return Err(format!("{request}: no answer within {SOON:?}"));
                }
                Err(_) => {
                    self.cuts += 1;
                    self.own_unknown += i64::from(kind == 0);
                    self.shared_unknown += i64::from(kind == 1);
                    return Ok(());
                }
            };
            if reply == READ_ONLY && kind < 3 {
                // The secondary that was to expect us was replaced meanwhile.
                self.read_only += 1;
                return Ok(());
            }
            let number = reply.trim_start_matches(':').parse::<i64>();
            match (kind, number) {
                (0, Ok(value)) => {
                    self.own_acknowledged += 1;
                    self.see(0, value, true)?;
                }
                (1, Ok(value)) => {
                    self.shared_acknowledged.push(value);
                    self.see(1, value, true)?;
                }
                (2, Err(_)) if reply == "+OK" => {
                    self.set_acknowledged = self.set_sent;
                    self.see(2, self.set_sent, false)?;
                }
                (3..=5, Ok(value)) => self.see(kind - 3, value, false)?,
                (3..=5, Err(_)) if reply == "(nil)" => self.see(kind - 3, 0, false)?,
                _ => return Err(format!("{request}: {reply}")),
            }
        }
        Ok(())
    }

    fn attempt(
        &mut self,
        number: usize,
        primary: SocketAddr,
        random: &mut Random,
    ) -> Result<(), String> {
        // A connection may be cut, but never refused.
        let connect = |address| Client::try_to(address).map_err(|error| format!("{error}"));
        let mut client = connect(primary)?;
        if random.below(3) == 0 {
            return self.use_connection(number, &mut client, random);
        }
        client.send(b"requetetype2");
        let reply = match client.bare_once() {
            Ok(reply) => reply,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Err(format!("no port within {SOON:?}"));
            }
            Err(_) => return Ok(()),
        };
        if reply == NOBODY {
            std::thread::sleep(ms(5));
            return Ok(());
        }
        let Ok(port) = reply.parse::<u16>() else { return Err(format!("port {reply:?}")) };
        let mut client = connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
        self.use_connection(number, &mut client, random)
    }
}

/// Strikes a server now and then.
fn draw_faults(osps: &Osps, slots: usize, span: Duration, random: &mut Random, talk: &Talk) {
    let end = Instant::now() + span;
    while Instant::now() < end && !talk.is_over() {
        let pause = Instant::now() + ms(100 + random.next() % 600);
        // The primary takes everybody with it: not too often.
        let slot = if random.below(3) == 0 { PRIMARY } else { 1 + random.below(slots - 1) };
        let fault = random.below(4);
        wait_until("the next fault", SOON, || (Instant::now() >= pause).then_some(()));
        let Some(process) = process_in(&osps.segment(), slot) else { continue };
        let signal = match fault {
            0 => {
                if let Ok(mut client) = Client::try_to(osps.address(slot)) {
                    let _ = client.stream.get_mut().write_all(b"DEBUG SPIN\r\n");
                }
                continue;
            }
            1 => Signal::STOP,
            _ => Signal::KILL,
        };
        // It may have gone by itself.
        let _ = rustix::process::pidfd_send_signal(process.as_fd(), signal);
    }
}

fn check_nothing_lost(workers: &str, clients: usize) {
    let seed = told_seed(&format!("{workers} workers"));
    let osps = start(&["--workers", workers, "--hang-timeout", "500ms", "--allow-debug"]);
    let primary = osps.address(PRIMARY);
    let slots = osps.segment().slots().len();
    let talk = Talk::default();
    let (deeds, owners) = std::thread::scope(|scope| {
        let talk = &talk;
        let threads: Vec<_> = (0..clients)
            .map(|number| {
                scope.spawn(move || {
                    let mut random = Random::new(seed.wrapping_add(number as u64 + 1));
                    let mut deeds = Deeds::default();
                    while !talk.is_over() {
                        if let Err(wrong) = deeds.attempt(number, primary, &mut random) {
                            talk.complain(format!("client {number}: {wrong}"));
                        }
                    }
                    deeds
                })
            })
            .collect();
        let osps = &osps;
        let watcher = scope.spawn(move || watch_owner(&osps.segment(), talk));
        draw_faults(osps, slots, ms(6000), &mut Random::new(seed), talk);
        talk.over.store(1, Ordering::Relaxed);
        let deeds: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        (deeds, watcher.join().unwrap())
    });
    let wrong = talk.wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "seed {seed}: {wrong:#?}\n{}", osps.log());
    // The last fault may still be in the making.
    let mut client = wait_until("an answer", SOON, || {
        let mut client = Client::try_to(primary).ok()?;
        (client.try_ask("INCR end").is_ok()).then_some(client)
    });
    let mut value = |key: &str| match client.ask(&format!("GET {key}")).as_str() {
        "(nil)" => 0,
        number => number.parse::<i64>().unwrap(),
    };
    let (mut all, mut unknown) = (Vec::new(), 0);
    for (number, deeds) in deeds.iter().enumerate() {
        let own = value(&format!("own{number}"));
        let most = deeds.own_acknowledged + deeds.own_unknown;
        assert!((deeds.own_acknowledged..=most).contains(&own), "seed {seed}: {own}, {deeds:?}");
        let set = value(&format!("set{number}"));
        let possible = deeds.set_acknowledged..=deeds.set_sent;
        assert!(possible.contains(&set), "seed {seed}: set is {set}, {deeds:?}");
        all.extend_from_slice(&deeds.shared_acknowledged);
        unknown += deeds.shared_unknown;
    }
    let acknowledged = i64::try_from(all.len()).unwrap();
    let shared = value("shared");
    let possible = acknowledged..=acknowledged + unknown;
    assert!(possible.contains(&shared), "seed {seed}: shared is {shared}, expected {possible:?}");
    let distinct: BTreeSet<_> = all.iter().collect();
    assert_eq!(distinct.len(), all.len(), "seed {seed}: one value acknowledged twice");
    let cuts: usize = deeds.iter().map(|deeds| deeds.cuts).sum();
    eprintln!("{acknowledged} shared, {cuts} cuts, {} epochs seen", owners.len());
    assert!(acknowledged > 100 && cuts > 0 && owners.len() > 5, "nothing happened: {deeds:?}");
}

#[test]
fn nothing_is_lost_with_one_worker() {
    check_nothing_lost("1", 6);
}

#[test]
fn nothing_is_lost_with_four_workers() {
    check_nothing_lost("4", 8);
}

// ---- 2. Data over death ----

fn write_keys(osps: &Osps) {
    let mut client = session(osps, "requetetype2");
    for number in 0..300 {
        assert_eq!(client.ask(&format!("SET key{number} value{number}")), "+OK");
    }
}

fn check_keys(osps: &Osps) {
    let mut client = osps.client(PRIMARY);
    for number in 0..300 {
        assert_eq!(client.ask(&format!("GET key{number}")), format!("value{number}"));
    }
    assert_eq!(client.ask("DBSIZE"), ":300");
    assert_eq!(session(osps, "requetetype2").ask("SET key0 again"), "+OK");
}

#[test]
fn data_survives_the_end_of_everything() {
    let mut osps = start(&[]);
    write_keys(&osps);
    osps.kill_everything();
    let osps = Launch::pair(&[]).in_place_of(osps).start();
    osps.wait_log(&["kept the data", "300 keys"]);
    osps.wait_linked();
    check_keys(&osps);
    let osps = Launch::pair(&["--data-size", "64KiB"]).in_place_of(osps).start();
    osps.wait_log(&["discarded the data", "--data-size"]);
    osps.wait_linked();
    assert_eq!(osps.ask(PRIMARY, "DBSIZE"), ":0");
    assert_eq!(session(&osps, "requetetype2").ask("SET key0 new"), "+OK");
}

/// A successor of the watchdog finds the servers alive, and clients that go on writing.
#[test]
fn data_survives_the_end_of_the_watchdog_alone() {
    let mut osps = start(&[]);
    write_keys(&osps);
    let servers = [osps.process(PRIMARY), osps.process(SECONDARY)];
    osps.kill_watchdog();
    assert!(!servers.iter().any(Process::is_dead), "servers outlive their watchdog");
    assert_eq!(osps.ask(PRIMARY, "SET late yes"), "+OK", "they need no watchdog to serve");
    assert_eq!(osps.ask(PRIMARY, "DEL late"), ":1");
    osps.start_again();
    osps.wait_founded();
    osps.wait_linked();
    check_keys(&osps);
}

// ---- 3. The course's protocol ----

#[test]
fn the_answer_is_a_port_with_or_without_a_line_end() {
    let osps = start(&[]);
    let expected = osps.address(SECONDARY).port().to_string();
    for word in ["requetetype1", "requetetype2"] {
        for end in ["", "\n", "\r\n"] {
            let mut client = osps.client(PRIMARY);
            for _ in 0..3 {
                client.send(format!("{word}{end}").as_bytes());
                assert_eq!(client.bare(), expected, "{word}{end:?}");
            }
        }
    }
}

#[test]
fn requests_may_come_merged_split_and_half_closed() {
    let osps = start(&[]);
    let one = osps.address(SECONDARY).port().to_string();
    let mut client = osps.client(PRIMARY);
    client.send(b"requetetype1requetetype2");
    assert_eq!(client.bare(), format!("{one}{one}"), "merged");
    client.send(b"requetetype1PING\r\n\r\n\n");
    assert_eq!(client.bare(), format!("{one}+PONG\r\n"), "a port, a reply, and empty lines");
    client.send(b"\r\n\n\n");
    assert_eq!(client.ask("PING"), "+PONG", "empty lines have no answer");
    for byte in b"requetetype2" {
        client.send(&[*byte]);
        pass(ms(3));
    }
    assert_eq!(client.bare(), one, "byte by byte");
    for request in ["requetetype1", "requetetype2\r\n"] {
        let mut client = osps.client(PRIMARY);
        client.send(request.as_bytes());
        client.raw().shutdown(Shutdown::Write).unwrap();
        assert_eq!(client.rest(), one, "half-closed after {request:?}");
    }
    let mut client = osps.client(PRIMARY);
    client.send(b"SET half closed\r\nGET half\r\n");
    client.raw().shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.rest(), "+OK\r\n$6\r\nclosed\r\n");
}

/// A client that sends all it wants and half-closes, as `nc -N` does, gets all its answers.
#[test]
fn a_long_pipeline_is_answered_to_its_end_although_half_closed() {
    let osps = start(&[]);
    let mut client = osps.client(PRIMARY);
    client.send(&b"PING\r\n".repeat(2000));
    client.raw().shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.rest().matches("+PONG\r\n").count(), 2000);
}

#[test]
fn an_unknown_word_without_a_line_end_is_answered_once_it_is_quiet() {
    let osps = start(&[]);
    let mut client = osps.client(PRIMARY);
    let sent = Instant::now();
    client.send(b"requetetype3");
    let expected = "errtraitement unknown request type requetetype3 ";
    assert!(client.bare_once().unwrap().starts_with(expected));
    assert!(sent.elapsed() >= ms(50), "after {:?}", sent.elapsed());
    client.send(b"requetetype1");
    assert_eq!(client.bare(), osps.address(SECONDARY).port().to_string(), "it goes on");
}

#[test]
fn what_a_session_may_do_was_announced() {
    let osps = start(&[]);
    assert_eq!(osps.ask(PRIMARY, "SET k v"), "+OK", "on the primary everybody may write");
    let mut reader = session(&osps, "requetetype1");
    assert_eq!(reader.ask("GET k"), "v");
    for write in ["SET k w", "DEL k", "INCR k", "FLUSHDB"] {
        assert_eq!(reader.ask(write), READ_ONLY);
    }
    assert_eq!(reader.ask("GET k"), "v", "and goes on");
    let mut writer = session(&osps, "requetetype2");
    assert_eq!(writer.ask("SET k w"), "+OK");
    assert_eq!(reader.ask("GET k"), "w", "visible at once, elsewhere");
    assert_eq!(osps.ask(PRIMARY, "GET k"), "$1");
    let mut stranger = osps.client(SECONDARY);
    assert_eq!(stranger.ask("GET k"), "w");
    assert_eq!(stranger.ask("SET k x"), READ_ONLY);
}

#[test]
fn two_hundred_clients_at_once_are_all_served() {
    let osps = start(&["--workers", "2"]);
    let mut dispatchers: Vec<_> = (0..200).map(|_| osps.client(PRIMARY)).collect();
    for client in &mut dispatchers {
        client.send(b"requetetype2");
    }
    let ask = |client: &mut Client| Client::to(port(&client.bare_once().unwrap()));
    let mut clients: Vec<_> = dispatchers.iter_mut().map(ask).collect();
    for client in &mut clients {
        client.send(b"INCR n\r\n");
    }
    let mut replies: Vec<_> = clients.iter_mut().map(Client::reply).collect();
    replies.sort_by_key(|reply| (reply.len(), reply.clone()));
    let expected: Vec<_> = (1..=200).map(|number| format!(":{number}")).collect();
    assert_eq!(replies, expected);
    assert_no_restarts(&osps);
}

#[test]
fn sessions_are_spread_evenly() {
    let osps = start(&["--workers", "4"]);
    let mut counts = BTreeMap::new();
    let clients: Vec<_> = (0..40)
        .map(|_| {
            let mut client = session(&osps, "requetetype1");
            assert_eq!(client.ask("PING"), "+PONG");
            *counts.entry(client.raw().peer_addr().unwrap().port()).or_insert(0) += 1;
            client
        })
        .collect();
    assert_eq!(counts.len(), 4, "{counts:?}");
    let (least, most) = (counts.values().min().unwrap(), counts.values().max().unwrap());
    assert!(most - least <= 2, "{counts:?}");
    osps.wait("the pages to tell it", || {
        let segment = osps.segment();
        let sessions =
            |slot: usize| segment.slots()[slot].activity.sessions.load(Ordering::Relaxed);
        ((1..5).map(sessions).sum::<u64>() == clients.len() as u64).then_some(())
    });
}

#[test]
fn without_a_live_secondary_the_primary_says_so() {
    let osps = start(&[]);
    let mut client = osps.client(PRIMARY);
    let mut killed = 0;
    osps.wait_for("an answer while the secondary backs off", 3 * SOON, || {
        let generation = osps.generation(SECONDARY);
        if osps.is_state(SECONDARY, State::Backoff) {
            client.send(b"requetetype1");
            let answer = client.bare_once().unwrap();
            let still = osps.is_state(SECONDARY, State::Backoff);
            return (still && generation == osps.generation(SECONDARY)).then(|| {
                assert_eq!(answer, NOBODY);
            });
        }
        if osps.is_state(SECONDARY, State::Up) && generation != killed {
            killed = generation;
            osps.signal(&osps.process(SECONDARY), Signal::KILL);
        }
        None
    });
    assert_eq!(client.ask("PING"), "+PONG", "it goes on");
    osps.wait_linked();
    client.send(b"requetetype1");
    assert_eq!(client.bare(), osps.address(SECONDARY).port().to_string());
}

// ---- 4. Limits and bad input ----

#[test]
fn what_is_no_request_gets_an_error_and_the_door() {
    let osps = start(&[]);
    let endless = b"a".repeat(70_000);
    let cases: &[(&str, &[u8])] = &[
        ("letters for a length", b"*x\r\n"),
        ("too many words", b"*1048577\r\n"),
        ("huge array", b"*99999999999999999999\r\n"),
        ("huge word", b"*1\r\n$99999999999999999999\r\n"),
        ("word too big", b"*1\r\n$536870913\r\n"),
        ("nested array", b"*1\r\n*1\r\n$4\r\nPING\r\n"),
        ("word longer than it said", b"*1\r\n$3\r\nPING\r\n"),
        ("endless line", &endless),
    ];
    for slot in [PRIMARY, SECONDARY] {
        for (name, bytes) in cases {
            let mut client = osps.client(slot);
            client.send(b"PING\r\n");
            // The server may close before it took everything.
            let _ = client.stream.get_mut().write_all(bytes);
            let replies = client.rest();
            let expected = replies.starts_with("+PONG\r\n-ERR Protocol error");
            assert!(expected && replies.ends_with("\r\n"), "{name}: {replies:?}");
            assert_eq!(replies.lines().count(), 2, "{name}: {replies:?}");
        }
    }
    assert_no_restarts(&osps);
}

#[test]
fn what_does_not_fit_is_refused_and_nothing_is_lost() {
    let osps = start(&[]);
    let mut client = session(&osps, "requetetype2");
    let (fits, long) = ("k".repeat(64), "k".repeat(65));
    assert_eq!(client.ask(&format!("SET {fits} v")), "+OK");
    for request in [format!("SET {long} v"), format!("INCR {long}")] {
        assert_eq!(client.ask(&request), "-ERR key of 65 bytes is longer than 64");
    }
    assert_eq!(client.ask(&format!("GET {long}")), "(nil)");
    assert_eq!(client.ask(&format!("DEL {long} {fits} {fits}")), ":1");
    let room = 256 - 8 - 1;
    assert_eq!(client.ask(&format!("SET k {}", "v".repeat(room))), "+OK");
    for length in [room + 1, 60_000] {
        let refused = client.ask(&format!("SET k {}", "w".repeat(length)));
        let expected = format!("-ERR value of {length} bytes is longer than {room}");
        assert!(refused.starts_with(&expected), "{refused}");
    }
    assert_eq!(client.ask("GET k"), "v".repeat(room));
    assert_eq!(client.ask_words(&[b"SET", b"\0\r\n", b"a\r\nb\xff"]), "+OK");
    assert_eq!(client.ask_words(&[b"GET", b"\0\r\n"]), "a\r\nb\u{fffd}");
    assert_eq!(client.ask_words(&[b"SET", b"", b""]), "+OK");
    assert_eq!(client.ask_words(&[b"GET", b""]), "");
    assert_eq!(client.ask("DBSIZE"), ":3");
}

#[test]
fn a_full_table_refuses_the_new_and_keeps_the_old() {
    let osps = start(&["--data-size", "8KiB"]);
    let mut client = session(&osps, "requetetype2");
    let mut kept = 0;
    let refused = loop {
        let reply = client.ask(&format!("SET key{kept} {kept}"));
        if reply != "+OK" {
            break reply;
        }
        kept += 1;
        assert!(kept < 1000, "it never fills");
    };
    assert!(refused.starts_with("-OOM "), "{refused}");
    assert!(kept > 20, "{kept} keys");
    assert!(client.ask("INCR fresh").starts_with("-OOM "));
    for number in 0..kept {
        assert_eq!(client.ask(&format!("GET key{number}")), number.to_string());
        assert_eq!(client.ask(&format!("INCR key{number}")), format!(":{}", number + 1));
    }
    assert_eq!(client.ask("DBSIZE"), format!(":{kept}"));
    assert_eq!(client.ask("DEL key0 key1"), ":2");
    assert_eq!(client.ask("SET fresh yes"), "+OK", "there is room again");
    assert_eq!(osps.ask(PRIMARY, "GET fresh"), "$3");
    assert_eq!(client.ask("FLUSHDB"), "+OK");
    assert_eq!(client.ask("DBSIZE"), ":0");
}

#[test]
fn commands_do_what_they_say() {
    let osps = start(&[]);
    let mut client = session(&osps, "requetetype2");
    let table = [
        ("INCR n", ":1"),
        ("INCRBY n 41", ":42"),
        ("INCRBY n -2", ":40"),
        ("SET n 9223372036854775807", "+OK"),
        ("INCR n", "-ERR increment or decrement would overflow"),
        ("GET n", "9223372036854775807"),
        ("SET n -9223372036854775808", "+OK"),
        ("INCRBY n -1", "-ERR increment or decrement would overflow"),
        ("INCR n", ":-9223372036854775807"),
        ("SET n text", "+OK"),
        ("INCR n", "-ERR value is not an integer or out of range"),
        ("INCRBY n x", "-ERR value is not an integer or out of range"),
        ("GET n", "text"),
        ("DEL n none", ":1"),
        ("DEL n none", ":0"),
        ("SET user:1 a", "+OK"),
        ("SET user:2 b", "+OK"),
        ("SET other c", "+OK"),
        ("EXISTS user:1 user:1 none other", ":3"),
        ("KEYS user:2*", "[user:2]"),
        ("KEYS nobody*", "[]"),
        ("DBSIZE", ":3"),
        ("DEL user:1 user:2 user:3", ":2"),
        ("KEYS *", "[other]"),
        ("FLUSHDB", "+OK"),
        ("FLUSHDB", "+OK"),
        ("DBSIZE", ":0"),
        ("KEYS *", "[]"),
        ("GET", "-ERR wrong number of arguments for 'get' command"),
        ("DEBUG ABORT", "-ERR DEBUG is off; start osps with --allow-debug"),
        ("ECHO 'still here'", "still here"),
    ];
    for (request, expected) in table {
        assert_eq!(client.ask(request), expected, "{request}");
    }
    assert_eq!(client.ask("QUIT"), "+OK");
    assert_eq!(client.rest(), "", "and closes");
}

/// Others are served within a blink, and the heart beats on.
fn assert_others_are_served(osps: &Osps, slot: usize) {
    let before = osps.segment().hearts()[slot].sample().count;
    for _ in 0..20 {
        let asked = Instant::now();
        assert_eq!(osps.ask(slot, "PING"), "+PONG");
        assert!(asked.elapsed() < ms(1000), "{:?}", asked.elapsed());
    }
    assert!(osps.segment().hearts()[slot].sample().count > before);
}

/// Sends as much as the other side takes, without reading, until it takes no more for a while.
fn flood(stream: &mut TcpStream, bytes: &[u8]) -> usize {
    stream.set_write_timeout(Some(ms(500))).unwrap();
    let mut sent = 0;
    while sent < bytes.len() {
        match stream.write(&bytes[sent..]) {
            Ok(length) => sent += length,
            Err(_) => break,
        }
    }
    sent
}

#[test]
fn a_client_that_never_reads_harms_nobody() {
    let osps = start(&["--hang-timeout", "1s"]);
    let value = "v".repeat(180);
    assert_eq!(osps.ask(PRIMARY, &format!("SET big {value}")), "+OK");
    let bytes = b"GET big\r\n".repeat((10 << 20) / 9);
    for slot in [PRIMARY, SECONDARY] {
        let before = resident(osps.pid(slot));
        let mut deaf = osps.client(slot);
        std::thread::scope(|scope| {
            scope.spawn(|| flood(deaf.stream.get_mut(), &bytes));
            assert_others_are_served(&osps, slot);
        });
        assert_others_are_served(&osps, slot);
        let grown = resident(osps.pid(slot)).saturating_sub(before);
        // Replies for a long pipeline, and no more.
        assert!(grown < 48 << 10, "slot {slot} holds {grown} KiB for one client");
    }
    assert_no_restarts(&osps);
}

/// Replies beyond what is held for a client make its requests wait, but only until it has read.
#[test]
fn a_pipeline_of_large_replies_is_answered_to_its_end() {
    let osps = start(&["--cell-size", "4096"]);
    let value = "v".repeat(4000);
    let mut client = osps.client(PRIMARY);
    assert_eq!(client.ask(&format!("SET big {value}")), "+OK");
    client.raw().set_read_timeout(Some(ms(3000))).unwrap();
    for count in [100, 200, 1000] {
        client.send(&b"GET big\r\n".repeat(count));
        for number in 0..count {
            let reply = client.try_reply();
            assert!(reply.is_ok_and(|reply| reply == value), "reply {number} of {count}");
        }
    }
}

#[test]
fn a_client_that_reads_at_last_gets_everything() {
    let osps = start(&["--hang-timeout", "1s"]);
    let value = "v".repeat(200);
    let mut client = osps.client(PRIMARY);
    assert_eq!(client.ask(&format!("SET big {value}")), "+OK");
    client.raw().set_read_timeout(Some(ms(3000))).unwrap();
    let request = b"GET big\r\n";
    let sent = flood(client.stream.get_mut(), &request.repeat((3 << 20) / request.len()));
    for number in 0..sent / request.len() {
        let reply = client.try_reply();
        assert!(reply.is_ok_and(|reply| reply == value), "reply {number}, {sent} bytes sent");
    }
    assert_no_restarts(&osps);
}

/// More requests may come in one read than one turn answers: they must not pile up.
#[test]
fn a_client_that_sends_faster_than_it_is_served_is_held_back() {
    let osps = start(&["--hang-timeout", "1s"]);
    let before = resident(osps.pid(PRIMARY));
    let mut most = 0;
    std::thread::scope(|scope| {
        let mut hasty = osps.client(PRIMARY);
        // Empty lines are requests without an answer.
        let sender = scope.spawn(move || flood(hasty.stream.get_mut(), &vec![b'\n'; 32 << 20]));
        while !sender.is_finished() && most < 8 << 10 {
            assert_eq!(osps.ask(PRIMARY, "PING"), "+PONG");
            most = most.max(resident(osps.pid(PRIMARY)).saturating_sub(before));
        }
        if !sender.is_finished() {
            osps.signal(&osps.process(PRIMARY), Signal::KILL);
        }
    });
    assert!(most < 8 << 10, "the primary holds {most} KiB for one client");
}

#[test]
fn a_client_that_goes_silent_in_the_middle_harms_nobody() {
    let osps = start(&[]);
    let parts: [&[u8]; 4] = [b"*2\r\n$3\r\nGET\r\n$4\r\nke", b"*3\r\n$3\r\nSET\r\n", b"*", b"\"a"];
    let silent: Vec<_> = parts
        .iter()
        .flat_map(|part| [(PRIMARY, *part), (SECONDARY, *part)])
        .map(|(slot, part)| {
            let mut client = osps.client(slot);
            client.send(part);
            client
        })
        .collect();
    for slot in [PRIMARY, SECONDARY] {
        assert_others_are_served(&osps, slot);
    }
    let pids = [PRIMARY, SECONDARY].map(|slot| osps.pid(slot));
    let before = pids.map(ticks);
    pass(ms(500));
    for (pid, before) in pids.into_iter().zip(before) {
        assert!(ticks(pid) - before < 20, "it spins");
    }
    // What was begun may be finished much later.
    let mut client = silent.into_iter().next().unwrap();
    client.send(b"y0\r\n");
    assert_eq!(client.reply(), "(nil)");
    assert_no_restarts(&osps);
}

#[test]
fn clients_beyond_the_descriptors_wait_for_their_turn() {
    let osps = start(&[]);
    for slot in [PRIMARY, SECONDARY] {
        let pid = osps.pid(slot);
        let limit = rustix::process::Rlimit { current: Some(64), maximum: Some(64) };
        let whom = rustix::process::Pid::from_raw(pid.try_into().unwrap());
        rustix::process::prlimit(whom, rustix::process::Resource::Nofile, limit).unwrap();
        let mut clients: Vec<_> = (0..120).map(|_| osps.client(slot)).collect();
        for client in &mut clients {
            client.send(b"PING\r\n");
            client.raw().set_read_timeout(Some(ms(1500))).unwrap();
        }
        let mut served = Vec::new();
        let mut waiting = Vec::new();
        for mut client in clients {
            if waiting.is_empty() && client.try_reply().is_ok_and(|reply| reply == "+PONG") {
                served.push(client);
            } else {
                waiting.push(client);
            }
        }
        assert!(served.len() >= 40 && waiting.len() >= 50, "{} served", served.len());
        osps.wait_log(&["out of descriptors"]);
        let before = ticks(pid);
        pass(ms(1000));
        let spent = ticks(pid) - before;
        assert!(spent < 30, "{spent} ticks in a second of waiting");
        // One leaves, one comes in; then all.
        drop(served.pop());
        let mut first = waiting.remove(0);
        first.raw().set_read_timeout(Some(SOON)).unwrap();
        assert!(first.try_reply().is_ok_and(|reply| reply == "+PONG"), "{}", osps.log());
        drop((served, first));
        for mut client in waiting {
            client.raw().set_read_timeout(Some(SOON)).unwrap();
            assert_eq!(client.reply(), "+PONG");
        }
    }
    assert_no_restarts(&osps);
}

/// Descriptors may run out for a moment when no client is there whose leaving could wake us.
#[test]
fn a_server_without_clients_survives_a_lack_of_descriptors() {
    let osps = start(&[]);
    let whom = rustix::process::Pid::from_raw(osps.pid(PRIMARY).try_into().unwrap());
    let limit = |current| {
        let resource = rustix::process::Resource::Nofile;
        let maximum = rustix::process::getrlimit(resource).maximum;
        let limit = rustix::process::Rlimit { current: Some(current), maximum };
        rustix::process::prlimit(whom, resource, limit).unwrap();
    };
    osps.wait("nobody there", || {
        let segment = osps.segment();
        let sessions = &segment.slots()[PRIMARY].activity.sessions;
        (sessions.load(Ordering::Relaxed) == 0).then_some(())
    });
    limit(3);
    let mut client = osps.client(PRIMARY);
    client.send(b"PING\r\n");
    osps.wait_log(&["out of descriptors"]);
    limit(1024);
    assert_eq!(client.reply(), "+PONG");
}

// ---- 5. A frozen owner ----

const LIMIT: Duration = Duration::from_secs(1);

/// secondary-1 owns the data, and stands still.
fn with_frozen_owner() -> (Osps, Process) {
    let osps = start(&["--hang-timeout", "1s"]);
    assert_eq!(session(&osps, "requetetype2").ask("SET k old"), "+OK");
    assert_eq!(owner(&osps).slot, Some(SlotId(1)));
    let holder = osps.process(SECONDARY);
    osps.stop_process(&holder);
    (osps, holder)
}

#[test]
fn a_frozen_owner_delays_writers_until_it_is_replaced_and_readers_never() {
    let (osps, holder) = with_frozen_owner();
    let stopped = Instant::now();
    let mut reader = osps.client(PRIMARY);
    assert_eq!(reader.ask("GET k"), "old");
    let took = stopped.elapsed();
    assert!(took < ms(500) && !holder.is_dead(), "reading took {took:?}");
    let mut writer = osps.client(PRIMARY);
    assert_eq!(writer.ask("SET k new"), "+OK");
    assert!(holder.is_dead(), "written beside a frozen owner");
    let took = stopped.elapsed();
    assert!(took < LIMIT + ms(2000), "{took:?}\n{}", osps.log());
    assert_eq!(reader.ask("GET k"), "new");
    osps.wait_linked();
    assert_eq!(session(&osps, "requetetype1").ask("GET k"), "new");
    assert_eq!(osps.restarts(PRIMARY), NO_RESTARTS);
}

/// The answer to a write that has to wait is worth as much to a client that sends no more.
#[test]
fn a_half_closed_writer_is_answered_after_its_wait() {
    let (osps, _) = with_frozen_owner();
    let mut writer = osps.client(PRIMARY);
    writer.send(b"SET k new\r\n");
    writer.raw().shutdown(Shutdown::Write).unwrap();
    assert_eq!(writer.rest(), "+OK\r\n");
    assert_eq!(osps.ask(PRIMARY, "GET k"), "$3");
}

/// Writers wait in order, and nothing that waits is done twice.
#[test]
fn many_writers_wait_for_a_frozen_owner() {
    let (osps, _) = with_frozen_owner();
    let mut writers: Vec<_> = (0..50).map(|_| osps.client(PRIMARY)).collect();
    for writer in &mut writers {
        writer.send(b"INCR n\r\nINCR n\r\n");
    }
    osps.wait("all to wait", || osps.info(PRIMARY).contains("parked:50\r\n").then_some(()));
    // Who leaves while it waits holds up nobody.
    drop(writers.pop());
    let mut replies = BTreeSet::new();
    for writer in &mut writers {
        replies.extend([writer.reply(), writer.reply()]);
    }
    assert_eq!(replies.len(), 98);
    assert_eq!(osps.restarts(PRIMARY), NO_RESTARTS, "{}", osps.log());
}

// ---- 6. An owner that beats and does not give back ----

/// Real holders give back at once. Here the test puts the word back each time the arbiter clears
/// it: to everybody else the holder never obeys.
#[test]
fn an_owner_that_does_not_give_back_is_replaced() {
    let osps = start(&["--hang-timeout", "500ms"]);
    assert_eq!(session(&osps, "requetetype2").ask("SET k old"), "+OK");
    let held = owner(&osps);
    assert_eq!(held.slot, Some(SlotId(1)));
    let old = osps.generation(SECONDARY);
    let holder = osps.process(SECONDARY);
    let mut writer = osps.client(PRIMARY);
    let segment = Segment::open(osps.run_dir(), Access::ReadWrite).unwrap();
    let end = Instant::now() + SOON;
    // Asked for, whether or not the writer gets through in between.
    writer.send(b"SET k new\r\n");
    while !holder.is_dead() {
        for _ in 0..1000 {
            segment.owner().word.store(held.pack(), Ordering::Release);
        }
        assert!(Instant::now() < end, "it is never convicted\n{}", osps.log());
    }
    osps.wait_log(&[&format!("secondary-1 gen={old} "), "not-releasing"]);
    osps.wait_successor(SECONDARY, old);
    assert_eq!(writer.reply(), "+OK");
    osps.wait_linked();
    assert_eq!(session(&osps, "requetetype2").ask("SET k newer"), "+OK");
    assert_eq!(osps.ask(PRIMARY, "GET k"), "$5");
}

// ---- 7. FIFOs full of what nobody wants ----

/// A frame between two generations that are not there.
fn stale(from: u8, to: u8) -> [u8; wire::FRAME_SIZE] {
    wire::encode(&Frame {
        kind: FrameKind::Release,
        from: SlotId(from),
        to: SlotId(to),
        from_generation: Generation(777),
        to_generation: Generation(778),
        epoch: Epoch(1),
        sequence: 1,
        job: 1,
        payload: [0; wire::PAYLOAD_SIZE],
    })
}

/// One write of a client that comes the course's way; tries again as such a client does.
fn write_somehow(osps: &Osps, number: i64) {
    osps.wait(&format!("write {number}"), || {
        let mut dispatcher = Client::try_to(osps.address(PRIMARY)).ok()?;
        dispatcher.send(b"requetetype2");
        let reply = dispatcher.bare_once().ok().filter(|reply| reply != NOBODY)?;
        let mut client = Client::try_to(port(&reply)).ok()?;
        (client.ask(&format!("SET n {number}")) == "+OK").then_some(())
    });
}

#[test]
fn full_fifos_lose_nothing_and_recover() {
    let osps = start(&["--hang-timeout", "2s"]);
    let pieces: [(&str, [Vec<u8>; 2]); 2] = [
        ("stale frames", [stale(0, 1).to_vec(), stale(1, 0).to_vec()]),
        ("garbage", [vec![0xa5; 999], vec![0x5a; 10]]),
    ];
    let mut number = 0;
    for (name, [down, up]) in pieces {
        let talk = Talk::default();
        std::thread::scope(|scope| {
            for (tube, piece) in [(tube_down(1), down), (tube_up(1), up)] {
                let mut fifo = fifo(osps.run_dir(), &tube).unwrap();
                let talk = &talk;
                scope.spawn(move || {
                    while !talk.is_over() {
                        while fifo.write(&piece).is_ok() {}
                        std::thread::sleep(ms(1));
                    }
                });
            }
            let end = Instant::now() + ms(1000);
            // However hard it is to get through: who is told OK finds what it wrote.
            while Instant::now() < end {
                number += 1;
                let mut client = osps.client(PRIMARY);
                assert_eq!(client.ask(&format!("SET n {number}")), "+OK", "{name}");
                write_somehow(&osps, number);
                assert_eq!(client.ask("GET n"), number.to_string(), "{name}");
            }
            talk.over.store(1, Ordering::Relaxed);
        });
        let quiet = Instant::now();
        number += 1;
        write_somehow(&osps, number);
        assert!(quiet.elapsed() < ms(2000), "{name}: {:?} to recover", quiet.elapsed());
        let mut client = osps.client(PRIMARY);
        assert_eq!(client.ask("GET n"), number.to_string());
        assert_eq!(client.ask("INCR n"), format!(":{}", number + 1), "the primary gets it back");
    }
    assert_no_restarts(&osps);
}
