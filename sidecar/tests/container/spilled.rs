//! What a container has spilled for stages that its plan does not have any more, through restarts.

use std::net::SocketAddr;

use sidestream_control::Plans;

use crate::{
    operator::{self, Operator},
    pod::{self, Container, Pod},
};

/// A sink of this name that spills, to an address at which nobody is.
fn telling(hash: &str, name: &str, peer: SocketAddr) -> Plans {
    let stage = format!(
        "name: {name}, input: {{capacity: 50, overflow: Spill}}, sink: {{webhook: {{url: \"http://{peer}/\"}}}}, \
         onError: {{retry: {{max: 100ms}}}}"
    );
    operator::plans_of(hash, 2_000.0, &stage)
}

/// A container that has spilled for a stage `tell`, which its new plan calls `inform`.
fn renamed(operator: &Operator, pod: &Pod, peers: [SocketAddr; 2]) -> Container {
    operator.order(telling("h1", "tell", peers[0]));
    let container = pod.start();
    container.until(|container| container.metric("sidestream_spilled_events_total", "tell") >= 1_000);
    operator.order(telling("h2", "inform", peers[1]));
    container.until(|container| container.log().contains("left to deliver what is spilled for it"));
    container
}

/// Bytes of the queue on the disk, with what was handed out and is not settled.
fn stored(container: &Container) -> u64 {
    container.metric("sidestream_spill_stored_bytes", "tell")
}

#[test]
fn what_is_spilled_for_a_stage_that_has_another_name_now_is_delivered_by_the_next_container() {
    let operator = Operator::start();
    let (pod, peers) = (Pod::new(&operator), [pod::free_address(), pod::free_address()]);
    renamed(&operator, &pod, peers).kill();
    // Nobody tells it anything.
    operator.stop();
    let container = pod.start();
    container.until(|container| stored(container) > 0 && container.counted("tick") > 100);
    container.kill();

    let container = pod.start();
    container.until(|container| stored(container) > 0);
    let taken = pod::take_all(peers[0]);
    container.until(|container| container.log().contains("gone: all that was spilled for them is delivered"));
    let (mut next, taken) = (0, taken.lock().unwrap().clone());
    for number in taken {
        assert!(number <= next, "event {number} came before {next}");
        next = next.max(number + 1);
    }
    assert!(next >= 1_000, "{next}");
    assert!(container.metric("sidestream_spill_stored_bytes", "inform") > 0, "its peer is away");
}

#[test]
fn what_is_spilled_for_a_pipeline_that_is_taken_away_is_delivered_by_the_next_container() {
    let operator = Operator::start();
    let (pod, peer) = (Pod::new(&operator), pod::free_address());
    operator.order(telling("h1", "tell", peer));
    let container = pod.start();
    container.until(|container| container.metric("sidestream_spilled_events_total", "tell") >= 1_000);
    operator.order(Plans::default());
    container.until(|container| container.log().contains("\"spilled\":"));
    container.kill();
    operator.stop();

    let container = pod.start();
    container.until(|container| stored(container) > 0);
    let taken = pod::take_all(peer);
    container.until(|container| stored(container) == 0);
    assert!(taken.lock().unwrap().len() >= 1_000);
}

#[test]
fn what_is_spilled_for_a_stage_that_nothing_is_known_of_is_named_and_stays() {
    let operator = Operator::start();
    let (pod, peers) = (Pod::new(&operator), [pod::free_address(), pod::free_address()]);
    renamed(&operator, &pod, peers).kill();
    operator.stop();
    // As an older sidecar leaves it.
    std::fs::remove_file(pod.cached("spilling")).unwrap();
    let container = pod.start();
    container.until(|container| container.log().contains("spilled events wait for a stage that is not here"));
    assert!(container.log().contains("\"stage\":\"shop/count/tell\""), "{}", container.log());
    container
        .until(|container| container.metric("sidestream_spill_left", "tell") == 1 && stored(container) > 0);
}
