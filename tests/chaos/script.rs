//! Scripts of faults: written down, read again, drawn from a seed.

use std::fmt;
use std::str::FromStr;

use super::common::{PRIMARY, Random};
use super::faults::{FAULTS, Fault, Row, Whom};

/// One fault: `WORD[:SLOT+SLOT..][/SPAN][@AFTER]`, in milliseconds since the strike before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Strike {
    pub fault: Fault,
    pub slots: Vec<usize>,
    pub span: u64,
    pub after: u64,
}

/// What strikes together.
pub type Round = Vec<Strike>;

/// `workers=N; ROUND; ROUND...`, the strikes of a round separated by commas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    pub workers: usize,
    pub rounds: Vec<Round>,
}

impl fmt::Display for Strike {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.fault.word())?;
        for (number, slot) in self.slots.iter().enumerate() {
            write!(f, "{}{slot}", if number == 0 { ':' } else { '+' })?;
        }
        for (mark, time) in [('/', self.span), ('@', self.after)] {
            if time > 0 {
                write!(f, "{mark}{time}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "workers={}", self.workers)?;
        for round in &self.rounds {
            let strikes: Vec<_> = round.iter().map(ToString::to_string).collect();
            write!(f, "; {}", strikes.join(", "))?;
        }
        Ok(())
    }
}

impl FromStr for Strike {
    type Err = String;

    fn from_str(text: &str) -> Result<Strike, String> {
        let number = |digits: &str| digits.parse().map_err(|error| format!("{text}: {error}"));
        let (rest, after) = text.split_once('@').unwrap_or((text, "0"));
        let (rest, span) = rest.split_once('/').unwrap_or((rest, "0"));
        let (word, slots) = rest.split_once(':').unwrap_or((rest, ""));
        let row = FAULTS.iter().find(|row| row.word == word);
        let slots = slots.split('+').filter(|slot| !slot.is_empty()).map(str::parse);
        Ok(Strike {
            fault: row.ok_or_else(|| format!("no fault {word:?}"))?.fault,
            slots: slots.collect::<Result<_, _>>().map_err(|error| format!("{text}: {error}"))?,
            span: number(span)?,
            after: number(after)?,
        })
    }
}

impl FromStr for Script {
    type Err = String;

    fn from_str(text: &str) -> Result<Script, String> {
        let (head, rounds) = text.split_once(';').unwrap_or((text, ""));
        let workers = head.trim().strip_prefix("workers=").and_then(|count| count.parse().ok());
        let strikes = |round: &str| round.split(',').map(|text| text.trim().parse()).collect();
        let rounds = rounds.split(';').filter(|round| !round.trim().is_empty()).map(strikes);
        let script = Script {
            workers: workers.ok_or("a script begins with workers=N")?,
            rounds: rounds.collect::<Result<_, _>>()?,
        };
        let aimed = |strike: &Strike| {
            let at_nobody = matches!(strike.fault.row().whom, Whom::Nobody);
            let known = strike.slots.iter().all(|slot| *slot <= script.workers);
            known && at_nobody == strike.slots.is_empty()
        };
        match script.rounds.iter().flatten().find(|strike| !aimed(strike)) {
            Some(strike) => Err(format!("{strike}: no such slots")),
            None => Ok(script),
        }
    }
}

/// Draws rounds without end. Faults are dealt from a shuffled deck, so that each has its turn.
pub struct Draw {
    random: Random,
    pub workers: usize,
    deck: Vec<&'static Row>,
}

impl Draw {
    pub fn new(seed: u64) -> Draw {
        let mut random = Random::new(seed);
        let workers = 1 + random.below(4);
        Draw { random, workers, deck: Vec::new() }
    }

    fn within(&mut self, spans: &[(u64, u64)]) -> u64 {
        if spans.is_empty() {
            return 0;
        }
        let (least, most) = spans[self.random.below(spans.len())];
        least + self.random.next() % (most - least + 1)
    }

    fn strike(&mut self, is_first: bool) -> Strike {
        if self.deck.is_empty() {
            self.deck = FAULTS.iter().flat_map(|row| vec![row; row.share]).collect();
        }
        let card = self.random.below(self.deck.len());
        let &Row { fault, whom, spans, .. } = self.deck.swap_remove(card);
        let secondary = 1 + self.random.below(self.workers);
        let slots = match (whom, self.random.below(10)) {
            (Whom::Nobody, _) => Vec::new(),
            (Whom::Several, 0) => (0..=self.workers).collect(),
            (Whom::Several, 1 | 2) => vec![PRIMARY, secondary],
            (Whom::Several | Whom::One, 3..=5) => vec![PRIMARY],
            (Whom::Secondaries, 0..=4) => (1..=self.workers).collect(),
            _ => vec![secondary],
        };
        let span = self.within(spans);
        // The first leaves the clients some time; the others meet it, or its recovery.
        let after =
            self.within(if is_first { &[(50, 400)] } else { &[(0, 0), (1, 30), (30, 700)] });
        Strike { fault, slots, span, after }
    }
}

impl Iterator for Draw {
    type Item = Round;

    fn next(&mut self) -> Option<Round> {
        let count = [1, 1, 1, 1, 2, 2, 3][self.random.below(7)];
        Some((0..count).map(|number| self.strike(number == 0)).collect())
    }
}

#[test]
fn a_script_is_read_as_it_was_written() {
    for seed in 0..200 {
        let mut draw = Draw::new(seed);
        let script = Script { workers: draw.workers, rounds: draw.by_ref().take(20).collect() };
        assert_eq!(script.to_string().parse(), Ok(script.clone()), "{script}");
        let mut again = Draw::new(seed);
        assert!(again.by_ref().take(20).eq(script.rounds), "one seed, one script");
    }
    let short: Script = "workers=2; kill:0+2; pause/70, stale:1/3@9;".parse().unwrap();
    assert_eq!(short.to_string(), "workers=2; kill:0+2; pause/70, stale:1/3@9");
    for wrong in ["", "kill:1", "workers=1; kill:2", "workers=1; hill:1", "workers=1; kill"] {
        assert!(wrong.parse::<Script>().is_err(), "{wrong}");
    }
}
