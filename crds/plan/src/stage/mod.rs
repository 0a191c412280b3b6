//! The stage kinds: a file each, and the unions a resource chooses from.

mod alertmanager;
mod batch;
mod blackhole;
mod console;
mod custom;
mod dedupe;
mod dnpipe;
mod edge;
mod encode;
mod file;
mod filter;
mod generator;
mod host_metrics;
mod http;
mod map;
mod merge;
mod parse;
mod prometheus;
mod sample;
mod spill;
mod split;
mod stdin;
mod threshold;
mod throttle;
mod webhook;
mod window;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::union::union;

pub use alertmanager::Alertmanager;
pub use batch::Batch;
pub use blackhole::Blackhole;
pub use console::{Console, ConsoleFormat};
pub use custom::{Custom, Push};
pub use dedupe::Dedupe;
pub use dnpipe::{DnpipeSink, DnpipeSource};
pub use edge::{Account, EdgeSink, EdgeSlots, EdgeSource, EdgeTransport, SLOTS};
pub use encode::{Encode, EncodeCsv, EncodeText};
pub use file::{FileSink, FileSource, ReadFrom};
pub use filter::Filter;
pub use generator::Generator;
pub use host_metrics::{HostMetrics, HostMetricsGroup};
pub use http::Http;
pub use map::{Map, Rename, Set, Unset};
pub use merge::Merge;
pub use parse::{Parse, ParseCsv, ParseField, ParseRegex};
pub use prometheus::Prometheus;
pub use sample::Sample;
pub use spill::{PodSpill, Spill};
pub use split::Split;
pub use stdin::Stdin;
pub use threshold::Threshold;
pub use throttle::{Throttle, ThrottleMode};
pub use webhook::{Webhook, WebhookMethod};
pub use window::{Aggregates, Quantile, Sliding, Window};

/// What a stage does: it brings events in, changes them, or takes them out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// Brings events in.
    Source(Source),
    /// Changes them.
    Process(Process),
    /// Takes them out.
    Sink(Sink),
}

impl Kind {
    /// `source`, `process` or `sink`.
    pub fn role(&self) -> &'static str {
        match self {
            Kind::Source(_) => "source",
            Kind::Process(_) => "process",
            Kind::Sink(_) => "sink",
        }
    }

    /// The key of the kind, such as `window`.
    pub fn name(&self) -> &'static str {
        match self {
            Kind::Source(kind) => kind.kind(),
            Kind::Process(kind) => kind.kind(),
            Kind::Sink(kind) => kind.kind(),
        }
    }
}

/// A struct without fields that is written `{}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

union! {
    /// Where events come from.
    Source {
        /// Makes events by itself.
        Generator(Generator) = "generator",
        /// Lines of the standard input.
        Stdin(Stdin) = "stdin",
        /// Lines of files that grow.
        File(FileSource) = "file",
        /// Figures of this machine.
        HostMetrics(HostMetrics) = "hostMetrics",
        /// Samples of a Prometheus endpoint.
        Prometheus(Prometheus) = "prometheus",
        /// Requests to an HTTP server.
        Http(Http) = "http",
        /// Records of a dnpipe.
        Dnpipe(DnpipeSource) = "dnpipe",
    }
    in code {
        /// Events pushed by the program that embeds the pipeline.
        Push(Push) = "push",
        /// Events of another sidecar; the compiler makes these.
        Edge(EdgeSource) = "edge",
        /// Events that waited in a queue that goes to disk; the compiler makes these.
        Spill(Spill) = "spill",
    }
}

union! {
    /// What happens to events.
    Process {
        /// Keeps some.
        Filter(Filter) = "filter",
        /// Makes a new body.
        Map(Map) = "map",
        /// Sets fields.
        Set(Set) = "set",
        /// Removes fields.
        Unset(Unset) = "unset",
        /// Renames fields.
        Rename(Rename) = "rename",
        /// One event for each element of a list.
        Split(Split) = "split",
        /// Brings branches together.
        Merge(Merge) = "merge",
        /// Passes the first of equal events.
        Dedupe(Dedupe) = "dedupe",
        /// Passes a share of the events.
        Sample(Sample) = "sample",
        /// Bounds the rate.
        Throttle(Throttle) = "throttle",
        /// One event made of many.
        Batch(Batch) = "batch",
        /// Aggregates over time.
        Window(Window) = "window",
        /// Says when a value goes beyond a bound, and when it is back.
        Threshold(Threshold) = "threshold",
        /// Text becomes fields.
        Parse(Parse) = "parse",
        /// Fields become text.
        Encode(Encode) = "encode",
    }
    in code {
        /// A processor of the program that embeds the pipeline.
        Custom(Custom) = "custom",
    }
}

union! {
    /// Where events go.
    Sink {
        /// The standard output.
        Console(Console) = "console",
        /// A file that is rotated.
        File(FileSink) = "file",
        /// HTTP requests.
        Webhook(Webhook) = "webhook",
        /// Alerts of a Prometheus Alertmanager.
        Alertmanager(Alertmanager) = "alertmanager",
        /// A dnpipe.
        Dnpipe(DnpipeSink) = "dnpipe",
        /// Nowhere.
        Blackhole(Blackhole) = "blackhole",
    }
    in code {
        /// Another sidecar; the compiler makes these.
        Edge(EdgeSink) = "edge",
        /// A queue that goes to disk; the compiler makes these.
        Spill(Spill) = "spill",
    }
}
