use super::*;

#[test]
#[ignore = "needs Kubernetes: run by interop/run kubernetes"]
fn a_cluster_starts_goes_away_comes_back_with_its_objects_and_leaves_nothing() {
    for etcd in [Etcd::Debian, Etcd::Module] {
        let cluster = Kubernetes::start_with(Settings { etcd, ..Settings::default() });
        let namespace = cluster.namespace("shop");
        cluster.service_account(&namespace, "web");
        let node = cluster.node("node-1", "10.0.0.1", &[("zone", "a")]);
        let pod = PodObject::new(&namespace, "web-1").service_account("web").node("node-1").ip("10.1.0.1");
        let pod = cluster.pod(&pod.label("app", "web").container("main", "web:1", "containerd://1"));
        let token = TokenSettings { audiences: &["spire-server"], pod: Some(&pod) };
        let token = cluster.token(&namespace, "web", token);
        let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
            "spec": {"token": token, "audiences": ["spire-server"]}});
        let reviewed =
            cluster.request("POST", "/apis/authentication.k8s.io/v1/tokenreviews", Some(&review)).ok();
        let extra = &reviewed["status"]["user"]["extra"];
        assert_eq!(extra["authentication.kubernetes.io/pod-uid"][0], pod.uid, "{reviewed}");
        assert_eq!(extra["authentication.kubernetes.io/node-uid"][0], node.uid, "{reviewed}");

        cluster.stop_api_server();
        assert!(cluster.try_request("GET", "/readyz", None).is_none());
        cluster.start_api_server();
        let path = format!("/api/v1/namespaces/{namespace}/pods/web-1");
        assert_eq!(cluster.get(&path).unwrap()["status"]["podIP"], "10.1.0.1");
        assert!(cluster.kubectl(&["get", "pods", "-A"]).contains("web-1"));
        cluster.delete_pod(&pod);
        assert_eq!(cluster.get(&path), None);

        let pids =
            [Part::Etcd, Part::ApiServer, Part::ControllerManager].map(|part| cluster.pid(part).unwrap());
        let folder = cluster.folder().to_owned();
        drop(cluster);
        assert!(!folder.exists());
        assert!(pids.iter().all(|pid| !Path::new(&format!("/proc/{pid}")).exists()));
    }
}

#[test]
#[ignore = "needs Kubernetes: run by interop/run kubernetes"]
fn writes_are_refused_as_often_as_asked_with_the_status_that_was_asked() {
    let cluster = Kubernetes::shared();
    let namespace = cluster.namespace("deny");
    let collection = format!("/api/v1/namespaces/{namespace}/configmaps");
    let map = |name| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
    let (probe, status, reason) = (map("probe"), 429, "TooManyRequests");
    let denied = cluster.deny(&Denial {
        collection: &collection,
        probe,
        status,
        reason,
        retry_after_secs: Some(3),
        times: 2,
    });
    assert_eq!(denied.refused(), 0);
    for expected in [429, 429, 201] {
        let answer = cluster.request("POST", &collection, Some(&map("wanted")));
        assert_eq!(answer.status, expected, "{answer:?}");
    }
    assert_eq!(denied.refused(), 2);
    let elsewhere = cluster.namespace("deny");
    let answer =
        cluster.request("POST", &format!("/api/v1/namespaces/{elsewhere}/configmaps"), Some(&map("x")));
    assert_eq!(answer.status, 201);
}

#[test]
#[ignore = "needs Kubernetes: run by interop/run kubernetes"]
fn reads_go_wrong_by_way_of_the_front_and_pass_otherwise() {
    let cluster = Kubernetes::shared();
    let namespace = cluster.namespace("front");
    let front = cluster.front();
    let user = json!({"token": ADMIN_TOKEN});
    let kubeconfig = cluster.write_kubeconfig_for("front", &user, &front.url());
    let get = || {
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
        let mut kubectl = std::process::Command::new(programs().join("kubectl"));
        kubectl.arg("--kubeconfig").arg(&kubeconfig).args(["get", "--raw", &path]);
        programs::output(&mut kubectl, None)
    };
    assert!(get().unwrap().contains("ServiceAccountList"));
    let refuse = Fault::Refuse { status: 403, retry_after_secs: None };
    front.add(Rule { matches: "GET /api/v1/namespaces".to_owned(), fault: refuse, times: 1 });
    front.add(Rule { matches: "serviceaccounts".to_owned(), fault: Fault::Garbage(b"{".to_vec()), times: 1 });
    assert!(get().unwrap_err().contains("refused by a test"));
    assert_eq!(get().unwrap(), "{");
    assert!(get().unwrap().contains("ServiceAccountList"));
    assert_eq!((front.faults(), front.seen().len()), (2, 4));
}
