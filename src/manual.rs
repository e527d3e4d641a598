//! What is handed out beside the binary: completions for shells, and a manual page for each
//! command. Both are made from the command line itself, and from nothing else: the same binary
//! always makes the same files. Tested in tests/package.rs.

use std::io;
use std::path::Path;
use std::process::ExitCode;

use clap::{Command, CommandFactory};
use clap_complete::shells;
use clap_mangen::Man;
use osps_heart::shown::Shown;
use roff::{Roff, bold, roman};

use crate::cli::{Cli, Shell};
use crate::error::Error;
use crate::sys::{Failed, output};

/// The name of the binary.
const NAME: &str = "osps";

/// `osps completions SHELL`.
pub fn completions(shell: Shell) -> ExitCode {
    let mut script = Vec::new();
    let mut command = Cli::command();
    match shell {
        Shell::Bash => clap_complete::generate(shells::Bash, &mut command, NAME, &mut script),
        Shell::Zsh => clap_complete::generate(shells::Zsh, &mut command, NAME, &mut script),
        Shell::Fish => clap_complete::generate(shells::Fish, &mut command, NAME, &mut script),
    }
    if output::print(&script) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// `osps __man DIR`, for those who make a package: a page for osps, and one for each command.
pub fn pages(dir: &Path) -> Result<ExitCode, Error> {
    let mut whole = Cli::command().disable_help_subcommand(true);
    whole.build();
    let commands: Vec<_> = whole.get_subcommands().filter(|one| !one.is_hide_set()).collect();
    let names: Vec<_> = commands.iter().map(|one| page_name(one)).collect();
    write(dir, &whole, &names)?;
    for command in commands {
        write(dir, command, &[NAME.to_owned()])?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes the page of one command, which names these others.
fn write(dir: &Path, command: &Command, others: &[String]) -> Result<(), Error> {
    let name = page_name(command);
    let path = dir.join(format!("{name}.1"));
    let page = page(command, others);
    let failed = |error| Failed::to("write", Shown(&path))(error);
    Ok(page.and_then(|page| std::fs::write(&path, page)).map_err(failed)?)
}

fn page_name(command: &Command) -> String {
    command.get_display_name().unwrap_or(command.get_name()).to_owned()
}

fn page(command: &Command, others: &[String]) -> io::Result<Vec<u8>> {
    let mut page = Vec::new();
    let man = Man::new(command.clone())
        .source(concat!("osps ", env!("CARGO_PKG_VERSION")))
        .manual("osps");
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    let mut rest = Roff::new();
    further(&mut rest, command);
    rest.control("SH", ["SEE ALSO"]);
    let last = others.len().saturating_sub(1);
    for (number, other) in others.iter().enumerate() {
        let end = if number == last { "(1)" } else { "(1)," };
        rest.text([bold(other), roman(end)]);
    }
    rest.to_writer(&mut page)?;
    Ok(page)
}

/// What the help says behind the options. Lines that are set in keep their ends, as on a terminal.
fn further(roff: &mut Roff, command: &Command) {
    let help = command.get_after_long_help().or_else(|| command.get_after_help());
    let text = help.map(ToString::to_string).unwrap_or_default();
    if text.is_empty() {
        return;
    }
    let mut verbatim = false;
    roff.control("SH", ["EXAMPLES AND NOTES"]);
    for line in text.lines() {
        let set_in = line.starts_with("  ");
        match (set_in, verbatim) {
            (true, false) => {
                roff.control("RS", ["2"]).control("nf", []);
            }
            (false, true) => {
                roff.control("fi", []).control("RE", []);
            }
            _ => {}
        }
        verbatim = set_in;
        match line {
            "" => roff.control("PP", []),
            // The block that it stands in is set in already.
            line => roff.text([roman(line.strip_prefix("  ").unwrap_or(line))]),
        };
    }
    if verbatim {
        roff.control("fi", []).control("RE", []);
    }
}
