//! Hang reports: what was seen of a program when it had to go, kept outside of the run directory.
//!
//! ```text
//! mod       the model: what a report says, as it stands in its file
//! store     the directory: who may have it, numbers, the newest 50
//! helper    the collector, a process of its own
//! look      one look at /proc;  calls: system calls in words
//! stacks    stacks of threads, by other programs
//! sentence  all of it in one sentence;  text: all of it for people;  show: the command
//! ```
//!
//! A report holds nothing of the environment, no arguments of commands and no memory contents. Text
//! that programs chose is kept as it was read, and escaped where it is shown.

mod calls;
pub mod helper;
mod look;
mod sentence;
pub mod show;
pub mod stacks;
pub mod store;
mod text;

use osps_heart::words::{Cause, Class};
use serde::{Deserialize, Serialize};

/// Most bytes of a report.
pub const BYTES_MAX: usize = 256 << 10;
/// The version of the format: the key `schema`.
pub const SCHEMA: u32 = 1;

/// A report in a line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Its number; 0 = it is not kept.
    pub number: u64,
    /// When the verdict fell, ns since 1970.
    pub at: u64,
    /// The service, or instance of one.
    pub service: String,
    /// Its slot.
    pub slot: u8,
    /// The generation of its process.
    pub generation: u32,
    /// Why it had to go; absent = it had not: somebody asked for the report.
    #[serde(with = "cause")]
    pub cause: Option<Cause>,
    /// The kind of a freeze.
    #[serde(with = "class")]
    pub class: Option<Class>,
    /// Time since its last beat, ns.
    pub silence_ns: u64,
    /// All of it in one sentence.
    pub sentence: String,
}

/// How much a report holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Extent {
    /// All that could be read.
    Full,
    /// What the watchdog knew: too many fell silent at once.
    #[default]
    Short,
    /// All that could be read without disturbing a process that goes on.
    Asked,
}

/// A report.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// The version of the format.
    pub schema: u32,
    /// In a line.
    #[serde(flatten)]
    pub summary: Summary,
    /// How much it holds.
    pub extent: Extent,
    /// The name of the instance.
    pub instance: String,
    /// The pid of the process whose silence it is about; 0 = nobody knew.
    pub pid: u32,
    /// How long ago its service was started, ns.
    pub age_ns: u64,
    /// The program's name, without arguments.
    pub program: String,
    /// The heart that fell silent.
    pub heart: Heart,
    /// What the program said it was doing.
    pub activity: Option<String>,
    /// The watchdog's own state.
    pub watchdog: Watchdog,
    /// Who owned the data area, and who waited.
    pub data: Option<Data>,
    /// The process as the kernel shows it.
    pub process: Option<Process>,
    /// Its threads, the first one is the leader.
    pub threads: Vec<Thread>,
    /// Threads beyond those.
    pub threads_left_out: u64,
    /// Its open sockets.
    pub sockets: Vec<Socket>,
    /// Sockets beyond those.
    pub sockets_left_out: u64,
    /// Pressure of the host: `cpu some avg10=0.00 ...`.
    pub pressure: Vec<String>,
    /// Stacks of its threads in the user's space.
    pub stacks: Vec<Stacks>,
    /// The last lines of its log.
    pub log: Vec<String>,
    /// What could not be read, and why.
    pub missing: Vec<String>,
}

/// The heart that a report is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Heart {
    /// Its name; empty = the service's own.
    pub name: String,
    /// Who stores its beats.
    pub source: String,
    /// Silence that convicts, ns.
    pub limit_ns: u64,
    /// Beats of its process so far.
    pub beats: u64,
    /// The longest silences that ended in each of the last seconds, the newest last.
    pub last_minute: Vec<Gap>,
    /// The longest one ever, ns; 0 = not known.
    pub worst_ns: u64,
}

/// The longest silence that a beat ended within one second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// How long before the report, ns.
    pub before_ns: u64,
    /// How long it was, ns.
    pub gap_ns: u64,
}

/// The watchdog, as it knew itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Watchdog {
    /// Its pid.
    pub pid: u32,
    /// Its version.
    pub version: String,
    /// How late the turn of the verdict was, ns.
    pub lag_ns: u64,
    /// The latest turn since it started, ns.
    pub worst_lag_ns: u64,
}

/// The data area.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Data {
    /// Who may write.
    pub owner: Option<String>,
    /// For how long it has been asked to give that back, ns; absent = it is not asked.
    pub recalled_ns: Option<u64>,
    /// Client connections that wait for it, by server.
    pub waiting: Vec<(String, u64)>,
}

/// A process, as the kernel shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Process {
    /// Memory and the like, as in `/proc/PID/status`.
    pub status: Vec<(String, String)>,
    /// Its limits: name, soft, hard.
    pub limits: Vec<(String, String, String)>,
    /// Its control groups.
    pub cgroup: Vec<String>,
    /// Open descriptors.
    pub descriptors: Option<u64>,
}

/// A thread.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Thread {
    /// Thread id.
    pub tid: u32,
    /// Its name.
    pub name: String,
    /// State letter, as in ps(1).
    pub state: String,
    /// The kernel function that it sleeps in.
    pub wait_channel: String,
    /// The system call it is in: `read(0 = pipe)`; empty = none, or not known.
    pub call: String,
    /// Time on a processor, ns.
    pub cpu_ns: u64,
    /// The same since the program was found late, ns.
    pub cpu_since_ns: Option<u64>,
    /// How long that is, ns.
    pub since_ns: Option<u64>,
    /// Its stack in the kernel, if that may be known.
    pub kernel_stack: Vec<String>,
}

/// An open socket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Socket {
    /// Its descriptor.
    pub descriptor: i32,
    /// What it is: `tcp 127.0.0.1:80 - 10.0.0.7:43210`.
    pub what: String,
    /// Its state, as ss(8) has it.
    pub state: String,
    /// Bytes that the program has not read; of a listening one: connections not accepted.
    pub unread: u64,
    /// Bytes that the other side has not taken; of a listening one: room for connections.
    pub unsent: u64,
}

/// Stacks, or why there are none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stacks {
    /// What was asked for them.
    pub tool: String,
    /// How long that took, ns.
    pub took_ns: u64,
    /// Why it gave none; empty = it did.
    pub failed: String,
    /// What it said.
    pub text: String,
    /// It said more.
    pub cut: bool,
}

impl Report {
    /// For people.
    pub fn text(&self) -> String {
        text::render(self)
    }

    /// As it stands in its file, in at most [`BYTES_MAX`] bytes: what is longest is cut first.
    pub fn bytes(&self) -> Vec<u8> {
        let mut report = self.clone();
        loop {
            // A model without maps of other keys than texts and without NaN always is JSON.
            let bytes = serde_json::to_vec(&report).unwrap_or_default();
            if bytes.len() <= BYTES_MAX || !report.halve() {
                return bytes;
            }
        }
    }

    /// Halves the longest part; `false` = there is none that could be.
    fn halve(&mut self) -> bool {
        let text = |texts: &[String]| texts.iter().map(|text| text.len() + 4).sum::<usize>();
        let stacks: usize = self.stacks.iter().map(|stacks| stacks.text.len()).sum();
        let kernel: usize = self.threads.iter().map(|thread| text(&thread.kernel_stack)).sum();
        let sizes = [
            stacks,
            text(&self.log),
            kernel + self.threads.len() * 256,
            self.sockets.len() * 160,
            text(&self.missing),
        ];
        let longest = (0..sizes.len()).max_by_key(|part| sizes[*part]).unwrap_or(0);
        if sizes[longest] < 1024 {
            return false;
        }
        match longest {
            0 => self.stacks.iter_mut().for_each(Stacks::halve),
            1 => drop(self.log.drain(..self.log.len().div_ceil(2))),
            2 => {
                let left = self.threads.len() / 2;
                self.threads_left_out += (self.threads.len() - left) as u64;
                self.threads.truncate(left);
            }
            3 => {
                let left = self.sockets.len() / 2;
                self.sockets_left_out += (self.sockets.len() - left) as u64;
                self.sockets.truncate(left);
            }
            _ => self.missing.truncate(self.missing.len() / 2),
        }
        true
    }
}

impl Stacks {
    fn halve(&mut self) {
        let mut end = self.text.len() / 2;
        while !self.text.is_char_boundary(end) {
            end -= 1;
        }
        self.text.truncate(end);
        self.cut = true;
    }
}

/// Makes the module that writes a code as its word.
macro_rules! as_word {
    ($name:ident, $type:ident) => {
        mod $name {
            use osps_heart::words::$type;
            use serde::{Deserialize, Deserializer, Serialize, Serializer};

            #[allow(clippy::ref_option, reason = "serde hands fields over by reference")]
            #[allow(clippy::trivially_copy_pass_by_ref, reason = "likewise")]
            pub(super) fn serialize<S: Serializer>(
                code: &Option<$type>,
                to: S,
            ) -> Result<S::Ok, S::Error> {
                code.map($type::word).serialize(to)
            }

            /// A word of a later version is nothing that this one knows.
            pub(super) fn deserialize<'de, D: Deserializer<'de>>(
                from: D,
            ) -> Result<Option<$type>, D::Error> {
                let word = Option::<String>::deserialize(from)?;
                Ok($type::ALL.into_iter().find(|code| Some(code.word()) == word.as_deref()))
            }
        }
    };
}

as_word!(cause, Cause);
as_word!(class, Class);

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report {
            schema: SCHEMA,
            summary: Summary {
                number: 17,
                at: 1,
                service: "web".to_owned(),
                slot: 2,
                generation: 3,
                cause: Some(Cause::Frozen),
                class: Some(Class::Blocked),
                silence_ns: 4_000_000_000,
                sentence: "web was frozen".to_owned(),
            },
            ..Report::default()
        }
    }

    #[test]
    fn a_report_reads_back_as_it_was_written() {
        let report = report();
        let bytes = report.bytes();
        let read: Report = serde_json::from_slice(&bytes).expect("a report");
        assert_eq!(read, report);
        let summary: Summary = serde_json::from_slice(&bytes).expect("its summary alone");
        assert_eq!(summary, report.summary);
        let text = String::from_utf8(bytes).expect("text");
        assert!(text.contains(r#""cause":"frozen","class":"blocked""#), "{text}");
    }

    #[test]
    fn words_and_keys_of_a_later_version_are_no_mistake() {
        let text = r#"{"number":1,"at":2,"service":"a","slot":0,"generation":1,"cause":"bored",
            "class":null,"silence_ns":0,"sentence":"","extent":"full","mood":"good"}"#;
        let read: Report = serde_json::from_str(text).expect("a report");
        assert_eq!((read.summary.cause, read.extent), (None, Extent::Full));
    }

    #[test]
    fn whatever_a_report_holds_it_is_bounded() {
        let long = "x".repeat(1 << 20);
        let thread = Thread { kernel_stack: vec!["f".repeat(100); 30], ..Thread::default() };
        let report = Report {
            stacks: vec![Stacks { text: long.replace('x', "é"), ..Stacks::default() }],
            log: vec!["\u{1}".repeat(2000); 300],
            threads: vec![thread; 500],
            sockets: vec![Socket::default(); 5000],
            missing: vec!["m".repeat(1000); 500],
            ..report()
        };
        let bytes = report.bytes();
        assert!(bytes.len() <= BYTES_MAX, "{}", bytes.len());
        let read: Report = serde_json::from_slice(&bytes).expect("still a report");
        assert!(read.stacks[0].cut && !read.stacks[0].text.is_empty());
        assert_eq!(read.threads.len() as u64 + read.threads_left_out, 500);
        assert_eq!(read.sockets.len() as u64 + read.sockets_left_out, 5000);
        assert!(!read.log.is_empty() && !read.threads.is_empty());
    }
}
