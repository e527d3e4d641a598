//! RESP, the Redis protocol: requests are decoded, replies encoded, in version 2 or 3.
//!
//! A request is an array of bulk strings (`*1\r\n$4\r\nPING\r\n`, what libraries send) or an inline
//! line (`PING\r\n`, what a person types into `nc`). Decoding is pure and total: any bytes are a
//! request, the beginning of one, or a [`ProtocolError`], never a panic.
//!
//! **Invariants.** Every word is a slice of the input; the only allocation is the list of at most
//! [`MAX_WORDS`] slices. More bytes never change an answer other than [`Decoded::Incomplete`].
//! One call is linear in the input (and an array skips the bodies of its words unread).
//!
//! A request that is longer than what is kept is not kept: [`Decoded::TooLarge`] says how to skip
//! it, so that it costs an error and not the connection.
//!
//! **Deliberately not here.** No state between calls. An inline word whose text
//! differs from its bytes (`"a\n"`, `a"b"`) would need memory of its own: it is refused, never
//! misread, and the array form says the same without quotes. What the words mean is
//! [`commands`](super::commands)' affair. Tested below: tables, every cut, arbitrary bytes.

use thiserror::Error;

/// Most words in a request that is kept. It bounds what one request makes us allocate (1 MiB of
/// slices); fewer would cut an `MSET` of many keys.
pub const MAX_WORDS: usize = 1 << 16;
/// Words that room is made for before they are there.
const USUAL_WORDS: usize = 64;

/// Most bytes in one word that is kept, whatever a cell can hold.
pub const MAX_WORD: usize = 512 * 1024;

/// Most words that are skipped, and most bytes of one: Redis's own limits. Beyond, the input is not
/// believed to be a request, and the connection closes.
const SKIPPED_WORDS: usize = 1 << 20;
const SKIPPED_WORD: usize = 512 << 20;

/// Most bytes of an inline request before its `\n`: Redis's own limit. Until the line ends we must
/// keep it, so without a limit a client that never ends it would own our memory.
pub const MAX_INLINE: usize = 64 * 1024;

/// Bytes in the longest request that is kept: given as many bytes, [`decode`] never answers
/// [`Decoded::Incomplete`].
pub const MAX_REQUEST: usize = 1 << 20;

// A line of one-letter words has fewer than may be kept.
const _: () = assert!(
    MAX_INLINE / 2 <= MAX_WORDS && MAX_INLINE <= MAX_WORD && MAX_WORD + MAX_INLINE < MAX_REQUEST
);

/// What the front of the input is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded<'a> {
    /// The beginning of a request: read more.
    Incomplete,
    /// A whole request; more may follow it.
    Request {
        /// Its words. None for an empty line or an empty array: to be skipped without a reply.
        words: Vec<&'a [u8]>,
        /// Bytes it took from the front of the input, never 0.
        used: usize,
    },
    /// A request that is not kept. More of it follows: feed that to `skip`, then answer `why`.
    TooLarge {
        /// What is too large.
        why: TooLarge,
        /// Knows where it ends.
        skip: Skip,
        /// Bytes it took from the front of the input, never 0.
        used: usize,
    },
}

/// Why a request is not kept; the text is the error reply, without its code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TooLarge {
    /// A word is longer than anything that fits a cell.
    #[error("word of {length} bytes is longer than {room}, what fits a cell (--cell-size)")]
    Word {
        /// Its length.
        length: usize,
        /// Most that is kept.
        room: usize,
    },
    /// It has more words than [`MAX_WORDS`].
    #[error("request of {0} words is longer than {MAX_WORDS}")]
    Words(usize),
    /// Its words are longer together than [`MAX_REQUEST`].
    #[error("request is longer than {MAX_REQUEST} bytes")]
    Request,
}

/// The rest of a request that is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Skip {
    /// Bytes of the present word and of its line end.
    bytes: usize,
    /// Words after that.
    words: usize,
}

impl Skip {
    /// Skips what is there. Returns how many bytes that was, and whether it was all.
    pub fn eat(&mut self, input: &[u8]) -> Result<(usize, bool), ProtocolError> {
        let mut rest = input;
        loop {
            let taken = self.bytes.min(rest.len());
            self.bytes -= taken;
            rest = &rest[taken..];
            if self.bytes > 0 || self.words == 0 {
                break;
            }
            let bulk = match rest {
                [] => break,
                [b'$', bulk @ ..] => bulk,
                [other, ..] => return Err(ProtocolError::ExpectedBulk(*other)),
            };
            let refusal = ProtocolError::InvalidBulkLength;
            let Some((size, body)) = length(bulk, SKIPPED_WORD, refusal)? else { break };
            self.words -= 1;
            self.bytes = size + b"\r\n".len();
            rest = body;
        }
        Ok((input.len() - rest.len(), self.bytes == 0 && self.words == 0))
    }
}

/// Why the bytes are not RESP. There is no way to find the next request: answer with
/// `ERR` and this text, then close.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// The array's length is not a number, or above Redis's own limit.
    #[error("Protocol error: invalid multibulk length")]
    InvalidMultibulkLength,
    /// A word's length is not a number from 0 to Redis's own limit.
    #[error("Protocol error: invalid bulk length")]
    InvalidBulkLength,
    /// An array holds something other than a bulk string, such as another array.
    #[error("Protocol error: expected '$', got '{}'", .0.escape_ascii())]
    ExpectedBulk(u8),
    /// A bulk string is longer than it said.
    #[error("Protocol error: expected CRLF after bulk")]
    ExpectedLineEnd,
    /// [`MAX_INLINE`] bytes and no line end.
    #[error("Protocol error: too big inline request")]
    TooBigInline,
    /// A quote that nothing closes, or a closing one with text right behind it.
    #[error("Protocol error: unbalanced quotes in request")]
    UnbalancedQuotes,
    /// A word that is not a slice of the line: an escape inside quotes, or a quote inside a word.
    #[error("Protocol error: escapes in inline words are not supported")]
    Escape,
}

impl ProtocolError {
    /// Whether it is one of a line of text, whose end is known: what follows can be understood.
    pub fn is_of_line(self) -> bool {
        matches!(self, Self::UnbalancedQuotes | Self::Escape)
    }
}

/// Decodes the request at the front of `input`.
pub fn decode(input: &[u8]) -> Result<Decoded<'_>, ProtocolError> {
    decode_within(input, MAX_WORD)
}

/// The same, where words longer than `room` (at most [`MAX_WORD`]) are of no use.
pub fn decode_within(input: &[u8], room: usize) -> Result<Decoded<'_>, ProtocolError> {
    match input {
        [b'*', b'-', rest @ ..] => Ok(negative(input.len(), rest)?),
        [b'*', rest @ ..] => array(input.len(), rest, room.min(MAX_WORD)),
        _ => inline(input),
    }
}

/// An array of less than nothing, which Redis skips.
fn negative(whole: usize, rest: &[u8]) -> Result<Decoded<'_>, ProtocolError> {
    let refusal = ProtocolError::InvalidMultibulkLength;
    Ok(match length(rest, SKIPPED_WORD, refusal)? {
        Some((_, after)) => Decoded::Request { words: Vec::new(), used: whole - after.len() },
        None => Decoded::Incomplete,
    })
}

/// Decodes what follows the `*` of an input of `whole` bytes.
fn array(whole: usize, rest: &[u8], room: usize) -> Result<Decoded<'_>, ProtocolError> {
    let refusal = ProtocolError::InvalidMultibulkLength;
    let Some((count, mut rest)) = length(rest, SKIPPED_WORDS, refusal)? else {
        return Ok(Decoded::Incomplete);
    };
    if count > MAX_WORDS {
        let skip = Skip { bytes: 0, words: count };
        return Ok(Decoded::TooLarge {
            why: TooLarge::Words(count),
            skip,
            used: whole - rest.len(),
        });
    }
    let mut words = Vec::with_capacity(count.min(USUAL_WORDS));
    while words.len() < count {
        let bulk = match rest {
            [] => return Ok(Decoded::Incomplete),
            [b'$', bulk @ ..] => bulk,
            [other, ..] => return Err(ProtocolError::ExpectedBulk(*other)),
        };
        let refusal = ProtocolError::InvalidBulkLength;
        let Some((size, body)) = length(bulk, SKIPPED_WORD, refusal)? else {
            return Ok(Decoded::Incomplete);
        };
        let (used, left) = (whole - body.len(), count - words.len() - 1);
        let why = if size > room {
            Some(TooLarge::Word { length: size, room })
        } else {
            // What follows takes at least "$0\r\n\r\n" a word.
            (used + size + 2 + left * 6 > MAX_REQUEST).then_some(TooLarge::Request)
        };
        if let Some(why) = why {
            let skip = Skip { bytes: size + 2, words: left };
            return Ok(Decoded::TooLarge { why, skip, used });
        }
        let Some((word, end)) = body.split_at_checked(size) else {
            return Ok(Decoded::Incomplete);
        };
        rest = match end {
            [b'\r', b'\n', rest @ ..] => rest,
            [] | [b'\r'] => return Ok(Decoded::Incomplete),
            _ => return Err(ProtocolError::ExpectedLineEnd),
        };
        words.push(word);
    }
    Ok(Decoded::Request { words, used: whole - rest.len() })
}

/// Reads decimal digits and CRLF; answers the number and what follows, or `None` if the input ends
/// first. As in Redis there is neither sign nor leading zero. So every digit makes the number
/// grow, `max` is passed after a handful of bytes, and the length of the line needs no limit.
fn length(
    input: &[u8],
    max: usize,
    refusal: ProtocolError,
) -> Result<Option<(usize, &[u8])>, ProtocolError> {
    let mut value = None;
    let mut rest = input;
    loop {
        match (rest, value) {
            ([], _) | ([b'\r'], Some(_)) => return Ok(None),
            ([b'\r', b'\n', rest @ ..], Some(value)) => return Ok(Some((value, rest))),
            ([digit @ b'0'..=b'9', tail @ ..], None | Some(1..)) => {
                let grown = value.unwrap_or(0) * 10 + usize::from(digit - b'0');
                if grown > max {
                    return Err(refusal);
                }
                value = Some(grown);
                rest = tail;
            }
            _ => return Err(refusal),
        }
    }
}

/// Decodes one line of words.
fn inline(input: &[u8]) -> Result<Decoded<'_>, ProtocolError> {
    let Some(end) = input.iter().take(MAX_INLINE + 1).position(|byte| *byte == b'\n') else {
        let endless = input.len() > MAX_INLINE;
        return if endless { Err(ProtocolError::TooBigInline) } else { Ok(Decoded::Incomplete) };
    };
    let mut words = Vec::new();
    let mut line = skip_blanks(&input[..end]);
    while !line.is_empty() {
        let (word, rest) = first_word(line)?;
        words.push(word);
        line = skip_blanks(rest);
    }
    Ok(Decoded::Request { words, used: end + 1 })
}

/// What separates words. A return does, so the one before the line feed needs no other care.
fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r')
}

fn skip_blanks(line: &[u8]) -> &[u8] {
    &line[line.iter().take_while(|byte| is_blank(**byte)).count()..]
}

/// Splits a line that does not begin with a blank behind its first word.
fn first_word(line: &[u8]) -> Result<(&[u8], &[u8]), ProtocolError> {
    if let [quote @ (b'"' | b'\''), rest @ ..] = line {
        return quoted(*quote, rest);
    }
    let ends = |byte: &u8| is_blank(*byte) || matches!(byte, b'"' | b'\'');
    let (word, rest) = line.split_at(line.iter().position(ends).unwrap_or(line.len()));
    match rest {
        // Redis glues `a"b"` together. We cannot, but an unbalanced quote is named as such.
        [quote @ (b'"' | b'\''), rest @ ..] => quoted(*quote, rest).and(Err(ProtocolError::Escape)),
        _ => Ok((word, rest)),
    }
}

/// Splits what follows an opening `quote` around the closing one. A backslash means something
/// before any byte in double quotes, and only before the quote itself in single ones.
fn quoted(quote: u8, text: &[u8]) -> Result<(&[u8], &[u8]), ProtocolError> {
    let mut escape = false;
    let mut rest = text;
    loop {
        rest = match rest {
            [] => return Err(ProtocolError::UnbalancedQuotes),
            [b'\\', next, tail @ ..] if quote == b'"' || *next == quote => {
                escape = true;
                tail
            }
            [byte, tail @ ..] if *byte == quote => {
                if !tail.first().is_none_or(|next| is_blank(*next)) {
                    return Err(ProtocolError::UnbalancedQuotes);
                }
                if escape {
                    return Err(ProtocolError::Escape);
                }
                return Ok((&text[..text.len() - rest.len()], tail));
            }
            [_, tail @ ..] => tail,
        };
    }
}

/// Version of the protocol that a client asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// RESP2, what everybody starts with.
    #[default]
    Two,
    /// RESP3, after `HELLO 3`: null and maps have types of their own.
    Three,
}

/// Appends replies to an output buffer: `Reply(&mut output, Protocol::Two).integer(1)`.
#[derive(Debug)]
pub struct Reply<'a>(pub &'a mut Vec<u8>, pub Protocol);

impl Reply<'_> {
    /// A short text such as `OK`. Line ends in it are dropped.
    pub fn simple(&mut self, text: &str) {
        self.line(b'+', text);
    }

    /// An error, its first word being the code (`ERR`, `OOM`). Line ends in it are dropped: texts
    /// may quote a client, and a line end would let it forge a second reply.
    pub fn error(&mut self, text: &str) {
        self.line(b'-', text);
    }

    /// A number.
    pub fn integer(&mut self, value: i64) {
        self.line(b':', &value.to_string());
    }

    /// Any bytes.
    pub fn bulk(&mut self, bytes: &[u8]) {
        self.line(b'$', &bytes.len().to_string());
        self.0.extend_from_slice(bytes);
        self.0.extend_from_slice(b"\r\n");
    }

    /// No value: what `GET` answers for a key that is not there.
    pub fn null(&mut self) {
        match self.1 {
            Protocol::Two => self.line(b'$', "-1"),
            Protocol::Three => self.line(b'_', ""),
        }
    }

    /// The head of a map: the next `2 * len` replies are its keys and values in turn.
    pub fn map(&mut self, len: usize) {
        match self.1 {
            Protocol::Two => self.array(2 * len),
            Protocol::Three => self.line(b'%', &len.to_string()),
        }
    }

    /// The head of an array: the next `len` replies are its elements.
    pub fn array(&mut self, len: usize) {
        self.line(b'*', &len.to_string());
    }

    fn line(&mut self, kind: u8, text: &str) {
        self.0.push(kind);
        self.0.extend(text.bytes().filter(|byte| !matches!(byte, b'\r' | b'\n')));
        self.0.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Words = &'static [&'static [u8]];

    const REQUESTS: &[(&str, &[u8], Words)] = &[
        ("array", b"*1\r\n$4\r\nPING\r\n", &[b"PING"]),
        ("array of two", b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n", &[b"GET", b"k"]),
        ("empty word", b"*2\r\n$4\r\nECHO\r\n$0\r\n\r\n", &[b"ECHO", b""]),
        ("line end in a word", b"*1\r\n$4\r\n\r\n\0\xff\r\n", &[b"\r\n\0\xff"]),
        ("ten bytes", b"*1\r\n$10\r\n0123456789\r\n", &[b"0123456789"]),
        ("empty array", b"*0\r\n", &[]),
        ("an array of less than nothing", b"*-10\r\n", &[]),
        ("inline", b"PING\r\n", &[b"PING"]),
        ("inline, bare line feed", b"GET k\n", &[b"GET", b"k"]),
        ("empty line", b"\r\n", &[]),
        ("empty line, bare line feed", b"\n", &[]),
        ("blank line", b" \t \r\n", &[]),
        ("blanks around words", b" \tSET  k\t v \r\n", &[b"SET", b"k", b"v"]),
        ("double quotes", b"SET k \"a 'b' c\"\r\n", &[b"SET", b"k", b"a 'b' c"]),
        ("single quotes", b"SET k 'a \"b\" c'\n", &[b"SET", b"k", b"a \"b\" c"]),
        ("empty quotes", b"SET k \"\"\r\n", &[b"SET", b"k", b""]),
        ("backslash in a bare word", b"KEYS a\\*\r\n", &[b"KEYS", b"a\\*"]),
        ("backslash in single quotes", b"KEYS 'a\\*'\r\n", &[b"KEYS", b"a\\*"]),
        ("other controls are text", b"SET k \x0b\x0c\0\n", &[b"SET", b"k", b"\x0b\x0c\0"]),
        ("bulk outside an array", b"$4\r\n", &[b"$4"]),
        ("star inside a line", b"KEYS *\r\n", &[b"KEYS", b"*"]),
    ];

    #[test]
    fn whole_requests_are_decoded_and_what_follows_is_left() {
        for (name, input, words) in REQUESTS {
            let expected = Decoded::Request { words: words.to_vec(), used: input.len() };
            for rest in [&b""[..], b"*", b"PING\r\n", b"\0\xff\n", b"*-1\r\n"] {
                let input = [input, rest].concat();
                assert_eq!(decode(&input), Ok(expected.clone()), "{name}, then {rest:?}");
            }
        }
    }

    #[test]
    fn a_request_cut_anywhere_is_incomplete() {
        for (name, input, _) in REQUESTS {
            for cut in 0..input.len() {
                assert_eq!(decode(&input[..cut]), Ok(Decoded::Incomplete), "{name} cut at {cut}");
            }
        }
    }

    /// What is not kept is skipped to its very end, in pieces of any size.
    #[test]
    fn too_large_requests_are_skipped_whole() {
        let word = |length: usize| {
            [format!("${length}\r\n").as_bytes(), &vec![b'$'; length], b"\r\n"].concat()
        };
        let many = [b"*65537\r\n".to_vec(), word(1).repeat(65_537)].concat();
        let long = [b"*3\r\n".to_vec(), word(3), word(1025), word(2000)].concat();
        let whole = [b"*1024\r\n".to_vec(), word(1024).repeat(1024)].concat();
        for (name, request, why) in [
            ("many", many, TooLarge::Words(65_537)),
            ("long", long, TooLarge::Word { length: 1025, room: 1024 }),
            ("whole", whole, TooLarge::Request),
        ] {
            let input = [&request[..], b"PING\r\n"].concat();
            let Ok(Decoded::TooLarge { why: seen, mut skip, used }) = decode_within(&input, 1024)
            else {
                panic!("{name} is kept");
            };
            assert_eq!((seen, used < request.len()), (why, true), "{name}");
            let (mut at, mut held, mut done) = (used, 0, false);
            for piece in 1.. {
                let there = (at + held + piece % 700 + 1).min(input.len());
                let (eaten, all) = skip.eat(&input[at..there]).expect("sound");
                (at, held, done) = (at + eaten, there - at - eaten, all);
                if done || there == input.len() {
                    break;
                }
                assert!(held < 32, "{name}: a head of {held} bytes");
            }
            assert!(done, "{name}");
            assert_eq!(at, request.len(), "{name}");
        }
        assert!(matches!(decode(b"*1\r\n$536870912\r\n"), Ok(Decoded::TooLarge { .. })));
        assert_eq!(decode(b"*1\r\n$536870913\r\n"), Err(ProtocolError::InvalidBulkLength));
        assert!(matches!(decode(b"*1048576\r\n"), Ok(Decoded::TooLarge { .. })));
    }

    #[test]
    fn malformed_requests_are_refused() {
        use ProtocolError as E;
        let table: &[(&str, &[u8], E)] = &[
            ("array without length", b"*\r\n", E::InvalidMultibulkLength),
            ("letters as array length", b"*x", E::InvalidMultibulkLength),
            ("signed array length", b"*+1\r\n", E::InvalidMultibulkLength),
            ("array length after a blank", b"* 1\r\n", E::InvalidMultibulkLength),
            ("array length with leading zero", b"*01\r\n", E::InvalidMultibulkLength),
            ("many words", b"*1048577\r\n", E::InvalidMultibulkLength),
            ("minus, no number", b"*-\r\n", E::InvalidMultibulkLength),
            ("huge array", b"*18446744073709551617", E::InvalidMultibulkLength),
            ("array length, bare line feed", b"*1\n", E::InvalidMultibulkLength),
            ("array length, bare return", b"*1\r$", E::InvalidMultibulkLength),
            ("null word", b"*1\r\n$-1\r\n", E::InvalidBulkLength),
            ("word without length", b"*1\r\n$\r\n", E::InvalidBulkLength),
            ("letters as word length", b"*1\r\n$4x\r\n", E::InvalidBulkLength),
            ("endless zeros", b"*1\r\n$00000000", E::InvalidBulkLength),
            ("huge word", b"*1\r\n$99999999999999999999", E::InvalidBulkLength),
            ("nested array", b"*1\r\n*1\r\n", E::ExpectedBulk(b'*')),
            ("integer in an array", b"*1\r\n:1\r\n", E::ExpectedBulk(b':')),
            ("word longer than it said", b"*1\r\n$3\r\nPING\r\n", E::ExpectedLineEnd),
            ("word with half a line end", b"*1\r\n$4\r\nPING\r!", E::ExpectedLineEnd),
            ("open double quote", b"GET \"k\r\n", E::UnbalancedQuotes),
            ("open single quote", b"GET 'k\n", E::UnbalancedQuotes),
            ("text behind a quote", b"GET \"k\"x\n", E::UnbalancedQuotes),
            ("apostrophe", b"SET k it's\n", E::UnbalancedQuotes),
            ("escaped closing quote", b"GET \"k\\\"\n", E::UnbalancedQuotes),
            ("backslash at the end", b"GET \"k\\\n", E::UnbalancedQuotes),
            ("escape in double quotes", b"GET \"a\\nb\"\n", E::Escape),
            ("quote in single quotes", b"GET 'it\\'s'\n", E::Escape),
            ("quotes inside a word", b"GET a\"b\"\n", E::Escape),
        ];
        for (name, input, expected) in table {
            assert_eq!(decode(input), Err(*expected), "{name}");
        }
    }

    #[test]
    fn errors_are_worded_as_in_redis() {
        let text = |input: &[u8]| decode(input).unwrap_err().to_string();
        assert_eq!(text(b"*x"), "Protocol error: invalid multibulk length");
        assert_eq!(text(b"*1\r\n$-1\r\n"), "Protocol error: invalid bulk length");
        assert_eq!(text(b"*1\r\nx"), "Protocol error: expected '$', got 'x'");
        assert_eq!(text(b"*1\r\n\r\n"), "Protocol error: expected '$', got '\\r'");
        assert_eq!(text(b"'\n"), "Protocol error: unbalanced quotes in request");
        let endless = vec![b'x'; MAX_INLINE + 1];
        assert_eq!(text(&endless), "Protocol error: too big inline request");
    }

    #[test]
    fn an_inline_line_is_accepted_up_to_its_limit() {
        let mut line = vec![b'x'; MAX_INLINE];
        assert_eq!(decode(&line), Ok(Decoded::Incomplete));
        line.push(b'\n');
        let words = vec![&line[..MAX_INLINE]];
        assert_eq!(decode(&line), Ok(Decoded::Request { words, used: line.len() }));
        line.insert(0, b'x');
        assert_eq!(decode(&line), Err(ProtocolError::TooBigInline));
    }

    #[test]
    fn the_longest_request_is_as_long_as_the_constant_says() {
        // "*2\r\n", and twice "$524...\r\n" with its line end.
        let heads = b"*2\r\n".len() + 2 * b"$500000\r\n\r\n".len();
        let words = [vec![b'x'; MAX_WORD], vec![b'y'; MAX_REQUEST - heads - MAX_WORD]];
        let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
        let input = encoded(&words);
        assert_eq!(input.len(), MAX_REQUEST);
        assert_eq!(decode(&input[..MAX_REQUEST - 1]), Ok(Decoded::Incomplete));
        assert_eq!(decode(&input), Ok(Decoded::Request { words, used: MAX_REQUEST }));
    }

    #[test]
    fn version_3_has_its_own_null_and_maps() {
        let mut output = Vec::new();
        let mut reply = Reply(&mut output, Protocol::Three);
        reply.null();
        reply.map(1);
        assert_eq!(output, b"_\r\n%1\r\n");
        output.clear();
        Reply(&mut output, Protocol::Two).map(2);
        assert_eq!(output, b"*4\r\n");
    }

    #[test]
    fn replies_are_encoded() {
        type Write = fn(&mut Reply<'_>);
        let table: &[(&str, Write, &[u8])] = &[
            ("simple", |r| r.simple("OK"), b"+OK\r\n"),
            ("simple with line ends", |r| r.simple("O\r\nK"), b"+OK\r\n"),
            ("error", |r| r.error("ERR no"), b"-ERR no\r\n"),
            ("forged reply", |r| r.error("ERR 'x\r\n+OK\r\n'"), b"-ERR 'x+OK'\r\n"),
            ("zero", |r| r.integer(0), b":0\r\n"),
            ("smallest", |r| r.integer(i64::MIN), b":-9223372036854775808\r\n"),
            ("bulk", |r| r.bulk(b"a\r\n\0b"), b"$5\r\na\r\n\0b\r\n"),
            ("empty bulk", |r| r.bulk(b""), b"$0\r\n\r\n"),
            ("null", |r| r.null(), b"$-1\r\n"),
            ("array", |r| r.array(0), b"*0\r\n"),
        ];
        for (name, write, expected) in table {
            let mut output = b"before".to_vec();
            write(&mut Reply(&mut output, Protocol::Two));
            assert_eq!(output, [b"before", *expected].concat(), "{name}");
        }
    }

    fn encoded(words: &[&[u8]]) -> Vec<u8> {
        let mut output = Vec::new();
        let mut reply = Reply(&mut output, Protocol::Two);
        reply.array(words.len());
        for word in words {
            reply.bulk(word);
        }
        output
    }

    /// Bytes that often come near a request: arbitrary ones hardly ever pass the first digit.
    fn near_requests() -> impl Strategy<Value = Vec<u8>> {
        const PIECES: &[&str] = &[
            "*1",
            "*2",
            "*0",
            "$0",
            "$3",
            "$-1",
            "\r\n",
            "\n",
            "\r",
            "GET",
            "\"",
            "'",
            "\\",
            " ",
            "\r\n$1\r\nk\r\n",
            "*1\r\n$4\r\nPING\r\n",
        ];
        prop::collection::vec(prop::sample::select(PIECES), 0..12)
            .prop_map(|pieces| pieces.concat().into_bytes())
    }

    /// Every prefix agrees with the whole: incomplete first, then the same answer for ever.
    fn check(input: &[u8]) -> Result<(), TestCaseError> {
        let whole = decode(input);
        if let Ok(Decoded::Request { words, used }) = &whole {
            prop_assert!((1..=input.len()).contains(used) && words.len() <= MAX_WORDS);
            prop_assert_eq!(&decode(&input[..*used]), &whole);
            for cut in 0..*used {
                prop_assert_eq!(decode(&input[..cut]), Ok(Decoded::Incomplete));
            }
        }
        for cut in 0..input.len() {
            let part = decode(&input[..cut]);
            prop_assert!(part == Ok(Decoded::Incomplete) || part == whole);
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(input in prop::collection::vec(any::<u8>(), 0..200)) {
            check(&input)?;
        }

        #[test]
        fn near_requests_never_panic(input in near_requests()) {
            check(&input)?;
        }

        #[test]
        fn what_is_encoded_is_decoded(
            words in prop::collection::vec(
                prop::collection::vec(any::<u8>(), 0..40), 0..=64),
            rest in prop::collection::vec(any::<u8>(), 0..9),
        ) {
            let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
            let mut input = encoded(&words);
            let used = input.len();
            input.extend(rest);
            prop_assert_eq!(decode(&input), Ok(Decoded::Request { words, used }));
        }
    }
}
