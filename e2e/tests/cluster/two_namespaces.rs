//! Two teams with a namespace each: docs/how-to/connect-two-namespaces.md, as it is written.

use sidestream_e2e::eventually;

use crate::world::{Namespace, SOON};

const PAGE: &str = include_str!("../../../docs/how-to/connect-two-namespaces.md");

#[test]
#[ignore = "needs a cluster: make e2e"]
fn events_go_from_one_namespace_to_another_as_the_page_says_and_without_the_token_none_do() {
    let shop = Namespace::new("e2e-shop");
    let web = shop.and_another("e2e-web");
    let [inbound, outbound] = &yaml()[..] else { panic!("the page has two Pipelines: {:?}", yaml()) };
    let here =
        |text: &str| text.replace("namespace: ", "namespace: e2e-").replace(".shop.svc", ".e2e-shop.svc");
    let secret = |namespace: &Namespace, token: &str| {
        let token = format!("--from-literal=token={token}");
        namespace.kubectl(&["create", "secret", "generic", "between", &token]).expect("created");
    };
    secret(&shop, "theirs");
    secret(&web, "another");
    shop.apply(&here(inbound));
    web.apply(&here(outbound));
    shop.wait_ready("inbound");
    let came = || shop.metric("inbound", "main", "sidestream_stage_events_in_total", "stage=\"event\"");
    let refused = || web.metric("outbound", "main", "sidestream_stage_errors_total", "stage=\"over\"");
    eventually("what has another token is refused", SOON, || match refused()? {
        0.0 => Err("nothing is".into()),
        some => Ok(some),
    });
    assert_eq!(came().expect("a metric"), 0.0);

    web.kubectl(&["delete", "secret", "between"]).expect("deleted");
    secret(&web, "theirs");
    // The kubelet brings a Secret to a running pod within a minute or two; a new pod has it at once.
    web.kubectl(&["rollout", "restart", "deployment/outbound-main-spl"]).expect("restarted");
    web.wait_ready("outbound");
    let shown = || shop.metric("inbound", "main", "sidestream_stage_events_out_total", "stage=\"show\"");
    eventually("events arrive", SOON, || match shown()? {
        few if few < 100.0 => Err(format!("{few} have")),
        enough => Ok(enough),
    });
    let errors = shop.metric("inbound", "main", "sidestream_stage_errors_total", "");
    assert_eq!(errors.expect("a metric"), 0.0, "each is what was sent");
}

/// The blocks of YAML in the page.
fn yaml() -> Vec<&'static str> {
    PAGE.split("```yaml\n").skip(1).filter_map(|rest| Some(rest.split_once("\n```")?.0)).collect()
}
