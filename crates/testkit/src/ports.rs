//! TCP ports for programs that are told which port to listen on.
//!
//! Policy: a port that the kernel hands out (bind to 0, let go) may be anybody's a second later, be it another test or an
//! outgoing connection. These are taken in turn from a range below the ephemeral ports, by way of a number in a file that
//! all processes of this user share: tests, replays, benchmarks and `interop/lib.sh`. So a port comes again only after all
//! the others, hours later, and a program that is stopped and started finds its own port free. What somebody
//! else listens on is passed over.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// A port of this machine on which nobody listens, and which nobody else who asks here gets.
///
/// # Panics
///
/// As [`take`] fails.
#[must_use]
#[expect(clippy::expect_used, reason = "a test cannot go on without its port")]
pub fn free_port() -> u16 {
    take().expect("a free port")
}

/// The same, for programs that report what goes wrong.
///
/// # Errors
///
/// When the file that is shared cannot be used, or every port of the range is in use.
pub fn take() -> io::Result<u16> {
    let user = fs::metadata("/proc/self")?.uid();
    // Not TMPDIR, which differs between processes that must agree.
    Turns { file: PathBuf::from(format!("/tmp/vouchsafe-ports-{user}")), range: RANGE }.take()
}

/// Whose turn it is.
struct Turns {
    /// The port that was given last, in decimal. Anything else counts as none.
    file: PathBuf,
    range: Range<u16>,
}

impl Turns {
    fn take(&self) -> io::Result<u16> {
        let mut file =
            File::options().create(true).read(true).write(true).truncate(false).open(&self.file)?;
        // Until the file is closed.
        file.lock()?;
        let mut text = Vec::new();
        Read::by_ref(&mut file).take(MAX_TEXT).read_to_end(&mut text)?;
        let last = String::from_utf8_lossy(&text).trim().parse().ok();
        let mut port = last.filter(|last| self.range.contains(last)).unwrap_or(self.range.end - 1);
        for _ in self.range.clone() {
            port = if port + 1 < self.range.end { port + 1 } else { self.range.start };
            if TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() {
                file.set_len(0)?;
                file.rewind()?;
                file.write_all(port.to_string().as_bytes())?;
                return Ok(port);
            }
        }
        Err(io::Error::new(io::ErrorKind::AddrInUse, format!("all ports of {:?} are in use", self.range)))
    }
}

/// Below what Linux uses for outgoing connections (32768 and up). `interop/lib.sh` has the same numbers.
const RANGE: Range<u16> = 12_000..32_000;
/// More than this cannot be a port.
const MAX_TEXT: u64 = 16;

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn many_who_ask_at_once_get_ports_of_their_own_outside_of_the_ephemeral_range() {
        let ask = || std::thread::spawn(|| (0..50).map(|_| free_port()).collect::<Vec<_>>());
        let asking: Vec<_> = (0..8).map(|_| ask()).collect();
        let ports: Vec<u16> = asking.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        assert!(ports.iter().all(|port| RANGE.contains(port)), "{ports:?}");
        assert_eq!(ports.iter().collect::<HashSet<_>>().len(), 400);
    }

    #[test]
    fn ports_come_in_turn_and_what_is_in_use_is_passed_over() {
        // Three in a row that nobody else gets, since they were just given.
        let [first, second, third] = (0..)
            .map(|_| [free_port(), free_port(), free_port()])
            .find(|[first, second, third]| first + 1 == *second && second + 1 == *third)
            .unwrap();
        let folder = tempfile::tempdir().unwrap();
        let turns = Turns { file: folder.path().join("ports"), range: first..third + 1 };
        let given = |count| (0..count).map(|_| turns.take().unwrap()).collect::<Vec<_>>();
        let in_use = TcpListener::bind(("127.0.0.1", second)).unwrap();
        assert_eq!(given(3), [first, third, first]);
        drop(in_use);
        assert_eq!(given(2), [second, third]);
        fs::write(&turns.file, "not a port").unwrap();
        assert_eq!(given(1), [first]);
        let _all = [first, second, third].map(|port| TcpListener::bind(("127.0.0.1", port)).unwrap());
        assert_eq!(turns.take().unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }
}
