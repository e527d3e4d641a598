//! Frames of the two FIFOs between primary and secondary: fixed 64 bytes, little-endian.
//!
//! 64 divides a page and is far below `PIPE_BUF`, so one `write` is atomic and one `read` of 64
//! bytes is one frame. Decoding is pure and total: whatever a FIFO holds becomes a [`Frame`] or a
//! [`Malformed`], never a panic. A frame is a prompt to look at the segment, never the truth.
//! The byte table is in docs/pair.md; a test there compares it with the constants below.

use osps_heart::ids::{Epoch, Generation, SlotId};

/// Bytes in every frame.
pub const FRAME_SIZE: usize = 64;
/// First four bytes of every frame: "OSPF" read as little-endian.
pub const MAGIC: u32 = u32::from_le_bytes(*b"OSPF");
/// Version of the frame layout.
pub const VERSION: u8 = 1;
/// Sending slot of the watchdog's frames: no slot.
pub const WATCHDOG: SlotId = SlotId(0xff);
/// Bytes a frame carries for its kind's own use.
pub const PAYLOAD_SIZE: usize = 24;

/// Offsets of the fields, in bytes.
pub mod offset {
    /// `u32` magic.
    pub const MAGIC: usize = 0;
    /// `u8` layout version.
    pub const VERSION: usize = 4;
    /// `u8` kind.
    pub const KIND: usize = 5;
    /// `u8` sending slot.
    pub const FROM: usize = 6;
    /// `u8` addressed slot.
    pub const TO: usize = 7;
    /// `u32` generation of the sender.
    pub const FROM_GENERATION: usize = 8;
    /// `u32` generation of the addressee.
    pub const TO_GENERATION: usize = 12;
    /// `u64` ownership epoch.
    pub const EPOCH: usize = 16;
    /// `u64` sender's frame number.
    pub const SEQUENCE: usize = 24;
    /// `u64` job number, 0 = none.
    pub const JOB: usize = 32;
    /// FrameKind's own bytes.
    pub const PAYLOAD: usize = 40;
}

/// What a frame asks or tells (design §7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    /// SP: are you there, in this generation?
    Ping,
    /// SS: link up, eligible for work.
    Pong,
    /// SP: you own the data area in this epoch.
    Grant,
    /// SP: finish your update and give this epoch back.
    Recall,
    /// SS: I want the data area.
    Request,
    /// SS: this epoch is given back.
    Release,
    /// SP: a client will come to your port.
    Job,
    /// SS: `debuttraitement`, the job began.
    Begin,
    /// SS: `fintraitement`, the job is done.
    Done,
    /// SS: `errtraitement`, the job failed.
    Failed,
    /// Watchdog to a server, a wake-up only: something changed in the segment, look there.
    Lost,
}

impl FrameKind {
    /// Every kind with its number on the wire.
    pub const ALL: [(FrameKind, u8); 11] = [
        (FrameKind::Ping, 1),
        (FrameKind::Pong, 2),
        (FrameKind::Grant, 3),
        (FrameKind::Recall, 4),
        (FrameKind::Request, 5),
        (FrameKind::Release, 6),
        (FrameKind::Job, 7),
        (FrameKind::Begin, 8),
        (FrameKind::Done, 9),
        (FrameKind::Failed, 10),
        (FrameKind::Lost, 11),
    ];

    fn code(self) -> u8 {
        FrameKind::ALL.iter().find(|(kind, _)| *kind == self).map_or(0, |(_, code)| *code)
    }

    fn from_code(code: u8) -> Option<FrameKind> {
        FrameKind::ALL.iter().find(|(_, known)| *known == code).map(|(kind, _)| *kind)
    }
}

/// One message, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What is asked or told.
    pub kind: FrameKind,
    /// Sending slot.
    pub from: SlotId,
    /// Addressed slot.
    pub to: SlotId,
    /// Generation of the sender.
    pub from_generation: Generation,
    /// Generation of the addressee: another one drops the frame.
    pub to_generation: Generation,
    /// Ownership epoch that the frame speaks of.
    pub epoch: Epoch,
    /// Sender's own frame number, for traces.
    pub sequence: u64,
    /// Job number, 0 = none.
    pub job: u64,
    /// The kind's own bytes.
    pub payload: [u8; PAYLOAD_SIZE],
}

/// Why 64 bytes are not a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The first word is foreign: garbage, or frames out of step.
    #[error("magic is {0:#010x}, expected {MAGIC:#010x}")]
    Magic(u32),
    /// Another version of the layout.
    #[error("frame version {0}, expected {VERSION}")]
    Version(u8),
    /// A kind that this version does not know.
    #[error("unknown frame kind {0}")]
    Kind(u8),
}

/// The bytes of a frame.
pub fn encode(frame: &Frame) -> [u8; FRAME_SIZE] {
    let mut bytes = [0u8; FRAME_SIZE];
    let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
    put(offset::MAGIC, &MAGIC.to_le_bytes());
    put(offset::VERSION, &[VERSION]);
    put(offset::KIND, &[frame.kind.code()]);
    put(offset::FROM, &[frame.from.0]);
    put(offset::TO, &[frame.to.0]);
    put(offset::FROM_GENERATION, &frame.from_generation.0.to_le_bytes());
    put(offset::TO_GENERATION, &frame.to_generation.0.to_le_bytes());
    put(offset::EPOCH, &frame.epoch.0.to_le_bytes());
    put(offset::SEQUENCE, &frame.sequence.to_le_bytes());
    put(offset::JOB, &frame.job.to_le_bytes());
    put(offset::PAYLOAD, &frame.payload);
    bytes
}

/// The frame in 64 bytes, or why there is none.
pub fn decode(bytes: &[u8; FRAME_SIZE]) -> Result<Frame, Malformed> {
    let magic = u32::from_le_bytes(field(bytes, offset::MAGIC));
    if magic != MAGIC {
        return Err(Malformed::Magic(magic));
    }
    if bytes[offset::VERSION] != VERSION {
        return Err(Malformed::Version(bytes[offset::VERSION]));
    }
    let code = bytes[offset::KIND];
    Ok(Frame {
        kind: FrameKind::from_code(code).ok_or(Malformed::Kind(code))?,
        from: SlotId(bytes[offset::FROM]),
        to: SlotId(bytes[offset::TO]),
        from_generation: Generation(u32::from_le_bytes(field(bytes, offset::FROM_GENERATION))),
        to_generation: Generation(u32::from_le_bytes(field(bytes, offset::TO_GENERATION))),
        epoch: Epoch(u64::from_le_bytes(field(bytes, offset::EPOCH))),
        sequence: u64::from_le_bytes(field(bytes, offset::SEQUENCE)),
        job: u64::from_le_bytes(field(bytes, offset::JOB)),
        payload: field(bytes, offset::PAYLOAD),
    })
}

/// `N` bytes at a constant offset inside the frame.
fn field<const N: usize>(bytes: &[u8; FRAME_SIZE], at: usize) -> [u8; N] {
    let mut out = [0u8; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(
            kind in 0usize..FrameKind::ALL.len(), from: u8, to: u8, generations: (u32, u32),
            epoch: u64, sequence: u64, job: u64, payload: [u8; PAYLOAD_SIZE],
        ) {
            let frame = Frame {
                kind: FrameKind::ALL[kind].0, from: SlotId(from), to: SlotId(to),
                from_generation: Generation(generations.0),
                to_generation: Generation(generations.1),
                epoch: Epoch(epoch), sequence, job, payload,
            };
            prop_assert_eq!(decode(&encode(&frame)), Ok(frame));
        }

        #[test]
        fn garbage_never_panics(bytes in prop::array::uniform32(any::<u8>()), with_magic: bool) {
            let mut raw = [0u8; FRAME_SIZE];
            raw[..32].copy_from_slice(&bytes);
            if with_magic {
                raw[..4].copy_from_slice(&MAGIC.to_le_bytes());
            }
            if let Ok(frame) = decode(&raw) {
                prop_assert_eq!(encode(&frame), raw);
            }
        }
    }

    #[test]
    fn fields_fill_the_frame_without_overlap() {
        assert_eq!(offset::PAYLOAD + PAYLOAD_SIZE, FRAME_SIZE);
        assert_eq!(4096 % FRAME_SIZE, 0);
    }
}
