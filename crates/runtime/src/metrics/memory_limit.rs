//! How much memory this process may use before the kernel ends it: the least of the limits of its control group and of
//! those above it.

use std::fs;
use std::path::{Path, PathBuf};

/// Limits from here on mean "none": cgroup v1 writes the largest multiple of a page.
const UNLIMITED: u64 = 1 << 62;

/// The limit in bytes; `None` without one, or where control groups cannot be read.
pub(super) fn memory_limit() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    limit(&groups, Path::new("/sys/fs/cgroup"))
}

/// From the text of `/proc/self/cgroup`, one `hierarchy:controllers:path` a line (cgroups(7)). `0::path` is cgroup v2's.
fn limit(groups: &str, root: &Path) -> Option<u64> {
    let mut least = None;
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let (mount, file) = match controllers {
            "" => (root.to_owned(), "memory.max"),
            v1 if v1.split(',').any(|name| name == "memory") => {
                (root.join("memory"), "memory.limit_in_bytes")
            }
            _ => continue,
        };
        least = least.into_iter().chain(least_of_path(&mount, path, file)).min();
    }
    least
}

/// The least limit of `path` and the groups above it. In a container the own group is often the root of what is mounted,
/// whatever `path` says.
fn least_of_path(mount: &Path, path: &str, file: &str) -> Option<u64> {
    let own = mount.join(path.trim_start_matches('/'));
    let groups = own.ancestors().take_while(|group| group.starts_with(mount)).map(Path::to_owned);
    groups.filter_map(|group: PathBuf| read(&group.join(file))).min()
}

fn read(file: &Path) -> Option<u64> {
    // cgroup v2 says "max" when there is none.
    fs::read_to_string(file).ok()?.trim().parse().ok().filter(|limit| *limit < UNLIMITED)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree of control groups under a directory of its own.
    struct Tree(PathBuf);

    impl Tree {
        fn new(name: &str, files: &[(&str, &str)]) -> Self {
            let root = std::env::temp_dir().join(format!("vouchsafe-cgroup-{name}-{}", std::process::id()));
            for (file, text) in files {
                let file = root.join(file);
                fs::create_dir_all(file.parent().unwrap()).unwrap();
                fs::write(file, text).unwrap();
            }
            Self(root)
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).ok();
        }
    }

    #[test]
    fn the_least_limit_on_the_way_up_counts_in_version_2() {
        let tree = Tree::new(
            "v2",
            &[
                ("kube/memory.max", "3000\n"),
                ("kube/pod/memory.max", "2000\n"),
                ("kube/pod/c/memory.max", "max\n"),
            ],
        );
        assert_eq!(limit("0::/kube/pod/c\n", &tree.0), Some(2_000));
        assert_eq!(limit("0::/kube\n", &tree.0), Some(3_000));
        assert_eq!(limit("0::/elsewhere\n", &tree.0), None);
    }

    #[test]
    fn inside_a_container_the_mounted_group_is_the_own_one() {
        let tree = Tree::new("inside", &[("memory.max", "1000\n")]);
        assert_eq!(limit("0::/kube/pod/c\n", &tree.0), Some(1_000));
        assert_eq!(limit("0::/\n", &tree.0), Some(1_000));
    }

    #[test]
    fn version_1_has_a_hierarchy_for_memory_and_a_large_number_for_no_limit() {
        let tree = Tree::new(
            "v1",
            &[
                ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
                ("memory/api/memory.limit_in_bytes", "5000\n"),
            ],
        );
        let groups = |path: &str| format!("8:pids:/other\n4:cpu,memory:{path}\n0::/\n");
        assert_eq!(limit(&groups("/api"), &tree.0), Some(5_000));
        assert_eq!(limit(&groups("/"), &tree.0), None);
        assert_eq!(limit("nonsense", &tree.0), None);
    }
}
