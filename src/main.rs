//! The `osps` program: parse, start the log, wire the parts, run one, exit.

use std::io::Write;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use env_logger::{Builder, Env, Target};
use osps::cli::{Cli, Command, Instance, Numbered, These, Those};
use osps::config::Config;
use osps::config::load::{self, Over};
use osps::drill;
use osps::error::Error;
use osps::instance::control::Wish;
use osps::instance::place::Place;
use osps::instance::{ask, beat, exec};
use osps::manual;
use osps::page;
use osps::pair::{client, plan, server};
use osps::prober;
use osps::report::{helper, show};
use osps::service::Inheritance;
use osps::sys::output;
use osps::top;
use osps::view::status::{self, Wanted};
use osps::view::{events, health, list, logs, metrics};
use osps::watchdog;
use osps_heart::words::Request;

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().collect();
    let way_in = args.get(1).and_then(|arg| arg.to_str());
    // Our own children do not pay for the command line's parser.
    let code = if way_in == Some("__exec") {
        // What becomes a program of the user's tells its watchdog, and needs no second thread.
        if args.len() > 2 {
            start_log(Style::Service, false);
        }
        finish(exec::main(&args[2..], server::main))
    } else if way_in == Some("__probe") {
        start_log(Style::Service, false);
        finish(prober::main(&args[2..]))
    } else if way_in == Some("__report") {
        start_log(Style::Service, false);
        finish(helper::main(&args[2..]))
    } else if way_in == Some("__load") {
        start_log(Style::Service, false);
        finish(load::main(&args[2..]))
    } else if way_in == Some("__man") {
        start_log(Style::Question, false);
        finish(manual::pages(args.get(2).map_or(Path::new("."), Path::new)))
    } else if way_in == Some("__layout") {
        output::print(format!("{}\n", ask::layout()).as_bytes());
        ExitCode::SUCCESS
    } else {
        let cli = Cli::try_parse_from(args).unwrap_or_else(|error| {
            if watchdog::is_handed() {
                start_log(Style::Service, false);
                watchdog::go_back(&error);
            }
            error.exit()
        });
        let asks = !matches!(cli.command, None | Some(Command::Run(_) | Command::Up { .. }));
        start_log(if asks { Style::Question } else { Style::Service }, cli.is_quiet());
        run(&cli)
    };
    output::stdout().flush_bounded();
    output::stderr().flush_bounded();
    code
}

fn run(cli: &Cli) -> ExitCode {
    if let Some(option) = cli.misplaced() {
        let text = format!("{option} stands in front of a command that has no use for it there");
        let _ = Cli::command().error(ErrorKind::ArgumentConflict, text).print();
        return ExitCode::from(USAGE);
    }
    let place = || Place::asked(cli.instance.name(), cli.instance.run_dir.as_deref());
    let asked = |ask: &dyn Fn(&Place) -> Result<ExitCode, Error>| ask(&place()?);
    let wish = |request, span, names: &Vec<String>, quiet| {
        asked(&|place| {
            let names = names.clone();
            ask::ask(place, &Wish::Some { request, span, names }, quiet)
        })
    };
    finish(match &cli.command {
        Some(Command::Status { advice, json, quiet, services }) => {
            let wanted = match (quiet, advice) {
                (true, _) => Wanted::Nothing,
                (false, false) => Wanted::Servers,
                (false, true) => Wanted::Advice(services),
            };
            status::main(place(), wanted, *json)
        }
        Some(Command::Events { follow, since, service, json }) => {
            let (follow, since, json) = (*follow, *since, *json);
            let wanted = events::Wanted { follow, since, service: service.clone(), json };
            asked(&|place| events::main(place, &wanted))
        }
        Some(Command::Health { service }) => Ok(health::main(place(), service.as_deref())),
        Some(Command::Report { number, list, now, reports, json }) => asked(&|place| {
            let wanted = match (now, list, number) {
                (Some(service), _, _) => show::Wanted::Now(service.clone()),
                (None, true, _) => show::Wanted::List,
                (None, false, Numbered::Last) => show::Wanted::Last,
                (None, false, Numbered::Number(number)) => show::Wanted::Number(*number),
            };
            let (name, directory) = (cli.instance.name(), reports.report_dir.as_deref());
            show::main(place, name, directory, &wanted, *json)
        }),
        Some(Command::Top { once }) => asked(&|place| top::main(place, *once)),
        Some(Command::List { json }) => list::main(*json),
        Some(Command::Drill { services, fault, rounds, idle, yes, json, .. }) => asked(&|place| {
            let (services, rounds) = (services.clone(), usize::from(*rounds));
            let (fault, idle, yes, json) = (*fault, *idle, *yes, *json);
            drill::main(place, &drill::Request { services, fault, rounds, idle, yes, json })
        }),
        Some(Command::Stop(Those { services, quiet })) if services.is_empty() => {
            asked(&|place| ask::stop(place, *quiet))
        }
        Some(Command::Reload(Those { services, quiet })) if services.is_empty() => {
            asked(&|place| ask::ask(place, &Wish::ReloadFile, *quiet))
        }
        Some(Command::Stop(Those { services, quiet })) => {
            wish(Request::Stop, Duration::ZERO, services, *quiet)
        }
        Some(Command::Reload(Those { services, quiet })) => {
            wish(Request::Reload, Duration::ZERO, services, *quiet)
        }
        Some(Command::Start(These { services, quiet })) => {
            wish(Request::Start, Duration::ZERO, services, *quiet)
        }
        Some(Command::Restart(These { services, quiet })) => {
            wish(Request::Restart, Duration::ZERO, services, *quiet)
        }
        Some(Command::Resume(These { services, quiet })) => {
            wish(Request::Resume, Duration::ZERO, services, *quiet)
        }
        Some(Command::Pause { these: These { services, quiet }, span }) => {
            wish(Request::Pause, *span, services, *quiet)
        }
        Some(Command::Logs { services, follow, lines }) => {
            asked(&|place| logs::main(place, services, *follow, *lines))
        }
        Some(Command::Metrics) => asked(&metrics::main),
        Some(Command::Upgrade { binary, quiet }) => {
            asked(&|place| ask::upgrade(place, &binary.clone().unwrap_or_else(own_image), *quiet))
        }
        Some(Command::Check { file }) => load::check(file),
        Some(Command::Completions { shell }) => Ok(manual::completions(*shell)),
        Some(Command::Up { file, start, quiet }) => {
            let Instance { name, run_dir } = cli.instance.clone();
            let report_dir = start.reports.report_dir.clone();
            load::config(file, &Over { name, run_dir, report_dir, quiet: *quiet })
                .and_then(|config| supervise(&config, start.take_over))
        }
        Some(Command::Beat { named, activity }) => {
            beat::main(named.as_deref(), activity.as_deref())
        }
        Some(Command::Page { listen, allow_remote, hosts }) => {
            let (listen, allow_remote, hosts) = (*listen, *allow_remote, hosts.clone());
            let wanted = page::Wanted { listen, allow_remote, hosts };
            place().map_err(Error::from).and_then(|place| page::main(place, wanted))
        }
        Some(Command::Client { addr, timeout, words }) => asked(&|place| {
            let (address, timeout, words) = (*addr, *timeout, words.clone());
            client::main(place, &client::Request { address, timeout, words })
        }),
        None | Some(Command::Run(_)) => {
            let take_over = cli.start().take_over;
            cli.config().map_err(Error::from).and_then(|config| supervise(&config, take_over))
        }
    })
}

/// The file of this binary, by the name that others know it by.
fn own_image() -> PathBuf {
    let own = Path::new("/proc/self/exe");
    std::fs::read_link(own).unwrap_or(own.to_owned())
}

fn supervise(config: &Config, take_over: bool) -> Result<ExitCode, Error> {
    let place = config.settings().place;
    if take_over && !watchdog::is_handed() && !watchdog::take_over(&place)? {
        // It lives and works: it becomes what we are.
        return ask::upgrade(&place, &own_image(), false);
    }
    let plan = |dir: BorrowedFd<'_>, inherited: &mut Inheritance| config.services(dir, inherited);
    watchdog::main(&config.settings(), plan::fifos(), &plan)
}

/// Exit code of a wish that cannot work, the same as clap's.
const USAGE: u8 = 2;

fn finish(result: Result<ExitCode, Error>) -> ExitCode {
    result.unwrap_or_else(|error| {
        watchdog::go_back(&error);
        log::error!("{error}");
        match error {
            Error::Invalid(_) | Error::Problems(_) => ExitCode::from(USAGE),
            _ => ExitCode::FAILURE,
        }
    })
}

/// How a line of the log looks.
#[derive(Clone, Copy)]
enum Style {
    /// With its time and level: something that runs for long.
    Service,
    /// As an answer to somebody who asked just now.
    Question,
}

/// The log goes to standard error, through a queue that never blocks: `info`, or `warn` if it shall
/// be quiet, unless `RUST_LOG` says otherwise.
fn start_log(style: Style, quiet: bool) {
    let level = if quiet { "warn" } else { "info" };
    let target = Target::Pipe(Box::new(output::stderr().clone()));
    Builder::from_env(Env::default().default_filter_or(level))
        .format(move |buffer, record| match style {
            Style::Service => {
                let time = buffer.timestamp_millis();
                writeln!(buffer, "{time} {:<5} {}", record.level(), record.args())
            }
            Style::Question => writeln!(buffer, "osps: {}", record.args()),
        })
        .target(target)
        .init();
}
