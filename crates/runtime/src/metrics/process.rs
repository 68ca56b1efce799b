//! What the kernel knows of this process, from `/proc`. A file that cannot be read leaves its metrics out.

use std::fs;

use super::render::{head, line, number};

/// Clock ticks per second in `/proc`. The kernel fixed it at 100 for user space on every architecture that Rust
/// supports with std on Linux.
const TICKS_PER_SECOND: f64 = 100.0;

#[derive(Clone, Copy, Debug, PartialEq)]
struct Stat {
    cpu_seconds: f64,
    start_after_boot: f64,
    virtual_bytes: f64,
}

pub(super) fn render(text: &mut String) {
    let read = |path: &str| fs::read_to_string(path).ok();
    let stat = read("/proc/self/stat").as_deref().and_then(parse_stat);
    let boot = read("/proc/stat").as_deref().and_then(|stat| field(stat, "btime"));
    let resident = read("/proc/self/status").as_deref().and_then(|status| field(status, "VmRSS:"));
    let max_fds = read("/proc/self/limits").as_deref().and_then(|limits| field(limits, "Max open files"));
    let open_fds = fs::read_dir("/proc/self/fd").ok().map(|fds| fds.count() as f64);

    put(text, "process_cpu_seconds_total", "counter", stat.map(|stat| stat.cpu_seconds));
    put(text, "process_max_fds", "gauge", max_fds);
    put(text, "process_open_fds", "gauge", open_fds);
    put(text, "process_resident_memory_bytes", "gauge", resident.map(|kib| kib * 1_024.0));
    let start = stat.zip(boot).map(|(stat, boot)| boot + stat.start_after_boot);
    put(text, "process_start_time_seconds", "gauge", start);
    put(text, "process_virtual_memory_bytes", "gauge", stat.map(|stat| stat.virtual_bytes));
}

fn put(text: &mut String, name: &str, kind: &str, value: Option<f64>) {
    if let Some(value) = value {
        head(text, name, kind);
        line(text, name, "", number(value));
    }
}

/// Fields as numbered in proc_pid_stat(5). The name of the command may hold anything, so it is cut off first.
fn parse_stat(stat: &str) -> Option<Stat> {
    let (_, after_command) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = after_command.split_ascii_whitespace().collect();
    let number = |numbered: usize| fields.get(numbered - 3)?.parse::<f64>().ok();
    Some(Stat {
        cpu_seconds: (number(14)? + number(15)?) / TICKS_PER_SECOND,
        start_after_boot: number(22)? / TICKS_PER_SECOND,
        virtual_bytes: number(23)?,
    })
}

/// The first number after `name` on the line that begins with it.
fn field(text: &str, name: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_described_plausibly() {
        let mut text = String::new();
        render(&mut text);
        let value =
            |name: &str| field(&text, &format!("{name} ")).unwrap_or_else(|| panic!("no {name} in {text}"));
        assert!(value("process_resident_memory_bytes") > 100_000.0);
        assert!(value("process_virtual_memory_bytes") >= value("process_resident_memory_bytes"));
        assert!(value("process_open_fds") >= 3.0);
        assert!(value("process_max_fds") >= value("process_open_fds"));
        assert!(value("process_cpu_seconds_total") >= 0.0);
        let age = crate::clock::Clock::system().unix_now() as f64 - value("process_start_time_seconds");
        assert!((-2.0..86_400.0).contains(&age), "started {age} s ago");
    }

    #[test]
    fn a_command_with_brackets_and_spaces_does_not_shift_the_fields() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194304 9 0 0 0 250 50 0 0 20 0 3 0 12345 1048576 99 18446744073709551615";
        let expected = Stat { cpu_seconds: 3.0, start_after_boot: 123.45, virtual_bytes: 1_048_576.0 };
        assert_eq!(parse_stat(stat), Some(expected));
        assert_eq!(parse_stat("7 (short) S 1"), None);
        assert_eq!(parse_stat(""), None);
    }
}
