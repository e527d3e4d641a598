//! Commands on the table: a look at a view, or a change in an update. Pure: bytes in, reply out.
//!
//! Whether this client may write, and whether this server owns the data, was decided before.

use super::commands::{Command, glob_match, integer};
use super::resp::Reply;
use super::table::{Refused, Table};
use crate::segment::area::{Update, View};

/// Bytes of keys in one reply of `KEYS`. More would be held for one client; and a walk over more
/// could look like a hang.
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
