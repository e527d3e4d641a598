//! The world of the automata: three servers, their tubes, the owner word, the watchdog. What can
//! happen is a [`Step`]; between any two steps anything else may happen.
//!
//! ```text
//!     arbiter, holder 0          tubes            holder 1, holder 2
//!   +-------------------+  down: recall, other +-------------------+
//!   |  primary          | -------------------> |  secondaries      |
//!   |                   | <------------------- |                   |
//!   +---------+---------+  up: request,        +---------+---------+
//!             |            release, other                |
//!             +--- owner word, pending recall, pages ----+
//!                                |
//!                            watchdog
//! ```
//!
//! Where the program does things in one order, or for a reason, the world does them in any order
//! and for none: a successor may start before the word is cleared, a holder may give back unasked,
//! a recall may come at once. What holds here, holds there.
//!
//! Memory is read and written in two steps wherever something may come between that matters: an
//! update begins and ends, a decision of the arbiter is made and carried out. A holder's look is
//! one step, for what it concludes stays true: nobody takes the word from a living process but
//! itself, and a `request` or `release` that is sent late is one that was long in its tube. So is
//! the watchdog's retirement: the dead stay dead, and its exchange fails if the word moved.
//!
//! A *frozen* server takes no step for a while; it needs no state of its own. A *killed* one has
//! one until its death is confirmed: what it had begun may still reach memory.

use std::collections::VecDeque;

use osps_heart::ids::{Epoch, Generation, Owner, SlotId};
use osps_heart::ownership::{Arbiter, ArbiterAction, Holder, HolderAction, names, retired};

/// The primary and two secondaries.
pub const SLOTS: usize = 3;
/// Rounds in which everybody takes a turn and every frame arrives, within which all three get a
/// grant once faults stop, each in turn recalled from the one before.
pub const ROUNDS: usize = 4;

/// A rule that is broken on purpose: in the smallest place around the automata, which are the real
/// ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    None,
    /// A holder takes what it gave back for its own as long as the word names it.
    ForgetsReleases,
    /// A holder gives back what it is asked for in the middle of an update.
    GivesBackInAnUpdate,
    /// Holders say everything once.
    NeverRepeats,
    /// Who was killed is retired although its death is not confirmed.
    RetiresTheUnconfirmed,
    /// The word of a dead generation stays.
    NeverRetires,
    /// A release is good for any epoch.
    ReleasesAnyEpoch,
    /// A release is good for any generation of its slot.
    ReleasesForSuccessors,
    /// The arbiter takes the word for free, whoever holds it.
    GrantsTheHeld,
    /// A grant keeps the epoch.
    ReusesEpochs,
    /// Who died while it waited goes on waiting.
    QueuesTheDead,
}

/// What does not change in a world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    pub mutant: Mutant,
    /// Slots in use, the primary's included.
    pub servers: usize,
    /// Frames that fit into a tube, upwards and downwards.
    pub room: [usize; 2],
    /// Frames to or from former generations are dropped, as a link does it. Safety must not depend
    /// on it.
    pub filters: bool,
}

/// A tube: the pair of its secondary, and the direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tube {
    Up(usize),
    Down(usize),
}

impl Tube {
    /// The slots of its writer and its reader.
    pub fn ends(self) -> (usize, usize) {
        match self {
            Tube::Up(slot) => (slot, 0),
            Tube::Down(slot) => (0, slot),
        }
    }
}

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A holder looks. `wants` = clients wait; `again` = it repeats what may have been lost.
    Look { slot: usize, wants: bool, again: bool },
    /// It finds that it owns the area, and starts to write: an update, or a piece of levelling.
    Begin(usize),
    /// What it began reaches memory.
    End(usize),
    /// It gives back unasked, as who leaves does. Its end is a [`Step::Kill`] at any time later.
    Leave(usize),
    /// The reader of a tube takes the next frame and acts on it.
    Take(Tube),
    /// It takes the next frame, and dies or throws it away.
    Lose(Tube),
    /// Somebody sends a frame that means nothing to the automata: the watchdog its `lost`, due or
    /// not, or the peer a `ping`, `pong`, `grant`, `job`. It takes room, and its reader takes a
    /// turn, which it may take at any time.
    Other(Tube),
    /// The arbiter looks at word and pages, and decides; `over` = the holder had its time.
    Decide { over: bool },
    /// What it decided reaches memory.
    CarryOut,
    /// Its second is over: it may say again what it said.
    Repeat,
    /// A server dies, or is killed as it lies.
    Kill(usize),
    /// The kernel says that it is dead, and its page says so.
    Confirm(usize),
    /// The watchdog looks at the word.
    Retire,
    /// A successor starts.
    Spawn(usize),
}

impl Step {
    /// Every step there is with so many servers.
    pub fn all(servers: usize) -> Vec<Step> {
        let mut all = vec![Step::CarryOut, Step::Repeat, Step::Retire];
        all.extend([false, true].map(|over| Step::Decide { over }));
        for slot in 0..servers {
            let look = |number: u8| (number & 1 > 0, number & 2 > 0);
            all.extend((0..4).map(look).map(|(wants, again)| Step::Look { slot, wants, again }));
            all.extend([Step::Begin, Step::End, Step::Leave].map(|step| step(slot)));
            all.extend([Step::Kill, Step::Confirm, Step::Spawn].map(|step| step(slot)));
        }
        for tube in (1..servers).flat_map(|slot| [Tube::Up(slot), Tube::Down(slot)]) {
            all.extend([Step::Take, Step::Lose, Step::Other].map(|step| step(tube)));
        }
        all
    }
}

/// Something that a step brought about: counted, to show that nobody was idle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    Granted,
    Wrote,
    WroteWhileWanted,
    LandedAfterTheKill,
    GaveBack,
    GaveBackUnasked,
    Recalled,
    DiedRecalled,
    Retired,
    LostARace,
    DroppedOldMail,
    FoundATubeFull,
}

impl Event {
    pub const ALL: [Event; 12] = [
        Event::Granted,
        Event::Wrote,
        Event::WroteWhileWanted,
        Event::LandedAfterTheKill,
        Event::GaveBack,
        Event::GaveBackUnasked,
        Event::Recalled,
        Event::DiedRecalled,
        Event::Retired,
        Event::LostARace,
        Event::DroppedOldMail,
        Event::FoundATubeFull,
    ];
}

/// A set of events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Events(u16);

impl Events {
    fn add(&mut self, event: Event) {
        self.0 |= 1 << event as u16;
    }

    pub fn iter(self) -> impl Iterator<Item = Event> {
        Event::ALL.into_iter().filter(move |event| self.0 & (1 << *event as u16) != 0)
    }
}

/// A law, as it reads when it is broken.
pub type Broken = &'static str;
pub const TWO_WRITERS: Broken = "two may write";
pub const STALE_EPOCH: Broken = "an update under a stale epoch";
pub const SECOND_GRANT: Broken = "an epoch is granted twice";
pub const FROM_THE_DEAD: Broken = "a former generation has an effect";
pub const STARVED: Broken = "who wants to write gets no turn";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Life {
    Alive,
    /// It takes no further step, but what it had begun may still reach memory.
    Killed,
    /// Confirmed.
    Dead,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    pub generation: Generation,
    pub life: Life,
    pub holder: Holder,
    /// The epoch under which it found that it may write, and began.
    pub writing: Option<Epoch>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    HolderAction(HolderAction),
    Recall(Epoch),
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    pub from: Generation,
    pub to: Generation,
    pub message: Message,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct World {
    pub rules: Rules,
    pub word: Owner,
    pub recall: Option<Epoch>,
    pub arbiter: Arbiter,
    /// What the arbiter decided and did not carry out yet; the word may change meanwhile.
    pub decision: Option<ArbiterAction>,
    pub processes: [Process; SLOTS],
    /// Of each secondary; those of the primary stay empty.
    up: [VecDeque<Frame>; SLOTS],
    down: [VecDeque<Frame>; SLOTS],
    /// Given out last: one counter serves all slots.
    pub generation: Generation,
    pub broken: Option<Broken>,
    /// What the last step brought about.
    pub events: Events,
}

fn id(slot: usize) -> SlotId {
    SlotId(u8::try_from(slot).unwrap())
}

fn process(slot: usize, generation: Generation, life: Life) -> Process {
    Process { generation, life, holder: Holder::new(id(slot), generation), writing: None }
}

impl World {
    /// The servers were just started; epochs and generations go on from these.
    pub fn new(rules: Rules, epoch: Epoch, Generation(mut generation): Generation) -> World {
        let process = |slot: usize| {
            generation += 1;
            let life = if slot < rules.servers { Life::Alive } else { Life::Dead };
            process(slot, Generation(generation), life)
        };
        let processes = std::array::from_fn(process);
        World {
            rules,
            word: Owner { epoch, ..Owner::NONE },
            recall: None,
            arbiter: Arbiter::new(),
            decision: None,
            processes,
            up: Default::default(),
            down: Default::default(),
            generation: Generation(generation),
            broken: None,
            events: Events::default(),
        }
    }

    /// Whether this can happen now. A server has one thread: in the middle of an update, or of an
    /// arbitration, it does nothing else. It may look, though: the holder promises to keep what it
    /// writes under.
    pub fn allows(&self, step: Step) -> bool {
        let alive = |slot: usize| self.processes[slot].life == Life::Alive;
        let deciding = |slot: usize| slot == 0 && self.decision.is_some();
        let writing = |slot: usize| self.processes[slot].writing.is_some();
        let idle = |slot: usize| alive(slot) && !deciding(slot) && !writing(slot);
        match step {
            Step::Look { slot, .. } => alive(slot) && !deciding(slot),
            Step::Begin(slot) | Step::Leave(slot) => idle(slot) && self.owns(slot).is_some(),
            Step::End(slot) => writing(slot),
            Step::Take(tube) => idle(tube.ends().1) && !self.tube(tube).is_empty(),
            Step::Lose(tube) => !self.tube(tube).is_empty(),
            Step::Other(tube) => self.tube(tube).len() < self.room(tube),
            Step::Decide { .. } | Step::Repeat => idle(0),
            Step::CarryOut => self.decision.is_some(),
            Step::Kill(slot) => alive(slot),
            Step::Confirm(slot) => self.processes[slot].life == Life::Killed,
            Step::Retire => true,
            Step::Spawn(slot) => {
                slot < self.rules.servers && self.processes[slot].life == Life::Dead
            }
        }
    }

    /// Does it, if it can happen now.
    pub fn step(&mut self, step: Step) -> bool {
        self.events = Events::default();
        if !self.allows(step) {
            return false;
        }
        match step {
            Step::Look { slot, wants, again } => self.look(slot, wants, again),
            Step::Begin(slot) => self.processes[slot].writing = self.owns(slot),
            Step::End(slot) => self.end(slot),
            Step::Leave(slot) => {
                let action = self.processes[slot].holder.leave(self.word);
                self.events.add(Event::GaveBackUnasked);
                self.plead(slot, action);
            }
            Step::Take(tube) => self.take(tube),
            Step::Lose(tube) => drop(self.tube_mut(tube).pop_front()),
            Step::Other(tube) => self.send(tube, Message::Other),
            Step::Decide { over } => self.decide(over),
            Step::CarryOut => self.carry_out(),
            Step::Repeat => self.arbiter.repeat(),
            Step::Kill(slot) => self.kill(slot),
            Step::Confirm(slot) => self.confirm(slot),
            Step::Retire => self.retire(),
            Step::Spawn(slot) => {
                self.generation.0 += 1;
                self.processes[slot] = process(slot, self.generation, Life::Alive);
            }
        }
        true
    }

    /// What the pages say.
    fn live(&self) -> impl Fn(SlotId) -> Option<Generation> + use<> {
        let hasty = self.rules.mutant == Mutant::RetiresTheUnconfirmed;
        let live = self.processes.each_ref().map(|process| match process.life {
            Life::Killed if hasty => None,
            Life::Alive | Life::Killed => Some(process.generation),
            Life::Dead => None,
        });
        move |slot| live.get(slot.index()).copied().flatten()
    }

    pub fn owns(&self, slot: usize) -> Option<Epoch> {
        let process = &self.processes[slot];
        if self.rules.mutant == Mutant::ForgetsReleases {
            return Holder::new(id(slot), process.generation).owns(self.word);
        }
        process.holder.owns(self.word)
    }

    /// The exchange of the whole word.
    fn exchange(&mut self, from: Owner, to: Owner) -> bool {
        if self.word != from {
            self.events.add(Event::LostARace);
            return false;
        }
        self.word = to;
        true
    }

    pub fn tube(&self, tube: Tube) -> &VecDeque<Frame> {
        match tube {
            Tube::Up(slot) => &self.up[slot],
            Tube::Down(slot) => &self.down[slot],
        }
    }

    fn tube_mut(&mut self, tube: Tube) -> &mut VecDeque<Frame> {
        match tube {
            Tube::Up(slot) => &mut self.up[slot],
            Tube::Down(slot) => &mut self.down[slot],
        }
    }

    fn room(&self, tube: Tube) -> usize {
        let [up, down] = self.rules.room;
        if let Tube::Up(_) = tube { up } else { down }
    }

    /// The generations that the pages show for the two ends of a tube.
    fn pages(&self, tube: Tube) -> (Generation, Generation) {
        let (from, to) = tube.ends();
        (self.processes[from].generation, self.processes[to].generation)
    }

    /// Whether this frame is dropped unread.
    pub fn is_old(&self, tube: Tube, frame: &Frame) -> bool {
        (frame.from, frame.to) != self.pages(tube)
    }

    /// A full tube takes nothing, and nobody waits for it.
    fn send(&mut self, tube: Tube, message: Message) {
        let (from, to) = self.pages(tube);
        if self.tube(tube).len() < self.room(tube) {
            self.tube_mut(tube).push_back(Frame { from, to, message });
        } else {
            self.events.add(Event::FoundATubeFull);
        }
    }

    fn take(&mut self, tube: Tube) {
        let Some(frame) = self.tube_mut(tube).pop_front() else { return };
        if self.is_old(tube, &frame) {
            self.events.add(Event::DroppedOldMail);
            if self.rules.filters {
                return;
            }
        }
        match (tube, frame.message) {
            (Tube::Up(slot), Message::HolderAction(action)) => self.hear(slot, frame.from, action),
            (Tube::Down(slot), Message::Recall(epoch)) => {
                let action = self.processes[slot].holder.recalled(epoch, self.word);
                self.plead(slot, action);
            }
            _ => {}
        }
    }

    /// A holder says something: over its tube, or, in the primary, directly.
    fn plead(&mut self, slot: usize, actions: impl IntoIterator<Item = HolderAction>) {
        for action in actions {
            if slot == 0 {
                self.hear(0, self.processes[0].generation, action);
            } else {
                self.send(Tube::Up(slot), Message::HolderAction(action));
            }
        }
    }

    fn look(&mut self, slot: usize, wants: bool, again: bool) {
        let mutant = self.rules.mutant;
        let (word, recall) = (self.word, self.recall);
        let process = &mut self.processes[slot];
        let again = again && mutant != Mutant::NeverRepeats;
        let writing = process.writing.is_some() && mutant != Mutant::GivesBackInAnUpdate;
        let owned = process.holder.owns(word).is_some();
        let actions = process.holder.look(word, recall, wants, writing, again);
        if owned && process.holder.owns(word).is_none() {
            self.events.add(Event::GaveBack);
        }
        self.plead(slot, actions);
    }

    fn end(&mut self, slot: usize) {
        let process = &mut self.processes[slot];
        process.writing = None;
        self.events.add(match process.life {
            Life::Alive if self.recall == Some(self.word.epoch) => Event::WroteWhileWanted,
            Life::Alive => Event::Wrote,
            Life::Killed | Life::Dead => Event::LandedAfterTheKill,
        });
    }

    /// A action reaches the arbiter.
    fn hear(&mut self, slot: usize, generation: Generation, action: HolderAction) {
        match action {
            HolderAction::Request => self.arbiter.request(id(slot), generation),
            HolderAction::Release(epoch) => self.decision = self.released(slot, generation, epoch),
        }
    }

    fn released(&self, slot: usize, generation: Generation, epoch: Epoch) -> Option<ArbiterAction> {
        let (generation, epoch) = match self.rules.mutant {
            Mutant::ReleasesAnyEpoch => (generation, self.word.epoch),
            Mutant::ReleasesForSuccessors => (self.processes[slot].generation, epoch),
            _ => (generation, epoch),
        };
        self.arbiter.released(id(slot), generation, epoch, self.word)
    }

    fn decide(&mut self, over: bool) {
        let (word, mutant) = (self.word, self.rules.mutant);
        let (live, shown) = (self.live(), self.processes.each_ref().map(|p| p.generation));
        let live = |slot: SlotId| match mutant {
            Mutant::NeverRetires if word.slot == Some(slot) => {
                Some(Generation(word.generation.into()))
            }
            Mutant::QueuesTheDead if word.slot != Some(slot) => Some(shown[slot.index()]),
            _ => live(slot),
        };
        let free = Owner { slot: None, generation: 0, ..word };
        let seen = if mutant == Mutant::GrantsTheHeld { free } else { word };
        self.decision = self.arbiter.look(seen, live, over);
        if let Some(ArbiterAction::Grant { to, .. }) = self.decision
            && !self.is_grantable(to)
        {
            self.broken = Some(FROM_THE_DEAD);
        }
        if let Some(ArbiterAction::Grant { from, to }) = &mut self.decision {
            match mutant {
                Mutant::GrantsTheHeld => *from = word,
                Mutant::ReusesEpochs => to.epoch = from.epoch,
                _ => {}
            }
        }
    }

    /// Whether a grant goes to a process whose death is not confirmed.
    fn is_grantable(&self, to: Owner) -> bool {
        let suits = |slot: SlotId| {
            let process = &self.processes[slot.index()];
            process.life != Life::Dead && names(to, slot, process.generation)
        };
        to.slot.is_some_and(suits)
    }

    #[allow(clippy::collapsible_match, reason = "an exchange is a deed, no guard")]
    fn carry_out(&mut self) {
        match self.decision.take() {
            Some(ArbiterAction::Clear { from, to }) => {
                let cleared = self.exchange(from, to);
                if cleared && to.epoch != from.epoch {
                    self.broken = Some(SECOND_GRANT);
                }
            }
            Some(ArbiterAction::Grant { from, to }) => {
                if self.exchange(from, to) {
                    self.events.add(Event::Granted);
                    // The word has the youngest epoch of all, and every grant makes it younger.
                    if to.epoch != next(from.epoch) {
                        self.broken = Some(SECOND_GRANT);
                    }
                }
            }
            Some(ArbiterAction::Recall { slot, epoch }) => {
                self.events.add(Event::Recalled);
                self.recall = Some(epoch);
                if slot.index() != 0 {
                    self.send(Tube::Down(slot.index()), Message::Recall(epoch));
                }
            }
            None => {}
        }
    }

    /// What it knew is lost. What it had begun is not, until its death is confirmed.
    fn kill(&mut self, slot: usize) {
        let Process { generation, writing, .. } = self.processes[slot];
        if self.recall == Some(self.word.epoch) && names(self.word, id(slot), generation) {
            self.events.add(Event::DiedRecalled);
        }
        self.processes[slot] = Process { writing, ..process(slot, generation, Life::Killed) };
        if slot == 0 {
            self.arbiter = Arbiter::new();
        }
    }

    fn confirm(&mut self, slot: usize) {
        self.processes[slot].life = Life::Dead;
        self.processes[slot].writing = None;
        if slot == 0 {
            self.decision = None;
            // The secondaries go with the primary.
            for other in 1..SLOTS {
                if self.allows(Step::Kill(other)) {
                    self.kill(other);
                }
            }
        }
    }

    fn retire(&mut self) {
        if self.rules.mutant == Mutant::NeverRetires {
            return;
        }
        if let Some(to) = retired(self.word, self.live()) {
            self.exchange(self.word, to);
            self.events.add(Event::Retired);
        }
    }

    /// Safety, as far as one moment shows it.
    pub fn check(&self) -> Result<(), Broken> {
        if let Some(broken) = self.broken {
            return Err(broken);
        }
        let may_write = |slot: &usize| match self.processes[*slot].life {
            Life::Alive => self.processes[*slot].writing.is_some() || self.owns(*slot).is_some(),
            Life::Killed => self.processes[*slot].writing.is_some(),
            Life::Dead => false,
        };
        if (0..SLOTS).filter(may_write).count() > 1 {
            return Err(TWO_WRITERS);
        }
        for (slot, process) in self.processes.iter().enumerate() {
            let stands = names(self.word, id(slot), process.generation);
            if process.writing.is_some_and(|epoch| !stands || self.word.epoch != epoch) {
                return Err(STALE_EPOCH);
            }
        }
        for slot in 0..self.rules.servers {
            self.check_the_past(slot)?;
        }
        Ok(())
    }

    /// Whatever a former generation of this slot may have said, and if it were delivered now, in
    /// spite of the links: it takes the word from nobody else, and gets it for nobody who is dead;
    /// a former primary makes no holder give back what it has.
    fn check_the_past(&self, slot: usize) -> Result<(), Broken> {
        let Process { generation, life, holder, .. } = &self.processes[slot];
        let former = Generation(generation.0 - u32::from(*life != Life::Dead));
        let epochs = [self.word.epoch, Epoch(self.word.epoch.0.wrapping_sub(1))];

        let mut arbiter = self.arbiter.clone();
        arbiter.request(id(slot), former);
        let free = Owner { slot: None, generation: 0, ..self.word };
        let granted = match arbiter.look(free, self.live(), true) {
            Some(ArbiterAction::Grant { to, .. }) => !self.is_grantable(to),
            _ => false,
        };
        let mut releases = epochs.iter().filter_map(|epoch| self.released(slot, former, *epoch));
        let released = !names(self.word, id(slot), former) && releases.next().is_some();
        let owned = holder.owns(self.word);
        let recalled = owned.is_some_and(|epoch| holder.recalled(epoch, self.word).is_some());
        if granted || released || recalled { Err(FROM_THE_DEAD) } else { Ok(()) }
    }

    /// Faults stop, everybody comes back, and those in `wanted` want to write; the others do not.
    /// Returns the rounds until all of them did. `deaf` = no frame reaches a secondary, for they
    /// are prompts only.
    #[allow(clippy::needless_range_loop, reason = "a slot, of which missing is one thing")]
    pub fn settle(&mut self, wanted: [bool; SLOTS], deaf: bool) -> Result<usize, Broken> {
        let servers = self.rules.servers;
        self.step(Step::Confirm(0));
        for slot in 0..servers {
            self.step(Step::End(slot));
            self.step(Step::Confirm(slot));
            self.step(Step::Spawn(slot));
        }
        let mut missing = wanted;
        let mut rounds = 0;
        while missing[..servers].contains(&true) {
            if rounds == ROUNDS {
                return Err(STARVED);
            }
            rounds += 1;
            self.step(Step::Retire);
            self.step(Step::Repeat);
            for slot in 0..servers {
                let (up, down) = (Tube::Up(slot), Tube::Down(slot));
                while self.step(if deaf { Step::Lose(down) } else { Step::Take(down) }) {}
                if missing[slot] && self.step(Step::Begin(slot)) {
                    self.step(Step::End(slot));
                    missing[slot] = false;
                }
                self.step(Step::Look { slot, wants: missing[slot], again: true });
                self.arbitrate();
                while self.step(Step::Take(up)) {
                    self.arbitrate();
                }
            }
            self.check()?;
        }
        Ok(rounds)
    }

    /// The arbiter's turn: until nothing more is to be done, at most four things.
    fn arbitrate(&mut self) {
        for _ in 0..4 {
            self.step(Step::CarryOut);
            self.step(Step::Decide { over: true });
        }
        self.step(Step::CarryOut);
    }
}

/// The epoch of the next grant: one more, in the 40 bits of the word, and never 0.
fn next(epoch: Epoch) -> Epoch {
    Epoch(epoch.next().0.max(1))
}
