//! Scripts of faults: written down, read again, drawn from a seed.

use std::fmt;
use std::str::FromStr;

use super::common::{PRIMARY, Random};
use super::faults::{FAULTS, Fault, Row, Whom};
use super::world::World;

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

/// `WORLD; ROUND; ROUND...`, the strikes of a round separated by commas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    pub world: World,
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
        write!(f, "{}", self.world)?;
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
        let strikes = |round: &str| round.split(',').map(|text| text.trim().parse()).collect();
        let rounds = rounds.split(';').filter(|round| !round.trim().is_empty()).map(strikes);
        let script =
            Script { world: head.trim().parse()?, rounds: rounds.collect::<Result<_, _>>()? };
        let aimed = |strike: &Strike| {
            let at_nobody = matches!(strike.fault.row().whom, Whom::Nobody);
            let known = strike.slots.iter().all(|slot| *slot < script.world.slots());
            known && script.world.has(strike.fault) && at_nobody == strike.slots.is_empty()
        };
        match script.rounds.iter().flatten().find(|strike| !aimed(strike)) {
            Some(strike) => Err(format!("{strike}: no such slots, or not in this world")),
            None => Ok(script),
        }
    }
}

/// Draws rounds without end. Faults are dealt from a shuffled deck, so that each has its turn.
pub struct Draw {
    random: Random,
    pub world: World,
    deck: Vec<&'static Row>,
}

impl Draw {
    pub fn of_pair(seed: u64) -> Draw {
        let mut random = Random::new(seed);
        let world = World::Pair { workers: 1 + random.below(4) };
        Draw { random, world, deck: Vec::new() }
    }

    pub fn of_services(seed: u64) -> Draw {
        Draw { random: Random::new(seed), world: World::Services, deck: Vec::new() }
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
            let share = |row: &Row| row.shares[self.world.place()];
            self.deck = FAULTS.iter().flat_map(|row| vec![row; share(row)]).collect();
        }
        let card = self.random.below(self.deck.len());
        let &Row { fault, whom, spans, .. } = self.deck.swap_remove(card);
        let slots = self.world.slots();
        let secondary = 1 + self.random.below(slots - 1);
        let slots = match (whom, self.random.below(10)) {
            (Whom::Nobody, _) => Vec::new(),
            (Whom::Several, 0) => (0..slots).collect(),
            (Whom::Several, 1 | 2) => vec![PRIMARY, secondary],
            (Whom::Several | Whom::One, 3..=5) => vec![PRIMARY],
            (Whom::Secondaries, 0..=4) => (1..slots).collect(),
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
        let new = if seed % 2 == 0 { Draw::of_pair } else { Draw::of_services };
        let mut draw = new(seed);
        let script = Script { world: draw.world, rounds: draw.by_ref().take(20).collect() };
        assert_eq!(script.to_string().parse(), Ok(script.clone()), "{script}");
        assert!(new(seed).take(20).eq(script.rounds), "one seed, one script");
    }
    let short: Script = "workers=2; kill:0+2; pause/70, stale:1/3@9;".parse().unwrap();
    assert_eq!(short.to_string(), "workers=2; kill:0+2; pause/70, stale:1/3@9");
    let wrong = ["", "kill:1", "workers=1; kill:2", "workers=1; hill:1", "workers=1; kill"];
    for wrong in wrong.into_iter().chain(["workers=1; slip", "services; spin:1", "service"]) {
        assert!(wrong.parse::<Script>().is_err(), "{wrong}");
    }
}
