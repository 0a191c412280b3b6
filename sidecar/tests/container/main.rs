//! The container as it lives in a pod: the program itself, beside a control server that signs and gives orders.
#![allow(clippy::disallowed_methods, reason = "a test of a process waits in real time")]

mod operator;
mod pod;
mod spilled;

use std::time::Duration;

use operator::Operator;
use pod::Pod;
use sidestream_control::{Plans, Suspend};

#[test]
fn it_enrols_runs_what_it_is_told_and_reports() {
    let operator = Operator::start();
    let pod = Pod::new(&operator);
    let container = pod.start();
    let applied = operator.next_applied();
    assert_eq!((applied.pipeline.as_str(), applied.hash.as_str(), applied.error), ("shop/count", "h1", None));
    container.until_it_counts("tick", 10);
    assert!(container.answers("/readyz"));

    operator.order(operator::plans("h2", 200.0));
    assert_eq!(operator.next_applied().hash, "h2");
    operator.order(Plans::default());
    container.until(|container| !container.metrics().contains("shop/count"));
    assert_eq!(container.stop(), Some(0), "a drained container ends well");
}

#[test]
fn with_the_operator_away_a_container_that_is_killed_starts_again_and_runs_on() {
    let operator = Operator::start();
    let pod = Pod::new(&operator);
    let container = pod.start();
    operator.next_applied();
    container.until_it_counts("tick", 1);
    operator.stop();
    container.until_it_counts("tick", 50);
    container.kill();

    let container = pod.start();
    container.until_it_counts("tick", 10);
    assert!(container.answers("/readyz"));
}

#[test]
fn a_plan_that_cannot_be_read_is_refused_with_a_report_and_what_ran_goes_on() {
    let operator = Operator::start();
    let pod = Pod::new(&operator);
    let container = pod.start();
    operator.next_applied();
    let mut later = operator::plans("h2", 10.0);
    later.plans[0].body = br#"{"version": 999, "kinds": ["source/oracle"]}"#.to_vec();
    operator.order(later);
    let applied = operator.next_applied();
    assert_eq!(applied.hash, "h2");
    assert!(
        applied.error.as_deref().is_some_and(|error| error.contains("upgrade the sidecar")),
        "{applied:?}"
    );
    let before = container.counted("tick");
    container.until_it_counts("tick", before + 10);
}

#[test]
fn a_suspended_pipeline_drains_and_its_books_are_reported() {
    let operator = Operator::start();
    let pod = Pod::new(&operator);
    let container = pod.start();
    operator.next_applied();
    container.until_it_counts("tick", 10);
    let mut plans = operator::plans("h1", 100.0);
    plans.plans[0].suspend = Suspend::Stop.into();
    operator.order(plans);
    let counts = operator.next_drained().counts.expect("the books");
    assert!(counts.accepted >= 10 && counts.in_flight == 0, "{counts:?}");
    assert_eq!(counts.accepted, counts.completed);
}

#[test]
fn a_pipeline_whose_sources_alone_are_to_stop_says_which_edges_still_send_and_goes_on_when_told() {
    let operator = Operator::start();
    let pod = Pod::new(&operator);
    let container = pod.start();
    operator.next_applied();
    container.until_it_counts("tick", 10);
    let mut plans = operator::plans("h1", 100.0);
    plans.plans[0].suspend = Suspend::StopSources.into();
    operator.order(plans.clone());
    let halting = operator.next_halting();
    assert_eq!((halting.pipeline.as_str(), halting.hash.as_str()), ("shop/count", "h1"));
    assert!(halting.open.is_empty(), "no edge leads out of it: {halting:?}");
    let before = container.counted("tick");
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(container.counted("tick"), before);

    plans.plans[0].suspend = Suspend::Run.into();
    operator.order(plans);
    assert_eq!(operator.next_applied().hash, "h1");
    container.until_it_counts("tick", before + 10);
}

#[test]
fn an_issuer_that_is_retired_brings_a_new_certificate_without_a_restart() {
    let operator = Operator::start();
    let pod = Pod::new(&operator);
    let _container = pod.start();
    operator.next_applied();
    assert_eq!(operator.next_anchored().issuer, 1);
    operator.change_issuer();
    let anchored =
        std::iter::repeat_with(|| operator.next_anchored()).take(4).find(|anchored| anchored.issuer == 2);
    assert!(anchored.is_some(), "a certificate of the second root");
}

#[test]
fn a_container_that_slept_through_a_change_of_the_roots_runs_and_reports() {
    let operator = Operator::start();
    let pod = Pod::new(&operator);
    let container = pod.start();
    operator.next_applied();
    container.kill();
    operator.stop();

    let operator = Operator::start();
    pod.call(&operator);
    pod.mount_anchors_of(&operator);
    let container = pod.start();
    container.until_it_counts("tick", 1);
    assert_eq!(operator.next_applied().hash, "h1");
    operator.order(operator::plans("h2", 200.0));
    let applied = std::iter::repeat_with(|| operator.next_applied()).take(3).find(|one| one.hash == "h2");
    assert!(applied.is_some(), "a new plan");
}

#[test]
fn a_sidecar_that_was_not_connected_while_the_roots_changed_finds_back() {
    let operator = Operator::start();
    let pod = Pod::new(&operator);
    let container = pod.start();
    operator.next_applied();
    let address = operator.address;
    operator.stop();

    let operator = Operator::start_at(address);
    pod.mount_anchors_of(&operator);
    assert_eq!(operator.next_applied().hash, "h1");
    assert!(container.answers("/readyz"));
}

#[test]
fn a_sidecar_calls_who_leads_where_another_answers_for_it() {
    let leader = Operator::start();
    let other = Operator::start_behind(&leader);
    let pod = Pod::new(&other);
    let _container = pod.start();
    assert_eq!(leader.next_applied().hash, "h1");
    assert_eq!(leader.asked(), 0, "it was enrolled by the other");
}

#[test]
fn a_foreign_operator_gets_no_token() {
    let (operator, foreign) = (Operator::start(), Operator::start());
    let pod = Pod::new(&operator);
    pod.call(&foreign);
    let container = pod.start();
    container.until(|container| container.log().contains("no certificate yet"));
    assert_eq!(foreign.asked(), 0);
    std::thread::sleep(Duration::from_millis(100));
    assert!(!container.answers("/readyz"));
}

#[test]
fn the_app_finds_the_door_to_dnpipes_when_it_starts_with_or_without_an_operator() {
    let (operator, foreign) = (Operator::start(), Operator::start());
    let pod = Pod::new(&operator);
    pod.call(&foreign);
    let container = pod.start();
    // What the kubelet waits for before it starts the app.
    container.until(|container| container.answers("/livez"));
    let answer = pod.asked_by_app("/v1/dnpipes/shop/orders");
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("stopping"), "{answer}");
    container.kill();

    // It is there again when the container is, and closed when that ends.
    pod.call(&operator);
    let container = pod.start();
    operator.next_applied();
    let answer = pod.asked_by_app("/v1/dnpipes/shop/orders");
    assert!(answer.contains("unreachable") && answer.contains("dnpipes-default.shop.svc:7420"), "{answer}");
    assert_eq!(container.stop(), Some(0));
    assert!(!pod.socket().exists());
}

#[test]
fn a_container_that_cannot_open_the_door_of_the_app_runs_all_the_same() {
    let operator = Operator::start();
    let pod = Pod::new(&operator);
    std::fs::remove_dir(pod.socket().parent().unwrap()).unwrap();
    let container = pod.start();
    container.until_it_counts("tick", 1);
    assert!(container.log().contains("no socket for the other containers"), "{}", container.log());
}

#[test]
fn a_container_none_of_whose_plans_ever_ran_is_not_ready_and_one_that_went_on_with_an_older_is() {
    let operator = Operator::start();
    let unreadable = |hash: &str| {
        let mut plans = operator::plans(hash, 10.0);
        plans.plans[0].body = br#"{"version": 999}"#.to_vec();
        plans
    };
    operator.order(unreadable("h1"));
    let pod = Pod::new(&operator);
    let container = pod.start();
    assert!(operator.next_applied().error.is_some());
    std::thread::sleep(Duration::from_millis(100));
    assert!(!container.answers("/readyz"), "nothing runs");
    operator.order(operator::plans("h2", 10.0));
    container.until(|container| container.answers("/readyz"));
    operator.next_applied();
    operator.order(unreadable("h3"));
    assert!(operator.next_applied().error.is_some());
    assert!(container.answers("/readyz"), "what ran goes on");
}

#[test]
fn a_suspended_pipeline_whose_peer_is_away_goes_on_delivering_and_reports_again_when_it_has_drained() {
    let operator = Operator::start();
    let peer = pod::free_address();
    let to = format!("webhook: {{url: \"http://{peer}/\"}}");
    operator.order(operator::plans_to("h1", 100.0, &to));
    let pod = Pod::new(&operator);
    let container = pod.start();
    operator.next_applied();
    container.until_it_counts("tick", 10);
    let mut plans = operator::plans_to("h1", 100.0, &to);
    plans.plans[0].suspend = Suspend::Stop.into();
    operator.order(plans);
    let counts = operator.next_drained().counts.expect("the books");
    assert!(counts.in_flight > 0, "its peer is away: {counts:?}");
    pod::take_all(peer);
    let counts = operator.next_drained().counts.expect("the books");
    assert!(counts.in_flight == 0 && counts.accepted == counts.completed, "{counts:?}");
}
