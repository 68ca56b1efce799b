use vouchsafe_testkit::kubelet::{FakeContainer, FakePod, list_json};

use super::*;
use crate::attest::k8s::scanner::Scanner;

fn index_after(previous: &Arc<Index>, pods: &[FakePod]) -> Index {
    let mut builder = Builder::new(Arc::clone(previous));
    let mut scanner = Scanner::default();
    scanner.scan(&list_json(pods, 0), &mut builder).unwrap();
    scanner.finish().unwrap();
    assert_eq!(builder.unreadable, None);
    builder.finish()
}

fn index(pods: &[FakePod]) -> Index {
    index_after(&Arc::default(), pods)
}

fn sought(pod: &FakePod, with_uid: bool) -> Sought {
    let id = ContainerId::parse(pod.container_id()).unwrap();
    Sought { id, pod: with_uid.then(|| Arc::from(pod.uid.as_str())) }
}

fn is_of(answer: &Answer, pod: &FakePod) -> bool {
    matches!(answer, Answer::Of(found, true) if *found.uid == *pod.uid)
}

#[test]
fn a_container_is_found_by_its_id_with_and_without_its_pods_uid() {
    let pods: Vec<_> = (0..50).map(FakePod::number).collect();
    let index = index(&pods);
    assert_eq!((index.pods(), index.containers()), (50, 50));
    for pod in &pods {
        assert!(is_of(&index.find(&sought(pod, true), false), pod));
        assert!(is_of(&index.find(&sought(pod, false), false), pod));
    }
    let other = sought(&FakePod::number(99), false);
    assert_eq!(index.find(&other, true), Answer::Unlisted);
    let wrong_pod = Sought { pod: Some(pods[1].uid.as_str().into()), ..sought(&pods[0], true) };
    assert_eq!(index.find(&wrong_pod, false), Answer::Unlisted, "the kernel says it is another Pod's");
}

#[test]
fn init_containers_count_and_a_container_that_is_not_listed_is_of_its_pod_only_where_that_is_enough() {
    let mut pod = FakePod::number(1);
    pod.init_containers = vec![FakeContainer::number(7)];
    pod.containers[0].id.clear();
    let index = index(&[pod.clone()]);
    let init = Sought { id: ContainerId::parse(&pod.init_containers[0].id).unwrap(), pod: None };
    assert!(is_of(&index.find(&init, false), &pod));
    let starting = Sought { pod: Some(pod.uid.as_str().into()), ..sought(&FakePod::number(1), false) };
    assert_eq!(index.find(&starting, false), Answer::Unlisted);
    let found = index.find(&starting, true);
    assert!(matches!(&found, Answer::Of(_, false)));
    let selectors = found.selectors(&starting, true).unwrap();
    assert!(!selectors.iter().any(|selector| selector.value().starts_with("container-name")));
}

#[test]
fn a_container_that_two_pods_claim_is_contested_unless_the_kernel_knows() {
    let (one, mut two) = (FakePod::number(1), FakePod::number(2));
    two.containers = one.containers.clone();
    let index = index(&[one.clone(), two]);
    assert_eq!(index.find(&sought(&one, false), false), Answer::Contested);
    assert!(is_of(&index.find(&sought(&one, true), false), &one));
    let mut twice = FakePod::number(3);
    twice.containers.push(twice.containers[0].clone());
    assert!(is_of(&super::tests::index(&[twice.clone()]).find(&sought(&twice, false), false), &twice));
}

#[test]
fn completed_pods_cost_nothing() {
    let mut pods: Vec<_> = (0..20).map(FakePod::number).collect();
    for pod in &mut pods[1..] {
        pod.phase = "Succeeded".to_owned();
    }
    let index = index(&pods);
    assert_eq!((index.pods(), index.containers()), (1, 1));
}

#[test]
fn what_did_not_change_is_shared_with_the_list_before() {
    let mut pods: Vec<_> = (0..3).map(FakePod::number).collect();
    let before = Arc::new(index(&pods));
    pods[1].labels.insert("app".to_owned(), "other".to_owned());
    pods.remove(2);
    let after = index_after(&before, &pods);
    let same = |number: usize| {
        let uid = FakePod::number(number).uid;
        Arc::ptr_eq(&before.pods[uid.as_str()], &after.pods[uid.as_str()])
    };
    assert!(same(0) && !same(1));
    assert_eq!(after.pods(), 2);
}

#[test]
fn a_pod_that_cannot_be_understood_spoils_no_other_and_bytes_that_are_no_json_spoil_all() {
    let mut builder = Builder::new(Arc::default());
    builder.take_pod(br#"{"metadata":{"uid":7}}"#).unwrap();
    builder.take_pod(br#"{"metadata":{"name":"no uid"}}"#).unwrap();
    builder.take_pod(br#"{"metadata":{"uid":"u"}}"#).unwrap();
    assert_eq!(builder.unreadable, Some((2, "it has no UID".to_owned())));
    let error = builder.take_pod(br#"{"metadata":{"uid":"u",}}"#).unwrap_err();
    assert!(matches!(error, ListError::Syntax { number: 4, .. }), "{error}");
    assert_eq!(builder.finish().pods(), 1);
}

#[test]
fn a_list_of_more_pods_than_a_node_can_have_is_refused() {
    let mut builder = Builder::new(Arc::default());
    for _ in 0..MAX_PODS {
        builder.take_pod(b"{}").unwrap();
    }
    assert_eq!(builder.take_pod(b"{}"), Err(ListError::TooManyPods { max: MAX_PODS }));
}
