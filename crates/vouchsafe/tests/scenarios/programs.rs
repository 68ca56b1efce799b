//! Which programs a scenario runs.

use std::path::{Path, PathBuf};

/// The programs of one scenario, under the names that SPIRE's have.
pub(crate) struct Programs {
    pub(crate) server: PathBuf,
    pub(crate) agent: PathBuf,
    pub(crate) oidc: PathBuf,
    /// Whose server and agent these are.
    pub(crate) kind: Kind,
}

/// Where a scenario expects different things of SPIRE's programs and ours, it asks for this.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    pub(crate) our_server: bool,
    pub(crate) our_agent: bool,
}

impl Programs {
    /// Links to the programs in `folder`: those that the environment names, or ours.
    pub(crate) fn link_into(folder: &Path) -> Self {
        Self::link(folder, chosen("SCENARIO_SERVER"), chosen("SCENARIO_AGENT"))
    }

    /// Links to this server and this agent in `folder`; `None` is ours.
    pub(crate) fn link(folder: &Path, server: Option<PathBuf>, agent: Option<PathBuf>) -> Self {
        let kind = Kind { our_server: server.is_none(), our_agent: agent.is_none() };
        let ours = Self::ours();
        let link = |target: PathBuf, name: &str| {
            let link = folder.join(name);
            std::os::unix::fs::symlink(target, &link).unwrap();
            link
        };
        Self {
            server: link(server.unwrap_or_else(|| ours.clone()), "spire-server"),
            agent: link(agent.unwrap_or_else(|| ours.clone()), "spire-agent"),
            oidc: link(chosen("SCENARIO_OIDC").unwrap_or(ours), "oidc-discovery-provider"),
            kind,
        }
    }

    /// The binary that the interop suites test, or the one of this build.
    pub(crate) fn ours() -> PathBuf {
        chosen("VOUCHSAFE_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_vouchsafe").into())
    }
}

fn chosen(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}
