//! Real cgroups of Pods, so that local processes look as if they were in containers. Needs root.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::FakePod;

/// The cgroup of one container. Goes with the value, when its processes have ended.
#[derive(Debug)]
pub struct PodCgroup {
    folder: PathBuf,
    root: PathBuf,
}

impl PodCgroup {
    /// For the first container of `pod`, below `/<name>` of a hierarchy: of `pids` with cgroup v1, of the one with v2.
    ///
    /// # Panics
    ///
    /// When it cannot be made; only root may.
    #[must_use]
    pub fn make(name: &str, pod: &FakePod) -> Self {
        let hierarchy = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup/unified", "/sys/fs/cgroup"];
        let hierarchy = hierarchy.map(Path::new).into_iter().find(|path| path.join("cgroup.procs").exists());
        let hierarchy = hierarchy.expect("a cgroup hierarchy in /sys/fs/cgroup");
        let root = hierarchy.join(name);
        let folder = root.join(pod.cgroup().trim_start_matches('/'));
        std::fs::create_dir_all(&folder).expect("a cgroup, which only root may make");
        Self { folder, root }
    }

    /// A command that runs `program` in it.
    #[must_use]
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("sh");
        let enter = r#"echo $$ >"$1/cgroup.procs" && shift && exec "$@""#;
        command.args(["-c", enter, "sh"]).arg(&self.folder).arg(program);
        command
    }
}

impl Drop for PodCgroup {
    fn drop(&mut self) {
        // What others use below the root stays, and so does the root then.
        for folder in self.folder.ancestors().take_while(|folder| folder.starts_with(&self.root)) {
            if std::fs::remove_dir(folder).is_err() {
                return;
            }
        }
    }
}
