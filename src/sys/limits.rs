//! Limits of resources: their names, and how this process gets one.

use std::io;

use rustix::process::{Rlimit, setrlimit};
use serde::{Deserialize, Serialize};

/// Declares the resources with their words, the same as in limits.conf(5).
macro_rules! resources {
    ($($variant:ident = $word:literal, $kernel:ident;)+) => {
        /// What a process may be limited in.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        pub enum Resource {
            $(#[doc = $word] $variant,)+
        }

        impl Resource {
            /// All of them.
            pub const ALL: [Resource; [$($word),+].len()] = [$(Resource::$variant),+];

            /// Its name.
            pub fn word(self) -> &'static str {
                match self { $(Resource::$variant => $word,)+ }
            }

            fn kernel(self) -> rustix::process::Resource {
                match self { $(Resource::$variant => rustix::process::Resource::$kernel,)+ }
            }
        }
    };
}

resources! {
    AddressSpace = "as", As;
    Core = "core", Core;
    Cpu = "cpu", Cpu;
    Data = "data", Data;
    FileSize = "fsize", Fsize;
    Locked = "memlock", Memlock;
    Queues = "msgqueue", Msgqueue;
    Nice = "nice", Nice;
    Files = "nofile", Nofile;
    Processes = "nproc", Nproc;
    Priority = "rtprio", Rtprio;
    Signals = "sigpending", Sigpending;
    Stack = "stack", Stack;
}

/// Why a limit was perhaps refused, for people: nobody has more descriptors than the kernel allows.
pub fn advice(name: &str, maximum: Option<u64>) -> String {
    let most = std::fs::read_to_string("/proc/sys/fs/nr_open");
    let most: Option<u64> = most.ok().and_then(|text| text.trim().parse().ok());
    match most {
        Some(most) if name == Resource::Files.word() && maximum.is_none_or(|max| max > most) => {
            format!("fs.nr_open allows {most} at most, to root as well")
        }
        _ => "to raise a hard limit takes CAP_SYS_RESOURCE, as root has it".to_owned(),
    }
}

/// Limits this process, and what it becomes, in the resource of this name; `None` = unlimited.
pub fn set(name: &str, current: Option<u64>, maximum: Option<u64>) -> io::Result<()> {
    let known = Resource::ALL.into_iter().find(|resource| resource.word() == name);
    let resource = known.ok_or(io::ErrorKind::InvalidInput)?;
    Ok(setrlimit(resource.kernel(), Rlimit { current, maximum })?)
}
