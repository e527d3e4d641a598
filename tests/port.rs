//! Whoever reaches the port: people who type, course clients, web pages, libraries, and the greedy.
//!
//! Goal: text is answered and never kills a session; what another protocol sends is not carried
//! out; memory for clients is bounded in total; RESP3, MULTI and long pipelines work as in Redis;
//! errors do not close.
//!
//! Method: raw sockets against the real binary; memory and timers from `/proc`.
//!
//! The stories stand at the tests. What it cannot show: what real libraries make of it, which
//! tests/clients.rs tries.
#![allow(clippy::unwrap_used, reason = "a test that fails panics")]
#![allow(clippy::disallowed_methods, reason = "these tests run in real time")]

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use common::{Client, Launch, Osps, PRIMARY, SECONDARY, SOON, ms, port, resident, text};

fn session(osps: &Osps, kind: &str) -> Client {
    let mut asks = osps.client(PRIMARY);
    asks.send(kind.as_bytes());
    Client::to(port(&asks.bare()))
}

fn start(args: &[&str]) -> Osps {
    let osps = Launch::pair(args).start();
    osps.wait_linked();
    osps
}

/// Everything until the other side closes.
fn rest(stream: &mut TcpStream) -> String {
    let mut all = Vec::new();
    // A reset is an end, too: there was input that nobody wanted.
    let _ = stream.read_to_end(&mut all);
    String::from_utf8_lossy(&all).into_owned()
}

// ---- People and course clients ----

/// Four clients that others wrote for the protocol of the course connected, got the port, said a
/// free sentence without a line end, and waited for ever.
#[test]
fn a_free_sentence_gets_a_plain_answer_and_the_session_goes_on() {
    let osps = start(&[]);
    for kind in ["requetetype1", "requetetype2"] {
        for said in [
            "Bonjour, quelle heure est-il ?",
            "42",
            "mot",
            "J'aimerais l'heure",
            "\"sans fin",
            "\u{e9}",
            "in the house",
            "a\\\"b\"c",
        ] {
            for end in ["", "\n", "\r\n"] {
                let mut client = session(&osps, kind);
                let sent = Instant::now();
                client.send(format!("{said}{end}").as_bytes());
                let answer = client.reply();
                for part in ["secondary-1", kind, "UTC"] {
                    assert!(answer.contains(part), "{said}{end:?}: {answer}");
                }
                assert!(!answer.starts_with(['-', '+', '$']), "{answer}");
                assert!(!end.is_empty() || sent.elapsed() >= ms(50), "{said}: not yet quiet");
                assert_eq!(client.ask("PING"), "+PONG", "{said}");
            }
        }
    }
    // Libraries speak RESP and get errors of RESP.
    let mut client = session(&osps, "requetetype2");
    client.send(b"*1\r\n$7\r\nBonjour\r\n");
    assert!(client.reply().starts_with("-ERR unknown command 'Bonjour'"));
}

#[test]
fn unfinished_words_are_answered_once_they_are_quiet() {
    let osps = start(&[]);
    for slot in [PRIMARY, SECONDARY] {
        for (said, answer) in [("PING", "+PONG"), ("GET k", "(nil)"), ("  DBSIZE", ":0")] {
            let mut client = osps.client(slot);
            let sent = Instant::now();
            client.send(said.as_bytes());
            assert_eq!(client.reply(), answer, "{said} in slot {slot}");
            assert!(sent.elapsed() >= ms(50), "{said}: after {:?}", sent.elapsed());
        }
        let mut client = osps.client(slot);
        client.send("\u{e9}".as_bytes());
        assert!(client.reply().starts_with("-ERR unknown command '\\xc3\\xa9'"));
    }
    let mut client = osps.client(PRIMARY);
    client.send(b" requetetype1");
    assert_eq!(client.bare(), osps.address(SECONDARY).port().to_string());
    for (asked, word) in [("requetetype3", "requetetype3"), ("requete\r\n", "requete")] {
        let mut client = osps.client(PRIMARY);
        client.send(asked.as_bytes());
        let answer = client.bare();
        let expected = format!("errtraitement unknown request type {word} (requetetype1 reads");
        assert!(answer.starts_with(&expected), "{answer}");
    }
}

// ---- Other protocols ----

/// A web page's POST with FLUSHDB and SET in its body was carried out.
#[test]
fn what_a_web_page_sends_is_not_carried_out() {
    let osps = start(&[]);
    assert_eq!(osps.ask(PRIMARY, "SET k v"), "+OK");
    for slot in [PRIMARY, SECONDARY] {
        for request in [
            "POST / HTTP/1.1\r\nHost: localhost:2222\r\n\r\nFLUSHDB\r\nSET k hacked\r\n",
            "GET / HTTP/1.1\r\nHost: localhost:2222\r\n\r\nFLUSHDB\r\n",
            "PUT /x HTTP/1.1\r\nConnection: close\r\nFLUSHDB\r\n",
            "host: localhost\r\nFLUSHDB\r\n",
            "*2\r\n$4\r\nPOST\r\n$1\r\n/\r\n*1\r\n$7\r\nFLUSHDB\r\n",
        ] {
            let mut stream = TcpStream::connect(osps.address(slot)).unwrap();
            stream.set_read_timeout(Some(SOON)).unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            let answer = rest(&mut stream);
            assert!(!answer.contains("OK") && !answer.contains(":1"), "{request:?}: {answer}");
        }
    }
    assert_eq!(osps.client(PRIMARY).ask("GET k"), "v");
    osps.wait_log(&["somebody at 127.0.0.1 speaks HTTP to this port"]);
}

#[test]
fn an_address_for_everybody_has_to_be_meant() {
    for (args, parts) in [
        (&["--listen", "0.0.0.0:0"][..], &["--listen", "--allow-remote", "0.0.0.0:0"][..]),
        (&["--listen", "[::]:0"], &["--allow-remote"]),
        (
            &["--listen", "0.0.0.0:0", "--allow-remote", "--allow-debug"],
            &["--allow-debug", "stranger"],
        ),
    ] {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let mut command = std::process::Command::new(common::BINARY);
        command.args(args).arg("--run-dir").arg(dir.path().join("run"));
        let output = common::run(command);
        let told = text(&output);
        assert_eq!(output.status.code(), Some(2), "{told}");
        assert!(parts.iter().all(|part| told.contains(part)), "{told}");
    }
}

// ---- The greedy ----

/// 300 unfinished requests of the largest size took 1.17 GB: bounds were per client, none in total.
#[test]
fn all_clients_together_have_a_budget() {
    let osps = start(&["--hang-timeout", "10s"]);
    let pid = osps.pid(PRIMARY);
    let word = [&b"$1000\r\n"[..], &[b'x'; 1000], b"\r\n"].concat();
    let request = [&b"*1000\r\n"[..], &word.repeat(980)].concat();
    let mut greedy = Vec::new();
    for _ in 0..300 {
        let mut stream = TcpStream::connect(osps.address(PRIMARY)).unwrap();
        stream.set_write_timeout(Some(SOON)).unwrap();
        // It may be closed meanwhile.
        let _ = stream.write_all(&request);
        greedy.push(stream);
    }
    assert_eq!(osps.client(PRIMARY).ask("PING"), "+PONG", "others are served");
    osps.wait_log(&["clients hold more than 64 MiB"]);
    let held = resident(pid);
    assert!(held < 200 << 10, "{held} KiB");
    // The first ones went, the last ones are kept.
    let first = rest(&mut greedy[0]);
    assert!(first.is_empty() || first.contains("too much memory"), "{first}");
    let last = greedy.last_mut().unwrap();
    last.write_all(&word.repeat(20)).unwrap();
    last.set_read_timeout(Some(SOON)).unwrap();
    let mut byte = [0];
    last.read_exact(&mut byte).unwrap();
    assert_eq!(&byte, b"-", "an answer: no such command");
}

#[test]
fn who_goes_without_a_word_is_found_out() {
    let osps = start(&[]);
    let mut client = osps.client(PRIMARY);
    assert_eq!(client.ask("PING"), "+PONG");
    let (server, me) = (osps.address(PRIMARY).port(), client.raw().local_addr().unwrap().port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let row = table.lines().find(|line| {
        let ends: Vec<_> = line.split_ascii_whitespace().skip(1).take(2).collect();
        ends.len() == 2
            && ends[0].ends_with(&format!(":{server:04X}"))
            && ends[1].ends_with(&format!(":{me:04X}"))
    });
    // The sixth column is the timer: 02 is the one that asks whether the other side is there.
    let timer = row.unwrap().split_ascii_whitespace().nth(5).unwrap();
    assert!(timer.starts_with("02:"), "{row:?}");
    let jiffies = u64::from_str_radix(&timer[3..], 16).unwrap();
    assert!((280..=300).contains(&(jiffies / 100)), "{jiffies} hundredths of a second");
}

/// 400,000 GETs written before the first reply is read stood still for ever.
#[test]
fn a_long_pipeline_may_be_written_before_it_is_read() {
    const COUNT: usize = 400_000;
    let osps = start(&[]);
    assert_eq!(osps.ask(PRIMARY, "SET k value"), "+OK");
    let mut stream = TcpStream::connect(osps.address(PRIMARY)).unwrap();
    stream.set_write_timeout(Some(SOON)).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.write_all(&b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n".repeat(COUNT)).unwrap();
    let mut replies = vec![0; COUNT * b"$5\r\nvalue\r\n".len()];
    stream.read_exact(&mut replies).unwrap();
    assert!(replies.chunks(11).all(|reply| reply == b"$5\r\nvalue\r\n"));
}

/// A client that resets its connection while a part of its replies is sent ended the server: an hour
/// of chaos found it within a minute.
#[test]
fn a_reset_in_the_middle_of_replies_ends_one_connection_only() {
    let osps = start(&[]);
    let value = "v".repeat(180);
    assert_eq!(osps.ask(PRIMARY, &format!("SET k {value}")), "+OK");
    for _ in 0..4 {
        let mut client = osps.client(PRIMARY);
        client.send(&b"GET k\r\n".repeat(60_000));
        client.reply();
        // All is answered by then, and the kernel took a part of it.
        common::pass(ms(300));
        // Unread replies in our own socket make the kernel reset when it closes.
        drop(client);
        assert_eq!(osps.client(PRIMARY).ask("PING"), "+PONG");
    }
    assert_eq!(osps.restarts(PRIMARY), common::NO_RESTARTS, "{}", osps.log());
}

#[test]
fn what_is_too_large_is_an_error_and_not_the_end() {
    let osps = start(&[]);
    let mut client = osps.client(PRIMARY);
    let set = |length: usize| {
        let value = "x".repeat(length);
        format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${length}\r\n{value}\r\n")
    };
    for length in [300, 70_000, 3 << 20] {
        client.send(set(length).as_bytes());
        let reply = client.reply();
        assert!(reply.starts_with("-ERR") && reply.contains("longer than"), "{length}: {reply}");
        assert_eq!(client.ask("PING"), "+PONG", "after {length} bytes");
    }
    let keys =
        |count: usize| format!("*{}\r\n$3\r\nDEL\r\n", count + 1) + &"$1\r\nk\r\n".repeat(count);
    client.send(keys(64).as_bytes());
    assert_eq!(client.reply(), ":0");
    client.send(keys(70_000).as_bytes());
    assert_eq!(client.reply(), "-ERR request of 70001 words is longer than 65536");
    client.send(keys(20_000).as_bytes());
    assert_eq!(client.reply(), ":0");
    client.send(b"*-10\r\n*-1\r\n*0\r\nPING\r\n");
    assert_eq!(client.reply(), "+PONG", "less than nothing is nothing");
    client.send(b"SET k it's\r\nPING\r\n");
    assert!(client.reply().starts_with("-ERR Protocol error: unbalanced quotes"));
    assert_eq!(client.reply(), "+PONG");
}

// ---- Transactions and versions ----

#[test]
fn a_transaction_is_one_update() {
    let osps = start(&[]);
    let mut client = session(&osps, "requetetype2");
    for (asked, answer) in [
        ("EXEC", "-ERR EXEC without MULTI"),
        ("DISCARD", "-ERR DISCARD without MULTI"),
        ("MULTI", "+OK"),
        ("SET a 1", "+QUEUED"),
        ("INCR a", "+QUEUED"),
        ("PING", "+QUEUED"),
        ("GET a", "+QUEUED"),
        ("MULTI", "-ERR MULTI calls can not be nested"),
        ("WATCH a", "-ERR WATCH inside MULTI is not allowed"),
        ("EXEC", "[+OK :2 +PONG 2]"),
        ("DEL a", ":1"),
        ("MULTI", "+OK"),
        ("NOSUCH", "-ERR unknown command 'NOSUCH', with args beginning with:"),
        ("EXEC", "-EXECABORT Transaction discarded because of previous errors."),
        ("MULTI", "+OK"),
        ("SET a 1", "+QUEUED"),
        ("DISCARD", "+OK"),
        ("EXISTS a", ":0"),
        (
            "WATCH a",
            "-ERR WATCH is not supported: a MULTI..EXEC is one update, without a condition",
        ),
        ("UNWATCH", "+OK"),
        ("MULTI", "+OK"),
        ("EXEC", "[]"),
    ] {
        assert_eq!(client.ask(asked), answer, "{asked}");
    }
    client
        .send(b"MULTI\r\nSET a 1\r\nSET b x\r\nINCR b\r\nINCR a\r\nPING\r\nMGET a b c\r\nEXEC\r\n");
    for line in ["+OK"].into_iter().chain(["+QUEUED"; 6]) {
        assert_eq!(client.reply(), line);
    }
    let not_a_number = "-ERR value is not an integer or out of range";
    assert_eq!(client.reply(), format!("[+OK +OK {not_a_number} :2 +PONG [2 x (nil)]]"));
    let before = osps.segment().area().sequence();
    client.send(b"MULTI\r\nSET a 5\r\nSET b 5\r\nDEL c\r\nEXEC\r\n");
    for _ in 0..5 {
        client.reply();
    }
    assert_eq!(osps.segment().area().sequence(), before + 1, "one commit");
    let mut reader = session(&osps, "requetetype1");
    assert_eq!(reader.ask("MULTI"), "+OK");
    assert!(reader.ask("SET a 6").starts_with("-READONLY"));
    assert!(reader.ask("EXEC").starts_with("-EXECABORT"));
}

/// Nobody sees half of it: two keys that change together are equal for every reader.
#[test]
fn nobody_sees_half_of_a_transaction() {
    let osps = start(&[]);
    let mut writer = session(&osps, "requetetype2");
    let (mut reader, mut seen) = (osps.client(PRIMARY), std::collections::BTreeSet::new());
    let end = Instant::now() + Duration::from_millis(700);
    let mut number = 0;
    while Instant::now() < end {
        number += 1;
        let request = format!("MULTI\r\nSET a {number}\r\nSET b {number}\r\nEXEC\r\n");
        writer.send(request.as_bytes());
        reader.send(b"MGET a b\r\n");
        let both = reader.reply();
        let (a, b) = both[1..both.len() - 1].split_once(' ').unwrap();
        assert_eq!(a, b);
        seen.insert(a.to_owned());
        for _ in 0..4 {
            writer.reply();
        }
    }
    assert!(seen.len() > 10, "{seen:?}");
}

#[test]
fn version_3_is_spoken_by_who_asks_for_it() {
    let osps = start(&[]);
    let mut client = osps.client(PRIMARY);
    assert_eq!(client.ask("GET none"), "(nil)");
    assert_eq!(client.ask("HELLO 3 SETNAME me"), "%7");
    let mut said = Vec::new();
    for _ in 0..14 {
        said.push(client.reply());
    }
    assert_eq!(&said[..2], ["server", "osps"]);
    assert!(said.windows(2).any(|pair| pair == ["proto", ":3"]), "{said:?}");
    assert_eq!(client.ask("GET none"), "_");
    assert_eq!(client.ask("CLIENT GETNAME"), "me");
    assert!(client.ask("HELLO 2").contains("proto :2"));
    assert_eq!(client.ask("GET none"), "(nil)");
    assert_eq!(client.ask("HELLO 4"), "-NOPROTO unsupported protocol version");
}
