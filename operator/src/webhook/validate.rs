//! `/validate`: `kubectl apply` of a Pipeline or a Dnpipe that does not compile is answered with every diagnostic.
//!
//! A courtesy, not a gate: the API server goes on without it where this program is away (`failurePolicy: Ignore`), and
//! what comes in that way is refused in the status.

use serde_json::Value;
use sidestream_crds::{Severity, compile};

use super::Answer;

/// What is said about the Pipeline or Dnpipe in a request.
pub(super) fn answer(request: &Value) -> Answer {
    // The same text that `sidestream check` would read, so that the same is said of it.
    let found = compile(&serde_json::to_vec(&request["object"]).unwrap_or_default(), "").diagnostics;
    let said = |severity: Severity| {
        let of_severity = found.iter().filter(move |diagnostic| diagnostic.severity == severity).cloned();
        of_severity.map(|mut diagnostic| {
            // A place in what the API server sends is none in what the user wrote.
            (diagnostic.file, diagnostic.place) = (None, None);
            diagnostic.to_string()
        })
    };
    let errors: Vec<String> = said(Severity::Error).collect();
    let refusal = (!errors.is_empty()).then(|| format!("it does not compile:\n{}", errors.join("\n")));
    Answer { refusal, warnings: said(Severity::Warning).collect(), patch: None }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn answer_to(stages: Value) -> Answer {
        let object = json!({
            "apiVersion": "sidestream.dev/v1alpha1",
            "kind": "Pipeline",
            "metadata": {"name": "hello", "namespace": "shop", "uid": "1", "managedFields": [{"manager": "kubectl"}]},
            "spec": {"stages": stages},
        });
        answer(&json!({ "object": object }))
    }

    #[test]
    fn what_compiles_is_let_through() {
        let answer = answer_to(json!([
            {"name": "tick", "source": {"generator": {"rate": 10}}},
            {"name": "show", "sink": {"console": {}}},
        ]));
        assert_eq!(answer, Answer::default());
    }

    #[test]
    fn of_a_dnpipe_is_said_what_its_schema_does_not() {
        let answer_to = |spec: Value| {
            let object = json!({
                "apiVersion": "sidestream.dev/v1alpha1",
                "kind": "Dnpipe",
                "metadata": {"name": "orders", "namespace": "shop", "uid": "1"},
                "spec": spec,
            });
            answer(&json!({ "object": object }))
        };
        assert_eq!(answer_to(json!({})), Answer::default());
        let own = json!({"groups": [{"name": "billing", "maxDeliveries": 5, "deadLetter": "orders"}]});
        assert!(answer_to(own).refusal.unwrap().contains("bad-group"));
    }

    #[test]
    fn everything_that_is_wrong_is_said_at_once() {
        let answer = answer_to(json!([
            {"name": "tick", "source": {"generator": {"rate": 10}}},
            {"name": "show", "from": ["tik"], "sink": {"console": {}}},
            {"name": "slow", "from": ["tick"], "process": {"filter": {"keep": "event.("}}},
        ]));
        let message = answer.refusal.unwrap();
        assert!(message.contains("unknown-stage") && message.contains("spec.stages[2]"), "{message}");
        assert!(!message.contains("-->"), "no place of a text that nobody wrote: {message}");
    }
}
