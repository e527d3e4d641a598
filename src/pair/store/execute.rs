//! Commands on the table: a look at a view, or a change in an update. Pure: bytes in, reply out.
//!
//! Whether this client may write, and whether this server owns the data, was decided before.

use osps_heart::segment::area::{Update, View};
use osps_heart::table::{Refused, Table};

use super::commands::{Command, When, glob_match, integer};
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
        Command::MGet(keys) => {
            reply.array(keys.len());
            for key in keys {
                match table.get(view, key) {
                    Some(value) => reply.bulk(&value),
                    None => reply.null(),
                }
            }
        }
        Command::Strlen(key) => {
            let length = table.get(view, key).map_or(0, |value| value.len());
            reply.integer(i64::try_from(length).unwrap_or(i64::MAX));
        }
        Command::Type(key) => {
            reply.simple(if table.contains(view, key) { "string" } else { "none" });
        }
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
        Ok(Outcome::Old { value, changed }) => {
            match value {
                Some(value) => reply.bulk(&value),
                None => reply.null(),
            }
            return changed;
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
    /// What was there before, or nothing.
    Old {
        value: Option<Vec<u8>>,
        changed: bool,
    },
}

fn attempt(
    table: &Table,
    update: &mut Update<'_>,
    command: &Command<'_>,
) -> Result<Outcome, String> {
    let text = |refused: Refused| refused.to_string();
    match command {
        Command::Set { key, value, when, get } => {
            let old = table.get(update.view(), key);
            let changed = match when {
                When::Always => true,
                When::Absent => old.is_none(),
                When::Present => old.is_some(),
            };
            if changed {
                table.set(update, key, value).map_err(text)?;
            }
            match (get, changed) {
                (true, _) => Ok(Outcome::Old { value: old, changed }),
                (false, true) => Ok(Outcome::Done),
                (false, false) => Ok(Outcome::Old { value: None, changed }),
            }
        }
        Command::SetNx { key, value } => {
            if table.contains(update.view(), key) {
                return Ok(Outcome::Unchanged(0));
            }
            table.set(update, key, value).map_err(text)?;
            Ok(Outcome::Number(1))
        }
        Command::MSet(pairs) => {
            let mut before: Vec<(&[u8], Option<Vec<u8>>)> = Vec::with_capacity(pairs.len());
            for (key, value) in pairs {
                let old = table.get(update.view(), key);
                if let Err(refused) = table.set(update, key, value) {
                    // All or nothing, inside of a MULTI as well: back to what was there.
                    for (key, old) in before.into_iter().rev() {
                        match old {
                            Some(old) => table.set(update, key, &old).map_err(text)?,
                            None => drop(table.remove(update, key).map_err(text)?),
                        }
                    }
                    return Err(text(refused));
                }
                before.push((*key, old));
            }
            Ok(Outcome::Done)
        }
        Command::Append { key, value } => {
            let mut new = table.get(update.view(), key).unwrap_or_default();
            new.extend_from_slice(value);
            table.set(update, key, &new).map_err(text)?;
            Ok(Outcome::Number(i64::try_from(new.len()).unwrap_or(i64::MAX)))
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
    use super::super::resp::Protocol;
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
            let mut reply = Reply(&mut bytes, Protocol::Two);
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
            ("SET a 1 XX", "$-1 ", false),
            ("SET a 1 NX GET", "$-1 ", true),
            ("SET a 2 NX", "$-1 ", false),
            ("SET a 2 NX GET", "$1 1 ", false),
            ("SET a 2 XX", "+OK ", true),
            ("GETSET a 3", "$1 2 ", true),
            ("SETNX a 4", ":0 ", false),
            ("SETNX b 4", ":1 ", true),
            ("MSET a 5 c 6 a 7", "+OK ", true),
            ("MGET a x c", "*3 $1 7 $-1 $1 6 ", false),
            ("APPEND a 8", ":2 ", true),
            ("APPEND d 8", ":1 ", true),
            ("STRLEN a", ":2 ", false),
            ("STRLEN x", ":0 ", false),
            ("TYPE a", "+string ", false),
            ("TYPE x", "+none ", false),
            ("DECR d", ":7 ", true),
            ("DECRBY d 10", ":-3 ", true),
            ("UNLINK d x", ":1 ", true),
            ("PING", "-ERR not a reading command ", false),
        ] {
            assert_eq!(store.ask(line), (reply.to_owned(), commits), "{line}");
        }
        let mut bytes = Vec::new();
        let said = store.0.change(|update| {
            change(&store.1, update, &Command::DbSize, &mut Reply(&mut bytes, Protocol::Two))
        });
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
        // Also in the middle of an update that goes on, as between MULTI and EXEC.
        let words: [&[u8]; 7] = [b"MSET", b"a", b"9", b"b", b"9", b"c", b"3"];
        let command = parse(&words).unwrap();
        store.0.change(|update| {
            let mut bytes = Vec::new();
            let reply = &mut Reply(&mut bytes, Protocol::Two);
            assert!(!change(&store.1, update, &command, reply), "the table is full");
        });
        assert_eq!(store.ask("MGET a b c").0, "*3 $1 1 $1 2 $-1 ", "committed as it was");
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
