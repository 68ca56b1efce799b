use super::*;

const A: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const B: &str = "7654321089abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn cgroup(text: &str) -> Result<Option<String>, LocateError> {
    let paths = group_paths(text.as_bytes())?;
    Ok(in_paths(paths.iter().map(Vec::as_slice), Wanted::Container)?.map(|container| container.id))
}

fn mounts(text: &str) -> Result<Option<String>, LocateError> {
    Ok(in_mountinfo(text.as_bytes(), Wanted::Container, false)?.map(|container| container.id))
}

/// The Pod and the container.
fn pod(text: &str) -> Result<Option<(Option<String>, String)>, LocateError> {
    let paths = group_paths(text.as_bytes())?;
    let found = in_paths(paths.iter().map(Vec::as_slice), Wanted::Pod)?;
    Ok(found.map(|container| (container.pod, container.id)))
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

const UID: &str = "2c48913c-b29f-11e7-9350-020968147796";
const OTHER_UID: &str = "daa5c7ee-3484-4533-af39-3591564fd03e";

#[test]
fn every_way_in_which_a_kubelet_and_a_runtime_name_a_cgroup_shows_pod_and_container() {
    let under = UID.replace('-', "_");
    for (what, path) in [
        ("docker, cgroupfs", format!("/kubepods/burstable/pod{UID}/{A}")),
        ("guaranteed, cgroupfs", format!("/kubepods/pod{UID}/{A}")),
        (
            "docker, systemd",
            format!(
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{under}.slice/docker-{A}.scope"
            ),
        ),
        (
            "old systemd names",
            format!(
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UID}.slice/docker-{A}.scope"
            ),
        ),
        (
            "containerd, systemd",
            format!(
                "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{under}.slice/cri-containerd-{A}.scope"
            ),
        ),
        (
            "containerd under its own service",
            format!(
                "/system.slice/containerd.service/kubepods-besteffort-pod{under}.slice:cri-containerd:{A}"
            ),
        ),
        ("k3s", format!("/kubepods-besteffort-pod{under}.slice:cri-containerd:{A}")),
        ("cri-o, systemd", format!("/kubepods.slice/kubepods-pod{under}.slice/crio-{A}.scope")),
        (
            "cri-o, systemd, cgroup of its own inside",
            format!("/kubepods.slice/kubepods-pod{under}.slice/crio-{A}.scope/container"),
        ),
        ("cri-o, cgroupfs", format!("/kubepods/besteffort/pod{UID}/crio-{A}")),
        (
            "kind",
            format!(
                "/docker/{B}/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{under}.slice/cri-containerd-{A}.scope"
            ),
        ),
        ("kind, cgroup v1", format!("/docker/{B}/kubepods/besteffort/pod{UID}/{A}")),
        (
            "k3d, systemd inside docker",
            format!(
                "/system.slice/docker-{B}.scope/kubepods.slice/kubepods-pod{under}.slice/cri-containerd-{A}.scope"
            ),
        ),
        ("agent in a cgroup namespace", format!("/../../pod{UID}/{A}")),
        ("systemd in the container", format!("/kubepods/pod{UID}/{A}/system.slice/nginx.service")),
        ("kubernetes in docker desktop", format!("/kubepods/kubepods/burstable/pod{UID}/{A}")),
        ("prefixed root", format!("/custom-root/kubepods/pod{UID}/{A}")),
    ] {
        let found = pod(&format!("0::{path}\n")).unwrap();
        assert_eq!(found, Some((Some(UID.to_owned()), A.to_owned())), "{what}: {path}");
        assert_eq!(cgroup(&format!("0::{path}\n")).unwrap().as_deref(), Some(A), "{what}");
    }
}

#[test]
fn a_container_whose_path_names_no_pod_has_none() {
    for path in [
        format!("/../crio-{A}.scope"),
        format!("/docker/{A}"),
        format!("/kubepods/besteffort/pod8c1e0d5e2f6b4a0f9d3c7b1a2e4f6a8b/{A}"),
        format!("/kubepods/xpod{UID}/{A}"),
        format!("/kubepods/pod{UID}0/{A}"),
        format!("/kubepods/pod{UID}_/{A}"),
        format!("/kubepods/pod{}/{A}", &UID[..35]),
        format!("/{A}/pod{UID}"),
        format!("/pod{UID}//{A}"),
    ] {
        assert_eq!(pod(&format!("0::{path}\n")).unwrap(), Some((None, A.to_owned())), "{path}");
    }
    assert_eq!(pod(&format!("0::/kubepods/pod{UID}\n")).unwrap(), None, "a Pod without a container");
    let both = format!("0::/pod{OTHER_UID}/x/pod{UID}/{A}\n");
    assert_eq!(pod(&both).unwrap().unwrap().0.as_deref(), Some(UID), "the last one counts");
}

#[test]
fn a_line_with_a_pod_overrides_those_of_the_machine_around_it() {
    let inner = format!("/docker/{B}/kubepods/besteffort/pod{UID}/{A}");
    let around = format!("/docker/{B}/system.slice/containerd.service");
    let expected = Some((Some(UID.to_owned()), A.to_owned()));
    assert_eq!(pod(&format!("1:cpuset:{inner}\n0::{around}\n")).unwrap(), expected);
    assert_eq!(pod(&format!("1:cpuset:{around}\n0::{inner}\n")).unwrap(), expected);
    assert_eq!(pod(&format!("2:cpu:{inner}\n1:pids:/\n0::/\n")).unwrap(), expected);
}

#[test]
fn pods_and_containers_that_disagree_choose_nothing() {
    let line = |uid: &str, id: &str| format!("1:x:/kubepods/pod{uid}/{id}\n");
    let error = pod(&(line(UID, A) + &line(OTHER_UID, A))).unwrap_err();
    assert_eq!(error.to_string(), format!("multiple pod UIDs found (\"{UID}\", \"{OTHER_UID}\")"));
    let error = pod(&(line(UID, A) + &line(UID, B))).unwrap_err();
    assert_eq!(error.to_string(), format!("multiple container IDs found (\"{A}\", \"{B}\")"));
}

#[test]
fn in_a_cgroup_namespace_the_mounts_say_what_cgroup_does_not() {
    let under = UID.replace('-', "_");
    let mounts = format!(
        "1 2 0:30 /kubepods.slice/kubepods-pod{under}.slice/cri-containerd-{A}.scope /sys/fs/cgroup ro - cgroup2 cgroup rw\n"
    );
    let found = in_mountinfo(mounts.as_bytes(), Wanted::Pod, true).unwrap().unwrap();
    assert_eq!((found.id.as_str(), found.pod.as_deref()), (A, Some(UID)));
    assert_eq!(pod("0::/\n").unwrap(), None);
}

/// What is found for a process with these files, its mounts being those of a container.
fn located(cgroup: &str, agents_namespace: Option<&str>) -> Option<Container> {
    let root = tempfile::tempdir().unwrap();
    let process = root.path().join("7");
    std::fs::create_dir_all(&process).unwrap();
    std::fs::write(process.join("cgroup"), cgroup).unwrap();
    let mount = format!("1 2 0:30 /kubepods/pod{UID}/{A} /sys/fs/cgroup ro - cgroup2 cgroup rw\n");
    std::fs::write(process.join("mountinfo"), mount).unwrap();
    if let Some(namespace) = agents_namespace {
        std::fs::create_dir_all(root.path().join("self/ns")).unwrap();
        std::os::unix::fs::symlink(namespace, root.path().join("self/ns/cgroup")).unwrap();
    }
    let locator = Locator { proc_root: root.path().to_owned(), verbose: false, wanted: Wanted::Pod };
    locator.container(7, &locator.groups(7).unwrap()).unwrap()
}

#[test]
fn mounts_which_a_workload_may_forge_count_only_where_the_kernel_names_no_place() {
    let namespace = Some("cgroup:[4026532758]");
    for place in [
        "0::/user.slice/user-1000.slice/session-2.scope\n",
        "2:cpu:/\n1:name=systemd:/user.slice/user-1000.slice\n0::/\n",
        "0::/../../user.slice/user-1000.slice/session-2.scope\n",
        "0::/../..\n",
    ] {
        assert_eq!(located(place, namespace), None, "{place}");
    }
    for beside_the_agent in ["0::/\n", "2:cpu:/\n1:name=systemd:/\n0::/\n"] {
        assert_eq!(located(beside_the_agent, namespace).unwrap().id, A);
        assert_eq!(located(beside_the_agent, None).unwrap().id, A);
        assert_eq!(
            located(beside_the_agent, Some(MACHINES_NAMESPACE)),
            None,
            "the machine's root is a place"
        );
    }
}
