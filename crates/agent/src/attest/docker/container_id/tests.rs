use super::*;

const A: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const B: &str = "7654321089abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn cgroup(text: &str) -> Result<Option<String>, LocateError> {
    let paths = group_paths(text.as_bytes())?;
    in_paths(paths.iter().map(Vec::as_slice))
}

fn mounts(text: &str) -> Result<Option<String>, LocateError> {
    in_mountinfo(text.as_bytes())
}

#[test]
fn every_runtimes_way_to_name_a_cgroup_is_known() {
    for path in [
        format!("/docker/{A}"),
        format!("/system.slice/docker-{A}.scope"),
        format!("/system.slice/docker-{A}.scope/init.scope"),
        format!("/kubepods/besteffort/pod1/{A}"),
        format!("/kubepods.slice/kubepods-pod1.slice:cri-containerd:{A}"),
        format!("/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{A}.scope/container"),
        format!("/../{A}"),
        format!("/outer/{B}/inner/{A}"),
        A.to_owned(),
    ] {
        assert_eq!(cgroup(&format!("0::{path}\n")).unwrap().as_deref(), Some(A), "{path}");
    }
}

#[test]
fn what_is_not_a_container_id_is_none() {
    let short = &A[1..];
    for path in [
        "/".to_owned(),
        "/user.slice/user-1000.slice/session-2.scope".to_owned(),
        format!("/docker/{short}"),
        format!("/docker/{A}0"),
        format!("/docker/x{A}"),
        format!("/docker/{A}_x"),
        format!("/docker/{A}/"),
        format!("/{A}//x"),
        format!("/docker/{}", A.replace('f', "g")),
    ] {
        assert_eq!(cgroup(&format!("0::{path}\n")).unwrap(), None, "{path}");
    }
}

#[test]
fn lines_that_disagree_choose_nothing() {
    let error = cgroup(&format!("2:cpu:/docker/{A}\n1:memory:/docker/{B}\n")).unwrap_err();
    assert_eq!(error.to_string(), format!("multiple container IDs found (\"{A}\", \"{B}\")"));
    let error =
        cgroup(&format!("1:name=systemd:/docker/{A}\n0::/system.slice/containerd.service\n")).unwrap_err();
    assert_eq!(error.to_string(), format!("multiple container IDs found (\"{A}\", \"\")"));
    assert_eq!(
        cgroup(&format!("3:cpuset:/\n2:cpu:/docker/{A}\n1:memory:/docker/{A}")).unwrap().as_deref(),
        Some(A)
    );
}

#[test]
fn a_line_without_its_fields_fails_the_file() {
    for (text, fields) in [("11:hugetlb\n", 2), ("x", 1), ("\n", 1)] {
        let error = cgroup(text).unwrap_err().to_string();
        let expected = format!("invalid cgroup entry, contains {fields} colon separated fields");
        assert!(error.starts_with(&expected), "{error}");
    }
    assert_eq!(cgroup("").unwrap(), None);
}

#[test]
fn only_cgroup_mounts_that_are_not_the_whole_hierarchy_count() {
    let line =
        |root: &str, kind: &str| format!("1 2 0:30 {root} /sys/fs/cgroup ro master:1 - {kind} cgroup rw\n");
    let root = format!("/../{A}");
    assert_eq!(mounts(&line(&root, "cgroup2")).unwrap().as_deref(), Some(A));
    assert_eq!(mounts(&line(&root, "cgroup")).unwrap().as_deref(), Some(A));
    assert_eq!(mounts(&line(&root, "tmpfs")).unwrap(), None);
    let whole = line("/", "cgroup2") + &line(&root, "cgroup2") + "\n" + &line("/", "cgroup2");
    assert_eq!(mounts(&whole).unwrap().as_deref(), Some(A));
    assert!(mounts(&(line(&root, "cgroup2") + &line(&format!("/../{B}"), "cgroup2"))).is_err());
}

#[test]
fn a_mount_without_source_or_optional_fields_is_read() {
    let text = format!(
        "119 206 0:68 / /local rw,relatime - tmpfs  rw,size=8192k\n3 2 0:30 /../{A} /sys/fs/cgroup ro - cgroup2 cgroup rw\n"
    );
    assert_eq!(mounts(&text).unwrap().as_deref(), Some(A));
}

#[test]
fn a_mount_that_the_kernel_would_not_write_fails_the_file() {
    for (line, problem) in [
        ("1 2 0:30 / /x rw cgroup cgroup rw", "missing separator"),
        ("1 2 0:30 / /x - cgroup cgroup rw", "expected at least 6 fields before separator"),
        ("1 2 0:30 / /x rw -", "missing filesystem type"),
        ("1 2 0:30 / /x rw -  x", "missing filesystem type"),
    ] {
        let error = mounts(line).unwrap_err().to_string();
        assert_eq!(error, format!("{problem} in mountinfo line: {line}"));
    }
}

#[test]
fn lines_and_files_have_bounds() {
    let long = format!("0::/{}\n", "x".repeat(70_000));
    assert!(matches!(cgroup(&long), Err(LocateError::TooLong { file: "cgroup" })));
    let just = format!("0::/{}\n", "x".repeat(60_000));
    assert_eq!(cgroup(&just).unwrap(), None);
    assert!(matches!(cgroup(&just.repeat(20)), Err(LocateError::TooLong { .. })));
    let many = "1 2 0:30 / /x rw - tmpfs tmpfs rw\n".repeat(300_000);
    assert!(matches!(mounts(&many), Err(LocateError::TooLong { file: "mountinfo" })));
}
