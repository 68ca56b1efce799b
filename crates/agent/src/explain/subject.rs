//! Which processes are meant. Blocks on `/proc`.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

/// The name that process `pid` goes by; a question mark when it does not show one.
#[must_use]
pub fn process_name(pid: i32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let name = name.trim_end();
    if name.is_empty() { "?".to_owned() } else { name.to_owned() }
}

/// Whether process `pid` is in the PID namespace of this one. `None` when that cannot be seen.
#[must_use]
pub fn in_our_pid_namespace(pid: i32) -> Option<bool> {
    // The kernel gives no number to a process that is not below our namespace.
    if pid == 0 {
        return Some(false);
    }
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    match (namespace("self"), namespace(&pid.to_string())) {
        (Some(ours), Some(theirs)) => Some(ours == theirs),
        // Of another user's process only root may see the namespace.
        _ => by_numbers(Path::new("/proc"), pid),
    }
}

/// A process has a number in each namespace from that of `proc` down to its own. Is there one, then that is its own. Whether
/// it is ours, too, the same tells of us.
fn by_numbers(proc: &Path, pid: i32) -> Option<bool> {
    let numbers = |pid: &str| {
        let status = fs::read_to_string(proc.join(pid).join("status")).ok()?;
        let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
        Some(numbers.split_ascii_whitespace().count())
    };
    (numbers("self")? == 1).then_some(numbers(&pid.to_string())? == 1)
}

/// The processes below `proc` whose cgroup is that of the Pod `uid`, the lowest number first, at most [`MAX_OF_A_POD`].
///
/// # Errors
///
/// `uid` is not one, in words.
pub fn processes_of_pod(proc: &Path, uid: &str) -> Result<Vec<i32>, String> {
    if uid.is_empty()
        || uid.len() > MAX_UID
        || !uid.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    {
        return Err(format!("{uid:?} is not the UID of a Pod, such as 2c48913c-b29f-11e7-9350-020968147796"));
    }
    // The systemd driver writes underscores for dashes.
    let names = [format!("pod{uid}"), format!("pod{}", uid.replace('-', "_"))];
    let listed = fs::read_dir(proc).into_iter().flatten().take(MAX_LISTED).filter_map(Result::ok);
    let mut found: Vec<i32> = listed
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| is_in(&proc.join(pid.to_string()).join("cgroup"), &names))
        .collect();
    found.sort_unstable();
    found.truncate(MAX_OF_A_POD);
    Ok(found)
}

fn is_in(cgroup: &Path, names: &[String; 2]) -> bool {
    let Ok(file) = File::open(cgroup) else { return false };
    let mut text = String::new();
    if file.take(MAX_CGROUP).read_to_string(&mut text).is_err() {
        return false;
    }
    let segments = text.split(['/', '\n']);
    segments.into_iter().any(|segment| {
        let segment = segment.strip_suffix(".slice").unwrap_or(segment);
        names.iter().any(|name| {
            segment == name || segment.strip_suffix(name.as_str()).is_some_and(|before| before.ends_with('-'))
        })
    })
}

/// Processes of one Pod that are looked at; further ones are left out.
pub const MAX_OF_A_POD: usize = 16;

/// Entries of `/proc` that are looked at; further ones are left out.
const MAX_LISTED: usize = 65_536;

const MAX_UID: usize = 64;

/// Bytes of a cgroup file that are read.
const MAX_CGROUP: u64 = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_of_a_pod_are_found_in_cgroups_of_either_driver() {
        let proc = tempfile::tempdir().unwrap();
        let uid = "2c48913c-b29f-11e7-9350-020968147796";
        let process = |pid: &str, cgroup: &str| {
            fs::create_dir(proc.path().join(pid)).unwrap();
            fs::write(proc.path().join(pid).join("cgroup"), cgroup).unwrap();
        };
        process("30", &format!("0::/kubepods/besteffort/pod{uid}/abc\n"));
        process(
            "4",
            "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod2c48913c_b29f_11e7_9350_020968147796.slice/cri-abc.scope\n",
        );
        process("5", &format!("0::/kubepods/pod{uid}0/abc\n"));
        process("6", "0::/user.slice\n");
        process("self", &format!("0::/pod{uid}\n"));
        assert_eq!(processes_of_pod(proc.path(), uid).unwrap(), [4, 30]);
        assert!(processes_of_pod(proc.path(), "2c48913c-b29f-11e7-9350-020968147797").unwrap().is_empty());
        assert!(processes_of_pod(proc.path(), "../x").is_err() && processes_of_pod(proc.path(), "").is_err());
    }

    #[test]
    fn numbers_tell_a_process_of_a_container_when_the_namespace_is_not_to_be_seen() {
        let proc = tempfile::tempdir().unwrap();
        let process = |pid: &str, numbers: &str| {
            fs::create_dir_all(proc.path().join(pid)).unwrap();
            let status = format!("Name:\tx\nNSpid:\t{numbers}\nNSpgid:\t1\n");
            fs::write(proc.path().join(pid).join("status"), status).unwrap();
        };
        process("self", "990");
        process("4", "4");
        process("5", "5\t1");
        let found = |pid| by_numbers(proc.path(), pid);
        assert_eq!([found(4), found(5), found(6)], [Some(true), Some(false), None]);
        // An agent in a container that sees the machine's processes cannot tell its own from its neighbours'.
        process("self", "990\t1");
        assert_eq!([found(4), found(5)], [None, None]);
    }

    #[test]
    fn this_process_is_in_its_own_namespace_and_has_a_name() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert_eq!([own, 0, -1].map(in_our_pid_namespace), [Some(true), Some(false), None]);
        assert_ne!(process_name(own), "?");
        assert_eq!(process_name(-1), "?");
    }
}
