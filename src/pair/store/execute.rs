//! Commands on the table: a look at a view, or a change in an update. Pure: bytes in, reply out.
//!
//! Whether this client may write, and whether this server owns the data, was decided before.

use osps_heart::segment::area::{Update, View};
use osps_heart::table::{Refused, Table};

use super::commands::{Command, glob_match, integer};
use super::resp::Reply;

/// Bytes of keys in one reply of `KEYS`, and 16 for each. More would be held for one client; and a
/// walk over more could look like a hang.
const KEYS_MAX: usize = 1 << 20;

/// Work of one `KEYS`: pattern length times key length, over all keys. A pattern made to backtrack
/// takes some 2 ns a unit, so this is a fraction of the shortest useful hang timeout.
const MATCH_MAX: usize = 16 << 20;

/// Answers a command that only looks. The view may be torn: the reply counts only once the look
/// was validated.
pub fn look(table: &Table, view: View<'_>, command: &Command<'_>, reply: &mut Reply<'_>) {
    match command {
        Command::Get(key) => match table.get(view, key) {
            Some(value) => reply.bulk(&value),
            None => reply.null(),
        },
        Command::Exists(keys) => {
            let found = keys.iter().filter(|key| table.contains(view, key)).count();
            reply.integer(i64::try_from(found).unwrap_or(i64::MAX));
        }
        Command::DbSize => reply.integer(i64::try_from(table.len(view)).unwrap_or(i64::MAX)),
        Command::Keys(pattern) => {
            let mut found: Vec<Vec<u8>> = Vec::new();
            let (mut bytes, mut work) = (0, 0usize);
            table.keys(view, |key| {
                work = work.saturating_add(pattern.len().saturating_mul(key.len().max(1)));
                if work > MATCH_MAX {
                    return false;
                }
                if glob_match(pattern, key) {
                    bytes += key.len() + 16;
                    found.push(key.to_vec());
                }
                bytes <= KEYS_MAX
            });
            if bytes > KEYS_MAX || work > MATCH_MAX {
                reply.error("ERR too many keys, or too long a pattern, for one KEYS");
                return;
            }
            reply.array(found.len());
            for key in found {
                reply.bulk(&key);
            }
        }
        // Everything else is answered elsewhere.
        _ => reply.error("ERR not a reading command"),
    }
}

/// Carries out a command that changes the table. Returns whether there is something to commit; if
/// not, nothing was changed and the reply says so.
pub fn change(
    table: &Table,
    update: &mut Update<'_>,
    command: &Command<'_>,
    reply: &mut Reply<'_>,
) -> bool {
    match attempt(table, update, command) {
        Ok(Outcome::Done) => reply.simple("OK"),
        Ok(Outcome::Number(number)) => reply.integer(number),
        Ok(Outcome::Unchanged(number)) => {
            reply.integer(number);
            return false;
        }
        Err(error) => {
            reply.error(&error);
            return false;
        }
    }
    true
}

enum Outcome {
    Done,
    Number(i64),
    Unchanged(i64),
}

fn attempt(
    table: &Table,
    update: &mut Update<'_>,
    command: &Command<'_>,
) -> Result<Outcome, String> {
    let text = |refused: Refused| refused.to_string();
    match command {
        Command::Set { key, value } => {
            table.set(update, key, value).map_err(text)?;
            Ok(Outcome::Done)
        }
        Command::Del(keys) => {
            let mut removed = 0;
            for key in keys {
                removed += i64::from(table.remove(update, key).map_err(text)?);
            }
            Ok(if removed > 0 { Outcome::Number(removed) } else { Outcome::Unchanged(0) })
        }
        Command::Incr { key, by } => {
            let old = match table.get(update.view(), key) {
                None => 0,
                Some(value) => {
                    integer(&value).ok_or("ERR value is not an integer or out of range")?
                }
            };
            let new = old.checked_add(*by).ok_or("ERR increment or decrement would overflow")?;
            table.set(update, key, new.to_string().as_bytes()).map_err(text)?;
            Ok(Outcome::Number(new))
        }
        Command::FlushDb => {
            table.clear(update).map_err(text)?;
            Ok(Outcome::Done)
        }
        _ => Err("ERR not a writing command".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use osps_heart::example::Memory;

    use super::super::commands::parse;
    use super::*;

    /// A server in small: one table, and what the words of a request are answered with.
    struct Store(Memory, Table);

    impl Store {
        fn new(bytes: usize) -> Store {
            Store(Memory::new(bytes, 16), Table::new(bytes, 128).unwrap())
        }

        fn ask_words(&self, words: &[&[u8]]) -> (String, bool) {
            let Store(memory, table) = self;
            let command = parse(words).unwrap();
            let mut bytes = Vec::new();
            let mut reply = Reply(&mut bytes);
            let commits = if command.writes() {
                memory.change(|update| change(table, update, &command, &mut reply))
            } else {
                memory.area().read_as_owner(|view| look(table, view, &command, &mut reply));
                false
            };
            (String::from_utf8(bytes).unwrap().replace("\r\n", " "), commits)
        }

        fn ask(&self, line: &str) -> (String, bool) {
            let words: Vec<_> = line.split(' ').map(str::as_bytes).collect();
            self.ask_words(&words)
        }
    }

    #[test]
    fn commands_do_and_answer_what_redis_does() {
        let store = Store::new(4096);
        for (line, reply, commits) in [
            ("GET a", "$-1 ", false),
            ("DEL a", ":0 ", false),
            ("SET a 1", "+OK ", true),
            ("GET a", "$1 1 ", false),
            ("SET b x", "+OK ", true),
            ("DBSIZE", ":2 ", false),
            ("EXISTS a b a c", ":3 ", false),
            ("INCR a", ":2 ", true),
            ("INCRBY a -5", ":-3 ", true),
            ("INCR new", ":1 ", true),
            ("INCR b", "-ERR value is not an integer or out of range ", false),
            ("INCRBY a -9223372036854775808", "-ERR increment or decrement would overflow ", false),
            ("GET a", "$2 -3 ", false),
            ("KEYS n*", "*1 $3 new ", false),
            ("KEYS z*", "*0 ", false),
            ("DEL a new c", ":2 ", true),
            ("DBSIZE", ":1 ", false),
            ("FLUSHDB", "+OK ", true),
            ("DBSIZE", ":0 ", false),
            ("PING", "-ERR not a reading command ", false),
        ] {
            assert_eq!(store.ask(line), (reply.to_owned(), commits), "{line}");
        }
        let mut bytes = Vec::new();
        let said = store
            .0
            .change(|update| change(&store.1, update, &Command::DbSize, &mut Reply(&mut bytes)));
        assert!(!said && bytes.starts_with(b"-ERR not a writing command"));
    }

    #[test]
    fn what_the_table_refuses_changes_nothing() {
        let store = Store::new(64 + 2 * 136);
        store.ask("SET a 1");
        store.ask("SET b 2");
        for line in ["SET c 3", "INCR c", &format!("SET a {}", "x".repeat(120))] {
            let (reply, commits) = store.ask(line);
            assert!(reply.starts_with('-') && !commits, "{line}: {reply}");
        }
        assert_eq!(store.ask("GET a").0, "$1 1 ");
    }

    /// `KEYS` is bounded in what it holds (each key and 16 bytes) and in what it compares.
    #[test]
    fn keys_is_bounded_in_memory_and_in_work() {
        const KEY: usize = 16;
        let most = KEYS_MAX / (KEY + 16);
        let store = Store::new((most + most / 2) * 136);
        let fill = |numbers: std::ops::Range<usize>| {
            store.0.change(|update| {
                for number in numbers {
                    let key = format!("{number:0KEY$}");
                    store.1.set(update, key.as_bytes(), b"").unwrap();
                }
            });
        };
        let refusal = "-ERR too many keys, or too long a pattern, for one KEYS ";
        fill(0..most);
        assert!(store.ask("KEYS *").0.starts_with(&format!("*{most} ")));
        // Each key costs its length times the pattern's.
        let longest = MATCH_MAX / (most * KEY);
        let pattern = |length| "x".repeat(length);
        assert_eq!(store.ask(&format!("KEYS {}", pattern(longest))).0, "*0 ");
        assert_eq!(store.ask(&format!("KEYS {}", pattern(longest + 1))).0, refusal);
        fill(most..most + 1);
        assert_eq!(store.ask("KEYS *").0, refusal);
    }
}
