//! What the operating system knows about a process: user, groups and, if asked, its program.
//!
//! | selector | value |
//! |---|---|
//! | `unix:uid`, `unix:gid` | effective numbers |
//! | `unix:user`, `unix:group` | their names, where there are any |
//! | `unix:supplementary_gid`, `unix:supplementary_group` | one each per supplementary group |
//! | `unix:path`, `unix:sha256` | the program file; only with `discover_workload_path` |
//!
//! Looking blocks a thread: a name service may hang, and a program may be of any size. So it happens on few threads
//! ([`Looks`]), programs are read on [`MAX_DIGESTS`] others, and the rest of the agent keeps threads for itself.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use nix::unistd::{Gid, Group, Uid, User};
use tokio::time::Instant;
use vouchsafe_transport::peer::PeerProcess;
use vouchsafe_types::selector::Selector;

use super::digest::{DigestError, Digests, Program};
use super::looks::Looks;
use super::{AttestorError, WorkloadAttestor};

/// Settings of the `unix` attestor, as SPIRE has them.
#[derive(Clone, Debug)]
pub struct UnixAttestorConfig {
    /// Also give `path` and `sha256`. Needs the right to look into other users' processes.
    pub discover_workload_path: bool,
    /// Largest program to digest, in bytes. 0: no limit. Negative: never digest.
    pub workload_size_limit: i64,
    /// Where processes are listed.
    pub proc_root: PathBuf,
}

impl Default for UnixAttestorConfig {
    fn default() -> Self {
        Self { discover_workload_path: false, workload_size_limit: 0, proc_root: "/proc".into() }
    }
}

/// The attestor.
#[derive(Clone, Debug)]
pub struct UnixAttestor {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: UnixAttestorConfig,
    digests: Digests,
    users: Names,
    groups: Names,
    looks: Looks,
    reads: Looks,
}

/// What one look finds.
#[derive(Debug)]
struct Looked {
    values: Vec<String>,
    /// The program, when its digest is asked for and not known yet.
    unread: Option<Program>,
}

impl UnixAttestor {
    /// With these settings.
    #[must_use]
    pub fn new(config: UnixAttestorConfig) -> Self {
        let inner = Inner {
            config,
            digests: Digests::default(),
            users: Names::default(),
            groups: Names::default(),
            looks: Looks::default(),
            reads: Looks::on(MAX_DIGESTS),
        };
        Self { inner: Arc::new(inner) }
    }
}

#[async_trait]
impl WorkloadAttestor for UnixAttestor {
    fn name(&self) -> &'static str {
        KIND
    }

    async fn attest(&self, peer: &PeerProcess) -> Result<Vec<Selector>, AttestorError> {
        let (inner, peer) = (Arc::clone(&self.inner), peer.clone());
        let looked = self.inner.looks.run(move || inner.look_at(&peer)).await?;
        let mut values = looked.values;
        if let Some(program) = looked.unread {
            let inner = Arc::clone(&self.inner);
            let read = move || inner.digests.read(program).map_err(no_digest);
            values.push(format!("sha256:{}", self.inner.reads.run(read).await?));
        }
        values
            .iter()
            .map(|value| Selector::new(KIND, value))
            .collect::<Result<_, _>>()
            .map_err(|error| AttestorError::Lookup { what: error.to_string(), source: None })
    }
}

impl Inner {
    fn look_at(&self, peer: &PeerProcess) -> Result<Looked, AttestorError> {
        let pid = peer.pid;
        let process = self.config.proc_root.join(pid.to_string());
        let text = std::fs::read_to_string(process.join("status"))
            .map_err(|source| lookup(format!("failed to get process {pid}"), source))?;
        let status = ProcStatus::parse(&text)
            .ok_or_else(|| refused(format!("UIDs lookup: no UIDs for process {pid}")))?;
        // A process that runs a set-user-ID program for a moment must not get what belongs to that program's owner.
        if (status.uid, status.gid) != (peer.uid, peer.gid) {
            return Err(refused(format!("process {pid} is of another user or group than when it connected")));
        }
        let mut values = self.users_and_groups(&status)?;
        let mut unread = None;
        if self.config.discover_workload_path {
            let program = process.join("exe");
            let path =
                std::fs::read_link(&program).map_err(|source| lookup("path lookup".to_owned(), source))?;
            values.push(format!("path:{}", path.display()));
            if let Ok(limit) = u64::try_from(self.config.workload_size_limit) {
                // Through /proc, so that a program in another mount namespace is the one that is read.
                let program = Program::open(&program, limit).map_err(no_digest)?;
                match self.digests.known(&program).map_err(no_digest)? {
                    Some(digest) => values.push(format!("sha256:{digest}")),
                    None => unread = Some(program),
                }
            }
        }
        Ok(Looked { values, unread })
    }

    fn users_and_groups(&self, status: &ProcStatus) -> Result<Vec<String>, AttestorError> {
        if status.groups.len() > MAX_GROUPS {
            return Err(refused(format!("{} supplementary groups", status.groups.len())));
        }
        let mut values = vec![format!("uid:{}", status.uid)];
        values.extend(self.users.of(status.uid, user_name).map(|name| format!("user:{name}")));
        values.push(format!("gid:{}", status.gid));
        values.extend(self.groups.of(status.gid, group_name).map(|name| format!("group:{name}")));
        for gid in &status.groups {
            values.push(format!("supplementary_gid:{gid}"));
            values.extend(self.groups.of(*gid, group_name).map(|name| format!("supplementary_group:{name}")));
        }
        Ok(values)
    }
}

fn lookup(what: String, source: std::io::Error) -> AttestorError {
    AttestorError::Lookup { what, source: Some(source) }
}

fn refused(what: String) -> AttestorError {
    AttestorError::Lookup { what, source: None }
}

fn no_digest(error: DigestError) -> AttestorError {
    refused(error.to_string())
}

/// The lines of `/proc/<pid>/status` that matter here.
#[derive(Debug, Eq, PartialEq)]
struct ProcStatus {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
}

impl ProcStatus {
    /// The kernel writes four numbers after `Uid:` and `Gid:`: real, effective, saved, file system.
    fn parse(text: &str) -> Option<Self> {
        let line = |key: &str| text.lines().find_map(|line| line.strip_prefix(key));
        let effective = |key| line(key)?.split_ascii_whitespace().nth(1)?.parse().ok();
        let groups =
            line("Groups:").unwrap_or_default().split_ascii_whitespace().filter_map(|gid| gid.parse().ok());
        Some(Self { uid: effective("Uid:")?, gid: effective("Gid:")?, groups: groups.collect() })
    }
}

/// Names by number, remembered for [`NAME_LIFETIME`]: a name service may be a network away.
#[derive(Debug, Default)]
struct Names {
    known: Mutex<HashMap<u32, (Option<String>, Instant)>>,
}

impl Names {
    fn of(&self, number: u32, look_up: fn(u32) -> Option<String>) -> Option<String> {
        let now = Instant::now();
        if let Some((name, until)) = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&number)
            && now < *until
        {
            return name.clone();
        }
        let name = look_up(number);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_NAMES {
            known.clear();
        }
        known.insert(number, (name.clone(), now + NAME_LIFETIME));
        name
    }
}

fn user_name(uid: u32) -> Option<String> {
    User::from_uid(Uid::from_raw(uid)).ok().flatten().map(|user| user.name)
}

fn group_name(gid: u32) -> Option<String> {
    Group::from_gid(Gid::from_raw(gid)).ok().flatten().map(|group| group.name)
}

const KIND: &str = "unix";

/// Threads that read programs at a time.
const MAX_DIGESTS: usize = 4;

/// A process with more supplementary groups is not attested: each connection keeps what was found.
const MAX_GROUPS: usize = 1024;

/// How long a user's or group's name is believed.
const NAME_LIFETIME: Duration = Duration::from_secs(60);

/// Names that are remembered; above it all are forgotten.
const MAX_NAMES: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    fn this_process() -> PeerProcess {
        PeerProcess::of(&std::os::unix::net::UnixStream::pair().unwrap().0).unwrap()
    }

    async fn own(config: UnixAttestorConfig) -> Result<Vec<String>, AttestorError> {
        let selectors = UnixAttestor::new(config).attest(&this_process()).await?;
        Ok(selectors.iter().map(|selector| selector.as_str().replacen("unix:", "", 1)).collect())
    }

    #[test]
    fn effective_numbers_and_supplementary_groups_are_read() {
        let text = "Name:\tx\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nFDSize:\t64\nGroups:\t10 20 \n";
        assert_eq!(ProcStatus::parse(text), Some(ProcStatus { uid: 2, gid: 6, groups: vec![10, 20] }));
        assert_eq!(
            ProcStatus::parse("Uid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nGroups:\n").unwrap().groups,
            Vec::<u32>::new()
        );
        assert_eq!(ProcStatus::parse("Name:\tx\n"), None);
    }

    #[tokio::test]
    async fn this_process_has_the_selectors_of_its_user() {
        let values = own(UnixAttestorConfig::default()).await.unwrap();
        assert!(values.contains(&format!("uid:{}", nix::unistd::geteuid())), "{values:?}");
        assert!(values.contains(&format!("gid:{}", nix::unistd::getegid())), "{values:?}");
        let user = User::from_uid(nix::unistd::geteuid()).unwrap();
        assert_eq!(
            values.iter().find(|v| v.starts_with("user:")).cloned(),
            user.map(|u| format!("user:{}", u.name))
        );
        assert!(!values.iter().any(|value| value.starts_with("path:")));
    }

    #[test]
    fn a_process_that_became_another_user_or_group_has_no_selectors() {
        let attestor = UnixAttestor::new(UnixAttestorConfig::default());
        let peer = this_process();
        assert!(attestor.inner.look_at(&peer).is_ok());
        for other in [
            PeerProcess { uid: peer.uid + 1, ..peer.clone() },
            PeerProcess { gid: peer.gid + 1, ..peer.clone() },
        ] {
            let error = attestor.inner.look_at(&other).unwrap_err().to_string();
            assert!(error.contains("of another user or group than when it connected"), "{error}");
        }
    }

    #[test]
    fn a_process_with_absurdly_many_groups_has_no_selectors() {
        let inner = UnixAttestor::new(UnixAttestorConfig::default()).inner;
        let groups = (0..=1024).map(|n| 3_000_000_000 + n).collect();
        assert!(inner.users_and_groups(&ProcStatus { uid: 0, gid: 0, groups }).is_err());
    }

    #[tokio::test]
    async fn the_program_is_named_only_when_asked_for() {
        let asked = UnixAttestorConfig { discover_workload_path: true, ..UnixAttestorConfig::default() };
        let values = own(asked.clone()).await.unwrap();
        let path = std::env::current_exe().unwrap();
        assert!(values.contains(&format!("path:{}", path.display())), "{values:?}");
        assert!(values.iter().any(|value| value.starts_with("sha256:") && value.len() == 71));
        let values = own(UnixAttestorConfig { workload_size_limit: -1, ..asked }).await.unwrap();
        assert!(!values.iter().any(|value| value.starts_with("sha256:")));
    }

    #[tokio::test]
    async fn a_program_above_the_limit_fails_the_attestation() {
        let config = UnixAttestorConfig {
            discover_workload_path: true,
            workload_size_limit: 1,
            ..UnixAttestorConfig::default()
        };
        let error = own(config).await.unwrap_err();
        assert!(error.to_string().contains("exceeds size limit"), "{error}");
    }
}
