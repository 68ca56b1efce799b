//! What is written where, and who is told.

use std::ffi::OsString;
use std::path::PathBuf;

use nix::sys::signal::Signal;

/// Everything that the writer is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The Workload API's socket.
    pub socket: PathBuf,
    /// Where the files are. Must exist.
    pub folder: PathBuf,
    /// How files are replaced.
    pub replacement: Replacement,
    /// The X.509-SVID with its key and bundle.
    pub x509: Option<X509Files>,
    /// The JWT bundles.
    pub jwt_bundle: Option<JwtBundleFile>,
    /// JWT-SVIDs.
    pub jwt_svids: Vec<JwtSvidFile>,
    /// Which identity, if there are several. Empty: the first.
    pub hint: String,
    /// Who is told of a renewal.
    pub program: ProgramSettings,
}

/// How files are replaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Replacement {
    /// One after the other: first the key, then the certificates, then the bundle. A reader may see the new key with
    /// the old certificates for an instant.
    #[default]
    EachFile,
    /// All at once: the files are links into a directory that is exchanged, as in volumes of the kubelet.
    WholeFolder,
}

/// The files of an X.509-SVID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct X509Files {
    /// Name of the file with the certificates.
    pub certificates: String,
    /// Name of the file with the private key.
    pub key: String,
    /// Name of the file with the authorities.
    pub bundle: String,
    /// Mode of certificates and bundle.
    pub certificate_mode: u32,
    /// Mode of the key.
    pub key_mode: u32,
    /// Whether the certificates between leaf and root are with the authorities, and not with the leaf.
    pub intermediates_in_bundle: bool,
    /// Whether the authorities of federated trust domains are in the bundle.
    pub federated: bool,
    /// Whether certificates that have ended are left out.
    pub omit_expired: bool,
}

/// The file of JWT bundles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtBundleFile {
    /// Its name.
    pub name: String,
    /// Its mode.
    pub mode: u32,
}

/// The file of a JWT-SVID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtSvidFile {
    /// Its name.
    pub name: String,
    /// Its mode.
    pub mode: u32,
    /// For whom the token is. Never empty.
    pub audience: Vec<String>,
}

/// Who is told of a renewal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProgramSettings {
    /// What is started once the files are there, and again after it ended.
    pub command: Option<(OsString, Vec<String>)>,
    /// A file with the number of a process.
    pub pid_file: Option<PathBuf>,
    /// What is sent to them.
    pub signal: Option<Signal>,
}
