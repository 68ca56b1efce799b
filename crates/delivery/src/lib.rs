//! How a Pod or a program gets at its identity: the Workload API's socket in a volume, or files.
//!
//! Both are for those that cannot be changed. A program that speaks the Workload API needs a way to the socket (`csi`),
//! and one that only reads files needs somebody to write them (`files`).
//!
//! Invariants:
//!
//! * the agent may come and go: what was delivered stays, and nothing is taken back because the agent is away;
//! * a file is whole or absent, whenever this process ends, and a key is never readable by more than its mode says;
//! * a volume shows the directory of the socket, never the socket itself, so that an agent that starts again is seen;
//! * nothing below a target path is ever deleted: it is another's directory that is mounted there;
//! * no path from a peer is followed through a symbolic link.
//!
//! * [`csi`]   the CSI node driver `csi.spiffe.io`, and its registration with the kubelet
//! * [`files`] the file writer in the manner of spiffe-helper
//!
//! Neither knows the other. The flow of a volume: kubelet → [`csi::node`] → checks → [`csi::volumes`] → mount. The flow of
//! files: Workload API → [`files::source`] → [`files::render`] → [`files::folder`] → [`files::program`] is told.

pub mod csi;
pub mod files;
