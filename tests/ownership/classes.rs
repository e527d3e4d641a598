//! Worlds that differ in numbers only are one: an endless history becomes finitely many classes.
//!
//! The automata compare an epoch with that of the word, or take the next one; they compare a
//! generation with the live one of its slot. Nothing is asked about order, distance, or two old
//! numbers. So an epoch is the present one, the one after it, or old; a generation is the present
//! one of its slot, or old. An old epoch that is remembered is as good as none. A frame that the
//! link will drop unread, or that means nothing, only takes room. And the two secondaries are
//! interchangeable.
//!
//! That all this is so today is not believed but tested: see
//! `worlds_of_one_class_have_the_same_future`.

use std::hash::{DefaultHasher, Hash, Hasher};

use osps_heart::ids::{Generation, Owner, SlotId};
use osps_heart::ownership::{ArbiterAction, HolderAction};

use super::world::{Message, SLOTS, Tube, World};

/// The secondaries in their order and in the other.
const ORDERS: [[usize; SLOTS]; 2] = [[0, 1, 2], [0, 2, 1]];

/// The class of a world.
impl Hash for World {
    fn hash<H: Hasher>(&self, to: &mut H) {
        let [one, other] = ORDERS.map(|order| {
            let mut class = Class::new(self, order);
            tell(self, order, false, &mut class);
            class.settle();
            class.bytes
        });
        to.write(&one.min(other));
    }
}

/// The class of a world as a number.
pub fn class(world: &World) -> u64 {
    let mut hasher = DefaultHasher::new();
    world.hash(&mut hasher);
    hasher.finish()
}

/// A world of which every number counts.
#[derive(Clone, Debug, PartialEq)]
pub struct Exact(pub World);

impl Hash for Exact {
    fn hash<H: Hasher>(&self, to: &mut H) {
        tell(&self.0, ORDERS[0], true, to);
    }
}

/// Everything that makes the future of a world. Slots are told as bytes, generations as 32 bits
/// behind their slot, epochs as 64 bits; the automata do the same.
fn tell(world: &World, order: [usize; SLOTS], exact: bool, to: &mut impl Hasher) {
    let server = |slot: SlotId, Generation(generation): Generation, to: &mut _| {
        slot.hash(to);
        generation.hash(to);
    };
    let owner = |owner: Owner, to: &mut _| {
        match owner.slot {
            Some(slot) => server(slot, Generation(owner.generation.into()), to),
            None => u8::MAX.hash(to),
        }
        owner.epoch.hash(to);
    };
    let id = |slot: usize| SlotId(u8::try_from(slot).unwrap());

    world.broken.is_some().hash(to);
    owner(world.word, to);
    world.recall.hash(to);
    world.arbiter.hash(to);
    match world.decision {
        None => 0u8.hash(to),
        Some(ArbiterAction::Clear { from, .. }) => {
            1u8.hash(to);
            owner(from, to);
        }
        Some(ArbiterAction::Grant { from, to: next }) => {
            2u8.hash(to);
            owner(from, to);
            owner(next, to);
        }
        Some(ArbiterAction::Recall { slot, epoch }) => {
            3u8.hash(to);
            server(slot, world.processes[slot.index()].generation, to);
            epoch.hash(to);
        }
    }
    for process in order.map(|slot| &world.processes[slot]) {
        process.life.hash(to);
        process.holder.hash(to);
        // An update under an old epoch breaks a law: that is not none.
        u8::from(process.writing.is_some()).hash(to);
        process.writing.unwrap_or_default().hash(to);
    }
    for tube in order[1..].iter().flat_map(|slot| [Tube::Up(*slot), Tube::Down(*slot)]) {
        let (from, reader) = tube.ends();
        world.tube(tube).len().hash(to);
        for frame in world.tube(tube) {
            if exact {
                server(id(from), frame.from, to);
                server(id(reader), frame.to, to);
            }
            let unread = world.rules.filters && world.is_old(tube, frame);
            match frame.message {
                _ if unread && !exact => 0u8.hash(to),
                Message::Other => 0u8.hash(to),
                Message::HolderAction(HolderAction::Request) => 1u8.hash(to),
                Message::HolderAction(HolderAction::Release(epoch)) | Message::Recall(epoch) => {
                    2u8.hash(to);
                    epoch.hash(to);
                }
            }
        }
    }
}

/// What the next bytes depend on.
enum Before {
    Nothing,
    /// A byte; a generation behind it makes it a slot.
    Byte(u8),
    /// The variant of an enum; an old epoch behind it makes it `None`.
    Variant(u8),
}

/// Takes what is told, and keeps what counts.
struct Class<'a> {
    world: &'a World,
    order: [usize; SLOTS],
    before: Before,
    bytes: Vec<u8>,
}

impl<'a> Class<'a> {
    fn new(world: &'a World, order: [usize; SLOTS]) -> Class<'a> {
        Class { world, order, before: Before::Nothing, bytes: Vec::with_capacity(128) }
    }

    fn settle(&mut self) {
        match std::mem::replace(&mut self.before, Before::Nothing) {
            Before::Nothing => {}
            Before::Byte(byte) | Before::Variant(byte) => self.bytes.push(byte),
        }
    }

    fn put(&mut self, byte: u8) {
        self.settle();
        self.bytes.push(byte);
    }
}

impl Hasher for Class<'_> {
    fn write_u8(&mut self, byte: u8) {
        self.settle();
        self.before = Before::Byte(byte);
    }

    fn write_isize(&mut self, variant: isize) {
        self.settle();
        self.before = Before::Variant(u8::try_from(variant).unwrap());
    }

    fn write_usize(&mut self, length: usize) {
        self.put(u8::try_from(length).unwrap());
    }

    fn write_u32(&mut self, generation: u32) {
        let Before::Byte(slot) = std::mem::replace(&mut self.before, Before::Nothing) else {
            panic!("a generation without its slot")
        };
        let slot = usize::from(slot);
        self.put(u8::try_from(self.order[slot]).unwrap());
        self.put(u8::from(self.world.processes[slot].generation == Generation(generation)));
    }

    fn write_u64(&mut self, epoch: u64) {
        let present = self.world.word.epoch;
        let age = match epoch {
            0 => 3,
            epoch if epoch == present.0 => 2,
            epoch if epoch == present.next().0 => 1,
            _ => 0,
        };
        if let (0, Before::Variant(_)) = (age, &self.before) {
            self.before = Before::Variant(0);
            self.settle();
        } else {
            self.put(age);
        }
    }

    fn write(&mut self, _: &[u8]) {
        panic!("something else than slots, generations, epochs and variants");
    }

    fn finish(&self) -> u64 {
        panic!("the bytes are the result");
    }
}
