//! What a command will execute, looked at before it is started: found as `execvp` finds it, and
//! whether a shim can be loaded into it.
//!
//! Known now is better than told by a crash loop, or by a heart that never beats. What cannot be
//! known (a wrapper that starts something else) is passed over. Tested in tests/bytes.rs and
//! tests/loops.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use object::read::elf::{FileHeader, ProgramHeader};
use object::{Object, ObjectSymbol, ReadCache};
use rustix::fs::{Access, AtFlags, CWD, accessat, getxattr};

use crate::error::{Refusal, Unrunnable};

/// Where a program without a slash in its name is looked for if `PATH` is not set, as by `execvp`.
const DEFAULT_PATH: &str = "/bin:/usr/bin";
/// Most bytes of a first line that the kernel looks at.
const FIRST_LINE: u64 = 256;
/// Interpreters of interpreters that the kernel follows.
const DEPTH: usize = 4;

/// Why a program does not load what is preloaded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unloadable {
    /// It has no dynamic loader.
    #[error("is a static program")]
    Static,
    /// The loader ignores what the user wants preloaded.
    #[error("runs with more rights than its user (setuid, setgid or capabilities)")]
    Privileged,
    /// It is for another kind of processor than osps.
    #[error("is for another kind of processor than osps")]
    Machine,
    /// A sanitizer wants to be loaded first.
    #[error("is built with a sanitizer")]
    Sanitizer,
}

/// Finds a program as `execvp` would.
pub fn find(program: &OsStr) -> Result<PathBuf, Refusal> {
    find_in(program, None, None)
}

/// The same for a program with a search path of its own, or one that starts in another directory.
pub fn find_in(
    program: &OsStr,
    path: Option<&OsStr>,
    directory: Option<&Path>,
) -> Result<PathBuf, Refusal> {
    let refused = |why| Refusal::NoProgram { program: program.to_owned(), why };
    let start = directory.unwrap_or(Path::new("."));
    if program.as_bytes().contains(&b'/') {
        let found = directory.map_or(program.into(), |start| start.join(program));
        return runs(&found).map(|()| found).map_err(refused);
    }
    let path = path.map(OsStr::to_owned).or_else(|| std::env::var_os("PATH"));
    let dirs = path.as_deref().unwrap_or(DEFAULT_PATH.as_ref());
    let candidate = |dir: PathBuf| start.join(dir).join(program);
    // What is not executable is passed over, in the hope of a better one.
    let found = std::env::split_paths(dirs)
        .map(candidate)
        .map(|path| runs(&path).map(|()| path))
        .find(|found| matches!(found, Ok(_) | Err(Unrunnable::Interpreter(_))));
    let absent = path.clone().map_or(Unrunnable::NoPath, Unrunnable::NotInPath);
    found.unwrap_or(Err(absent)).map_err(refused)
}

/// Words with which a line of a shell begins, and that are no programs.
const SHELL_WORDS: [&[u8]; 14] = [
    b".", b"alias", b"cd", b"eval", b"exec", b"export", b"for", b"if", b"set", b"source", b"trap",
    b"ulimit", b"unset", b"while",
];
/// Words that mean something to a shell between and behind programs.
const SHELL_SIGNS: [&[u8]; 10] =
    [b"|", b"||", b"&", b"&&", b";", b">", b">>", b"<", b"2>", b"2>&1"];

/// Whether whoever wrote this command thought of a shell.
pub fn is_for_shell(command: &[OsString]) -> bool {
    let Some((first, arguments)) = command.split_first() else { return false };
    let first = first.as_bytes();
    // `NAME=value program`, while a path may have a `=` in it.
    let sets = first.iter().position(|byte| !byte.is_ascii_alphanumeric() && *byte != b'_');
    let sets = sets.is_some_and(|end| end > 0 && first[end] == b'=');
    let means = |word: &OsString| {
        let word = word.as_bytes();
        SHELL_SIGNS.contains(&word) || (word.len() > 1 && word.ends_with(b";"))
    };
    SHELL_WORDS.contains(&first)
        || first.starts_with(b"~")
        || first.starts_with(b"$")
        || first.ends_with(b";")
        || sets
        || arguments.iter().any(means)
}

/// Whether the kernel would execute this file, as far as that can be known without trying.
fn runs(path: &Path) -> Result<(), Unrunnable> {
    let meta = path.metadata().map_err(|error| match error.kind() {
        ErrorKind::NotFound => Unrunnable::NoFile,
        _ => Unrunnable::Refused(error),
    })?;
    if meta.is_dir() {
        return Err(Unrunnable::Directory);
    }
    if accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS).is_err() {
        return Err(Unrunnable::NotExecutable);
    }
    match interpreter(path).map(|line| PathBuf::from(&line[0])) {
        Some(interpreter) if !interpreter.exists() => Err(Unrunnable::Interpreter(interpreter)),
        Some(_) | None => Ok(()),
    }
}

/// What a script's first line wants it to be run by, word by word. The kernel says of a missing one
/// what it says of a missing script.
fn interpreter(script: &Path) -> Option<Vec<OsString>> {
    let mut line = Vec::new();
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(script).ok()?;
    BufReader::new(file.take(FIRST_LINE)).read_until(b'\n', &mut line).ok()?;
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\n');
    let words = line.strip_prefix(b"#!")?.split(blank).filter(|word| !word.is_empty());
    let words: Vec<_> = words.map(|word| OsStr::from_bytes(word).to_owned()).collect();
    (!words.is_empty()).then_some(words)
}

/// The file that the kernel will load for a program: behind `#!`, and behind `env` there.
fn image(path: PathBuf) -> PathBuf {
    let mut path = path;
    for _ in 0..DEPTH {
        let Some(line) = interpreter(&path) else { break };
        path = PathBuf::from(&line[0]);
        let is_option =
            |word: &OsStr| word.as_bytes()[0] == b'-' || word.as_bytes().contains(&b'=');
        if path.file_name() == Some(OsStr::new("env"))
            && let Some(program) = line[1..].iter().find(|word| !is_option(word))
            && let Ok(found) = find(program)
        {
            path = found;
        }
    }
    path
}

/// Whether something can be preloaded into this program, as far as that can be known; the file that
/// was looked at, and why not.
pub fn unloadable(path: PathBuf) -> Option<(PathBuf, Unloadable)> {
    let path = image(path);
    let why = examined(&path)?;
    Some((path, why))
}

fn examined(path: &Path) -> Option<Unloadable> {
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path).ok()?;
    let meta = file.metadata().ok().filter(std::fs::Metadata::is_file)?;
    let mut magic = [0; 20];
    (&file).read_exact(&mut magic).ok()?;
    // A script without a first line, for one.
    let rest = magic.strip_prefix(b"\x7fELF")?;
    let cache = ReadCache::new(file);
    let is_wide = rest[0] == object::elf::ELFCLASS64;
    let machine = u16::from_le_bytes([magic[18], magic[19]]);
    if !is_wide || machine != MACHINE {
        return Some(Unloadable::Machine);
    }
    let header = object::elf::FileHeader64::<object::LittleEndian>::parse(&cache).ok()?;
    let endian = header.endian().ok()?;
    let segments = header.program_headers(endian, &cache).ok()?;
    if !segments.iter().any(|segment| segment.p_type(endian) == object::elf::PT_INTERP) {
        return Some(Unloadable::Static);
    }
    let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let gives_user = meta.mode() & 0o4000 != 0 && meta.uid() != own.0;
    let gives_group = meta.mode() & 0o2010 == 0o2010 && meta.gid() != own.1;
    let gives_more = own.0 != 0 && getxattr(path, "security.capability", &mut [0; 64]).is_ok();
    if gives_user || gives_group || gives_more {
        return Some(Unloadable::Privileged);
    }
    let elf = object::read::elf::ElfFile64::<object::LittleEndian, _>::parse(&cache).ok()?;
    let is_sanitizer =
        |name: &str| ["__asan_init", "__tsan_init", "__msan_init", "__hwasan_init"].contains(&name);
    let sanitized = elf.dynamic_symbols().any(|symbol| symbol.name().is_ok_and(is_sanitizer));
    sanitized.then_some(Unloadable::Sanitizer)
}

/// What this osps, and so its shim, was built for.
const MACHINE: u16 =
    if cfg!(target_arch = "aarch64") { object::elf::EM_AARCH64 } else { object::elf::EM_X86_64 };

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_for_a_shell_is_known() {
        let is = |line: &str| {
            let words: Vec<_> = line.split(' ').map(OsString::from).collect();
            is_for_shell(&words)
        };
        for line in [
            "cd app",
            "export A=1",
            "FOO=1 x",
            "~/x",
            "$HOME/x",
            "x | y",
            "x > log",
            "x 2>&1",
            "x && y",
            "x ; y",
            "x; y",
            "x a; y",
        ] {
            assert!(is(line), "{line}");
        }
        for line in ["", "x", "./a=b", "/x=1", "=x", "x --a=b", "x a|b", "x ~", "cdx"] {
            assert!(!is(line), "{line}");
        }
    }
}
