use std::time::Duration;

use super::*;
use crate::metrics::call::MAX_KNOWN_OUTCOMES;
use proptest::prelude::*;

fn own_lines(registry: &Registry) -> String {
    let text = registry.render();
    text.split("# HELP process_").next().unwrap_or_default().to_owned()
}

#[test]
fn what_the_filter_does_not_keep_is_not_shown() {
    let filter = Filter {
        blocked_prefixes: vec!["spire_agent.lru".to_owned()],
        blocked_labels: vec!["host".to_owned(), "status".to_owned()],
        ..Filter::default()
    };
    let registry = Registry::filtered("spire_agent", &[("host", "node1")], filter);
    registry.counter("lru_cache_entry_add", &[]).inc();
    registry.counter("rpc", &[("status", "OK")]).inc();
    registry.counter("rpc", &[("status", "Internal")]).inc();
    let text = own_lines(&registry);
    assert!(text.ends_with("\nspire_agent_rpc 2\n") && !text.contains("lru"), "{text}");
}

#[test]
fn a_gauge_of_something_that_is_no_more_goes_alone() {
    let registry = Registry::new("spire_server", &[]);
    for name in ["a", "b"] {
        registry.gauge("fetched", &[("trust_domain_id", name)]).set(1.0);
    }
    registry.forget_gauge("fetched", &[("trust_domain_id", "a")]);
    let text = own_lines(&registry);
    assert!(!text.contains("\"a\"") && text.contains("{trust_domain_id=\"b\"} 1"), "{text}");
    registry.forget_gauge("fetched", &[("trust_domain_id", "b")]);
    assert_eq!(own_lines(&registry), "");
}

#[tokio::test(start_paused = true)]
async fn the_text_is_what_dashboards_scrape() {
    let registry = Registry::new("spire_agent", &[("host", "node1")]);
    registry.gauge("started", &[("version", "1_15_3"), ("trust_domain_id", "example_org")]).set(1.0);
    registry.counter("lru_cache_entry_add", &[]).add(7);
    registry.call("rpc.workload_api").observe(&[], "OK", Duration::from_millis(4));
    let text = own_lines(&registry);
    let (before, after) = text.split_once("quantile=\"0.5\"} ").unwrap();
    assert_eq!(
        before,
        "# HELP spire_agent_lru_cache_entry_add spire_agent_lru_cache_entry_add\n\
         # TYPE spire_agent_lru_cache_entry_add counter\n\
         spire_agent_lru_cache_entry_add{host=\"node1\"} 7\n\
         # HELP spire_agent_rpc_workload_api spire_agent_rpc_workload_api\n\
         # TYPE spire_agent_rpc_workload_api counter\n\
         spire_agent_rpc_workload_api{host=\"node1\",status=\"OK\"} 1\n\
         # HELP spire_agent_rpc_workload_api_elapsed_time spire_agent_rpc_workload_api_elapsed_time\n\
         # TYPE spire_agent_rpc_workload_api_elapsed_time summary\n\
         spire_agent_rpc_workload_api_elapsed_time{host=\"node1\",status=\"OK\","
    );
    let (_, after) = after.split_once("quantile=\"0.99\"} ").unwrap();
    let (_, after) = after.split_once('\n').unwrap();
    assert_eq!(
        after,
        "spire_agent_rpc_workload_api_elapsed_time_sum{host=\"node1\",status=\"OK\"} 4\n\
         spire_agent_rpc_workload_api_elapsed_time_count{host=\"node1\",status=\"OK\"} 1\n\
         # HELP spire_agent_started spire_agent_started\n\
         # TYPE spire_agent_started gauge\n\
         spire_agent_started{host=\"node1\",trust_domain_id=\"example_org\",version=\"1_15_3\"} 1\n"
    );
}

#[test]
fn what_is_no_more_takes_its_series_of_every_kind_with_it() {
    let registry = Registry::new("p", &[]);
    for server in ["a", "b"] {
        registry.counter("c", &[("server", server), ("status", "OK")]).inc();
        registry.gauge("g", &[("server", server)]).set(1.0);
        registry.histogram("h", &[("server", server)]).observe(Duration::ZERO);
    }
    ["c", "g", "h", "none"].iter().for_each(|name| registry.forget(name, ("server", "a")));
    let text = own_lines(&registry);
    assert!(!text.contains("server=\"a\"") && text.matches("server=\"b\"").count() == 2 + 17, "{text}");
    registry.forget("c", ("server", "b"));
    assert!(!own_lines(&registry).contains("p_c"));
}

#[test]
fn a_histogram_is_shown_as_prometheus_counts_buckets() {
    let registry = Registry::new("p", &[("host", "n")]);
    let histogram = registry.histogram("request_seconds", &[("server", "a")]);
    histogram.observe(Duration::from_millis(20));
    registry.histogram("request_seconds", &[("server", "a")]).observe(Duration::from_secs(11));
    let text = own_lines(&registry);
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 2 + 14 + 3, "{text}");
    assert_eq!(lines[1], "# TYPE p_request_seconds histogram");
    assert_eq!(lines[2], "p_request_seconds_bucket{host=\"n\",server=\"a\",le=\"0.0005\"} 0");
    assert_eq!(lines[7], "p_request_seconds_bucket{host=\"n\",server=\"a\",le=\"0.02\"} 1");
    assert_eq!(
        lines[15..],
        [
            "p_request_seconds_bucket{host=\"n\",server=\"a\",le=\"10\"} 1",
            "p_request_seconds_bucket{host=\"n\",server=\"a\",le=\"+Inf\"} 2",
            "p_request_seconds_sum{host=\"n\",server=\"a\"} 11.02",
            "p_request_seconds_count{host=\"n\",server=\"a\"} 2",
        ]
    );
}

#[test]
fn what_is_worked_out_when_somebody_asks_is_worked_out_once_each_time() {
    let registry = Registry::new("p", &[]);
    let held = Counter::default();
    let of = held.clone();
    registry.before_render("held", |registry| registry.gauge("old", &[]).set(1.0));
    registry.before_render("another", |registry| registry.before_render("third", |_| ()));
    registry.before_render("held", move |registry| registry.gauge("held", &[]).set(of.get() as f64));
    held.add(3);
    assert!(own_lines(&registry).ends_with("# TYPE p_held gauge\np_held 3\n"));
    held.inc();
    let text = own_lines(&registry);
    assert!(text.ends_with("\np_held 4\n") && !text.contains("old"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn asking_twice_gives_the_same_series_in_whatever_order_the_labels_come() {
    let registry = Registry::new("p", &[]);
    registry.counter("c", &[("a", "1"), ("b", "2")]).inc();
    registry.clone().counter("c", &[("b", "2"), ("a", "1")]).inc();
    assert_eq!(registry.counter("c", &[("a", "1"), ("b", "2")]).get(), 2);
    let gauge = registry.gauge("g", &[]);
    gauge.set(2.5);
    registry.gauge("g", &[]).add(-1.0);
    assert_eq!(gauge.get(), 1.5);
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_labels_is_folded_and_loses_no_count() {
    let registry = Registry::new("p", &[]);
    for peer in 0..MAX_SERIES_PER_NAME + 500 {
        registry.counter("c", &[("peer", &peer.to_string())]).inc();
    }
    registry.counter("c", &[("peer", "0")]).inc();
    let text = own_lines(&registry);
    assert_eq!(text.lines().count(), 2 + MAX_SERIES_PER_NAME + 1);
    assert!(text.contains("p_c{peer=\"other\"} 500\n"));
    assert!(text.contains("p_c{peer=\"0\"} 2\n"));
}

#[tokio::test(start_paused = true)]
async fn a_name_of_two_kinds_shows_the_first_and_breaks_nothing() {
    let registry = Registry::new("p", &[]);
    registry.counter("c", &[]).inc();
    registry.gauge("c", &[]).set(9.0);
    registry.summary("c", &[]).observe(9.0);
    registry.histogram("c", &[]).observe(Duration::from_secs(9));
    assert!(own_lines(&registry).ends_with("# TYPE p_c counter\np_c 1\n"));
}

#[tokio::test(start_paused = true)]
async fn calls_are_told_apart_by_status_and_labels() {
    let registry = Registry::new("p", &[]);
    let call = registry.call("attest");
    for attestor in 0..2 * MAX_KNOWN_OUTCOMES {
        for _ in 0..3 {
            call.observe(&[("attestor", &attestor.to_string())], "OK", Duration::from_millis(2));
        }
    }
    call.clone().observe(&[("attestor", "0")], "Internal", Duration::ZERO);
    let count = |attestor: &str, status| {
        registry.counter("attest", &[("attestor", attestor), ("status", status)]).get()
    };
    assert_eq!(
        [count("0", "OK"), count("40", "OK"), count("0", "Internal"), count("1", "Internal")],
        [3, 3, 1, 0]
    );
    assert!(registry.render().contains("p_attest_elapsed_time_sum{attestor=\"40\",status=\"OK\"} 6\n"));
}

#[test]
fn threads_that_count_together_lose_nothing() {
    let registry = Registry::new("p", &[]);
    let call = registry.call("k");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..1_000 {
                    call.observe(&[], "OK", Duration::from_millis(1));
                    registry.gauge("g", &[]).add(1.0);
                }
            });
        }
    });
    assert_eq!(registry.counter("k", &[("status", "OK")]).get(), 4_000);
    assert_eq!(registry.gauge("g", &[]).get(), 4_000.0);
    assert!(registry.render().contains("p_k_elapsed_time_count{status=\"OK\"} 4000\n"));
}

proptest! {
    /// Whatever names and labels come, every line is a comment or `name{labels} number`.
    #[test]
    fn every_line_can_be_scraped(
        name in "(?s).{0,12}",
        label in "(?s).{1,8}",
        values in prop::collection::vec(("(?s).{0,8}", any::<f64>()), 0..5),
    ) {
        let registry = Registry::new("p", &[("host", "n")]);
        for (value, number) in &values {
            registry.gauge(&name, &[(&label, value)]).set(*number);
            registry.summary(&format!("{name}_s"), &[(&label, value)]).observe(*number);
        }
        for line in registry.render().split_terminator('\n').filter(|line| !line.starts_with("# ")) {
            let (series, number) = line.rsplit_once(' ').unwrap();
            prop_assert!(number.parse::<f64>().is_ok(), "{line}");
            let bare = series.split('{').next().unwrap();
            prop_assert!(bare.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'), "{line}");
            prop_assert_eq!(series.contains('{'), series.ends_with('}'), "{}", line);
        }
    }
}
