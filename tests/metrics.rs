//! `osps metrics`, and the examples that build on it.
//!
//! Goal: the figures are those of the instance, in a text that Prometheus takes, also from a dead
//! watchdog's segment; the document lists all of them; rules and dashboard use no others, and the
//! rules fire when they should.
//!
//! Method: black box, with promtool as the judge of texts and rules. The lists are compared.
//!
//! What it cannot show: that the dashboard looks well.
#![allow(clippy::unwrap_used, reason = "a test that fails panics")]
#![allow(clippy::disallowed_methods, reason = "these tests run in real time")]

mod common;

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use osps::view::metrics::FAMILIES;
use osps_heart::words::State;

use common::{Launch, Osps, has, skip, text};

fn document(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name)
}

fn read(name: &str) -> String {
    std::fs::read_to_string(document(name)).unwrap()
}

/// What `osps metrics` prints.
fn metrics(osps: &Osps) -> String {
    let output = osps.command(&["metrics"]);
    assert!(output.status.success() && output.stderr.is_empty(), "{}", text(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// The value of the one series with this name and these labels.
fn value(metrics: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let is_it = |line: &&str| {
        let rest = line.strip_prefix(name).and_then(|rest| rest.strip_prefix('{'));
        let has = |rest: &str| {
            labels.iter().all(|(label, value)| rest.contains(&format!("{label}=\"{value}\"")))
        };
        rest.is_some_and(has)
    };
    let mut found = metrics.lines().filter(is_it);
    let line = found.next()?;
    assert_eq!(found.next(), None, "{name} {labels:?}");
    Some(line.rsplit(' ').next().unwrap().parse().unwrap())
}

/// promtool finds nothing to say about it.
fn assert_liked(metrics: &str) {
    let mut command = Command::new("promtool");
    command.args(["check", "metrics"]).stdin(Stdio::piped());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(metrics.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let silent = output.stdout.is_empty() && output.stderr.is_empty();
    assert!(output.status.success() && silent, "{}\n{metrics}", text(&output));
}

#[test]
fn the_figures_are_those_of_the_instance_and_prometheus_likes_them() {
    if !has("promtool") {
        return skip("promtool");
    }
    let mut osps = Launch::pair(&["--hang-timeout", "1s", "--name", "shop"]).start();
    osps.wait_linked();
    assert_liked(&metrics(&osps));
    let (frozen, old) = (osps.process(1), osps.generation(1));
    osps.stop_process(&frozen);
    osps.wait_successor(1, old);
    assert_eq!(osps.ask(0, "SET k v"), "+OK");
    let metrics = osps.wait("its gaps", || {
        let metrics = metrics(&osps);
        value(&metrics, "osps_heartbeat_worst_gap_seconds", &[("service", "primary")])?;
        Some(metrics)
    });
    assert_liked(&metrics);
    let of = |name: &str, labels: &[(&str, &str)]| {
        value(&metrics, name, labels).unwrap_or_else(|| panic!("{name} {labels:?}:\n{metrics}"))
    };
    let secondary = ("service", "secondary-1");
    let is = |name: &str, labels: &[(&str, &str)], expected: f64| {
        assert!((of(name, labels) - expected).abs() < 1e-9, "{name} {labels:?}:\n{metrics}");
    };
    is("osps_up", &[("name", "shop")], 1.0);
    is("osps_service_up", &[secondary], 1.0);
    is("osps_restarts_total", &[secondary, ("cause", "frozen")], 1.0);
    is("osps_restarts_total", &[secondary, ("cause", "killed")], 0.0);
    is("osps_hangs_total", &[secondary, ("class", "stopped")], 1.0);
    is("osps_heartbeat_limit_seconds", &[secondary], 1.0);
    is("osps_data_keys", &[], 1.0);
    let states =
        State::ALL.map(|state| of("osps_service_state", &[secondary, ("state", state.word())]));
    assert!((states.iter().sum::<f64>() - 1.0).abs() < 1e-9, "{states:?}");
    // A histogram is one: it grows to its count, and its sum is at least its worst.
    let primary = ("service", "primary");
    let count = of("osps_heartbeat_gap_seconds_count", &[primary]);
    let buckets = metrics.lines().filter(|line| {
        line.starts_with("osps_heartbeat_gap_seconds_bucket{")
            && line.contains("service=\"primary\"")
    });
    let counts: Vec<f64> =
        buckets.map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect();
    assert!(counts.is_sorted() && counts.len() > 10, "{counts:?}");
    assert!((counts.last().unwrap() - count).abs() < 1e-9, "{counts:?}, {count}");
    let sum = of("osps_heartbeat_gap_seconds_sum", &[primary]);
    assert!(sum >= of("osps_heartbeat_worst_gap_seconds", &[primary]), "{metrics}");

    // Each name is in the list; and each of the list was found here.
    let types = metrics.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let found: BTreeSet<_> = types.map(|rest| rest.split(' ').next().unwrap()).collect();
    let listed: BTreeSet<_> = FAMILIES.iter().map(|family| family.name).collect();
    assert_eq!(found, listed);

    // The segment outlives its watchdog.
    osps.kill_watchdog();
    let after = self::metrics(&osps);
    assert_liked(&after);
    assert_eq!(value(&after, "osps_up", &[]), Some(0.0), "{after}");
    assert_eq!(value(&after, "osps_service_up", &[secondary]), Some(1.0), "{after}");
    osps.start_again();
    osps.wait_founded();
    osps.stop();
}

#[test]
fn an_instance_that_does_not_run_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new(common::BINARY);
    command.arg("metrics").arg("--run-dir").arg(directory.path().join("none"));
    let output = command.output().unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{}", text(&output));
    assert!(text(&output).contains("does not run"), "{}", text(&output));
}

#[test]
fn the_document_lists_each_metric() {
    let operations = read("operations.md");
    let section = operations.split("\n## Metrics\n").nth(1).expect("a section \"Metrics\"");
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `osps_"));
    let rows: Vec<_> = rows.map(ToOwned::to_owned).collect();
    let expected: Vec<_> = FAMILIES
        .iter()
        .map(|family| {
            let labels = family.labels.iter().map(|label| format!("`{label}`"));
            let labels = labels.collect::<Vec<_>>().join(", ");
            format!("| `{}` | {} | {labels} | {} |", family.name, family.kind.word(), family.help)
        })
        .collect();
    assert_eq!(rows, expected, "write:\n{}", expected.join("\n"));
}

#[test]
fn rules_fire_when_they_should() {
    if !has("promtool") {
        return skip("promtool");
    }
    let directory = document("examples/prometheus");
    for words in [["check", "rules", "rules.yml"], ["test", "rules", "rules_test.yml"]] {
        let mut command = Command::new("promtool");
        let output = command.args(words).current_dir(&directory).output().unwrap();
        assert!(output.status.success(), "{words:?}: {}", text(&output));
    }
}

#[test]
fn rules_and_dashboard_use_no_other_names() {
    let listed: BTreeSet<_> = FAMILIES.iter().map(|family| family.name.to_owned()).collect();
    for file in ["rules.yml", "grafana.json"] {
        let used = read(&format!("examples/prometheus/{file}"));
        let words = used.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let names: BTreeSet<_> = words.filter(|word| word.starts_with("osps_")).collect();
        assert!(names.len() > 4, "{file}: {names:?}");
        for name in names {
            let family = name.strip_suffix("_bucket").unwrap_or(name);
            assert!(listed.contains(family), "{file}: {name}");
        }
    }
    serde_json::from_str::<serde_json::Value>(&read("examples/prometheus/grafana.json")).unwrap();
}
