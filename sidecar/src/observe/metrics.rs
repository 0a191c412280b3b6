//! The metrics: what each means is written here once, and printed both by `/metrics` and in the reference.
//!
//! Names are `sidestream_<thing>_<base unit>[_total]`. Labels are bounded by the plans: pipelines, their stages, the
//! kinds of stages, and the few reasons an event is dropped for. No value of an event ever becomes a label.

use std::{collections::BTreeMap, fmt::Write, sync::Arc};

use prometheus::{
    Registry, TextEncoder,
    core::{Collector, Desc},
    proto::{self, LabelPair, MetricFamily, MetricType},
};
use sidestream_edge::Peering;
use sidestream_graph::Histogram;

mod dnpipes;
mod spills;

use super::{Observed, Process};
use crate::{Pipeline, StageView};

/// The metrics of `observed`, in the Prometheus text format 0.0.4.
pub(super) fn render(observed: &Observed) -> Result<String, prometheus::Error> {
    let registry = Registry::new();
    registry.register(Box::new(Figures { observed: observed.clone(), descriptions: descriptions()? }))?;
    TextEncoder::new().encode_to_string(&registry.gather())
}

/// The names of all metrics; of a histogram, its series too.
pub fn metric_names() -> Vec<String> {
    let series = |metric: &&Metric| match metric.form {
        Form::Histogram => {
            ["", "_bucket", "_sum", "_count"].iter().map(|end| format!("{}{end}", metric.name)).collect()
        }
        Form::Counter | Form::Gauge => vec![metric.name.to_owned()],
    };
    METRICS.iter().flat_map(series).collect()
}

/// The reference page of the metrics, in Markdown.
pub fn metrics_page() -> String {
    let mut page = String::from(PAGE_HEAD);
    for metric in METRICS {
        let labels: Vec<_> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        let labels = if labels.is_empty() { "-".to_owned() } else { labels.join(", ") };
        // Writing to memory does not fail.
        let _ = writeln!(page, "| `{}` | {} | {labels} | {} |", metric.name, metric.form.word(), metric.help);
    }
    page
}

struct Metric {
    name: &'static str,
    form: Form,
    labels: &'static [&'static str],
    help: &'static str,
}

#[derive(Clone, Copy)]
enum Form {
    Counter,
    Gauge,
    Histogram,
}

impl Form {
    fn word(self) -> &'static str {
        match self {
            Form::Counter => "counter",
            Form::Gauge => "gauge",
            Form::Histogram => "histogram",
        }
    }

    fn metric_type(self) -> MetricType {
        match self {
            Form::Counter => MetricType::COUNTER,
            Form::Gauge => MetricType::GAUGE,
            Form::Histogram => MetricType::HISTOGRAM,
        }
    }
}

macro_rules! metrics {
    ($($id:ident $form:ident $name:literal [$($label:literal),*] $help:literal,)+) => {
        $(static $id: Metric = Metric { name: $name, form: Form::$form, labels: &[$($label),*], help: $help };)+
        static METRICS: &[&Metric] = &[$(&$id),+];
    };
}

metrics! {
    BUILD_INFO Gauge "sidestream_build_info" ["version"]
        "Always 1; says which version runs.",
    READY Gauge "sidestream_ready" []
        "1 when every pipeline has started and none is draining, else 0.",
    UPTIME Gauge "sidestream_uptime_seconds" []
        "Time since the process began to observe its pipelines.",
    STAGE_IN Counter "sidestream_stage_events_in_total" ["pipeline", "stage", "kind"]
        "Events that came into the stage; of a source, events it took in.",
    STAGE_OUT Counter "sidestream_stage_events_out_total" ["pipeline", "stage", "kind"]
        "Events that left the stage; of a sink, events it delivered.",
    STAGE_DROPPED Counter "sidestream_stage_dropped_events_total" ["pipeline", "stage", "kind", "reason"]
        "Events dropped by a policy of the stage or of the queue in front of it; absent until the first.",
    STAGE_ERRORS Counter "sidestream_stage_errors_total" ["pipeline", "stage", "kind"]
        "Events the stage could not handle; they went to its dead-letter stage, or were dropped.",
    STAGE_RETRIES Counter "sidestream_stage_retries_total" ["pipeline", "stage", "kind"]
        "Tries that a source or sink had to make again, because its peer did not answer as it should.",
    STAGE_BUSY Counter "sidestream_stage_busy_seconds_total" ["pipeline", "stage", "kind"]
        "Time spent working in the stage, measured on a sample of the batches and scaled up.",
    STAGE_LATENCY Histogram "sidestream_stage_latency_seconds" ["pipeline", "stage", "kind"]
        "Time from the source to the end of this stage, of the events in a sample of the batches.",
    RING_DEPTH Gauge "sidestream_ring_depth_events" ["pipeline", "from", "to"]
        "Events waiting in the ring between two stages.",
    RING_LIMIT Gauge "sidestream_ring_limit_events" ["pipeline", "from", "to"]
        "Events from which on the ring takes no more.",
    RING_BLOCKED Counter "sidestream_ring_blocked_seconds_total" ["pipeline", "from", "to"]
        "Time the stage in front of the ring waited for room in it.",
    SOURCE_LAG Gauge "sidestream_source_lag_events" ["pipeline", "stage"]
        "Events the source has taken in beyond its committed position: what a restart would bring again.",
    LEDGER_ACCEPTED Counter "sidestream_ledger_accepted_events_total" ["pipeline", "stage"]
        "Events the source took in. It equals the ended ones plus those in flight, at any instant.",
    LEDGER_ENDED Counter "sidestream_ledger_ended_events_total" ["pipeline", "stage", "outcome"]
        "Events of the source that came to their end: completed, dead_lettered, expired or dropped.",
    LEDGER_IN_FLIGHT Gauge "sidestream_ledger_in_flight_events" ["pipeline", "stage"]
        "Events of the source that have not come to their end yet.",
    EDGE_PEERS Gauge "sidestream_edge_peers" ["pipeline", "edge", "side"]
        "Peers at the other end of the edge: of a sender, those that DNS knows; of a receiver, senders that were heard.",
    EDGE_CONNECTED Gauge "sidestream_edge_connected_peers" ["pipeline", "edge", "side"]
        "Peers with an open connection.",
    EDGE_RTT Gauge "sidestream_edge_rtt_seconds" ["pipeline", "edge", "side"]
        "The longest last round trip to a connected peer; a sender measures it every five seconds.",
    EDGE_CREDIT Gauge "sidestream_edge_credit_bytes" ["pipeline", "edge", "side"]
        "Bytes that the receivers would take now; at zero the sender waits.",
    EDGE_UNSETTLED Gauge "sidestream_edge_unsettled_batches" ["pipeline", "edge", "side"]
        "Batches on their way: sent or received, and not settled by the stages of the receiver.",
    EDGE_UNRELEASED Gauge "sidestream_edge_unreleased_batches" ["pipeline", "edge", "side"]
        "Batches that are settled and in a state of the receiver, such as an open window: sent again if it dies.",
    EDGE_BATCHES Counter "sidestream_edge_batches_total" ["pipeline", "edge", "side"]
        "Batches sent or received, each once.",
    EDGE_RESENT Counter "sidestream_edge_resent_batches_total" ["pipeline", "edge", "side"]
        "Batches sent again after a connection broke, or given to another peer.",
    EDGE_REPEATS Counter "sidestream_edge_repeated_batches_total" ["pipeline", "edge", "side"]
        "Batches that came again from a peer that lives, and were passed over.",
    EDGE_CONNECTIONS Counter "sidestream_edge_connections_total" ["pipeline", "edge", "side"]
        "Connections that opened, also those that replaced another after a certificate changed.",
    EDGE_REFUSALS Counter "sidestream_edge_failed_calls_total" ["pipeline", "edge", "side"]
        "Calls of a sender that no connection came of.",
    CALLERS_REFUSED Counter "sidestream_edge_refused_callers_total" []
        "Callers that the listener for edges turned away; the log says who and why.",
    CERTIFICATE_LEFT Gauge "sidestream_certificate_seconds_left" []
        "Until the certificate of the process ends; negative when it has.",
    DNPIPE_FIRST Gauge "sidestream_dnpipe_first_offset" ["dnpipe", "partition"]
        "Offset of the oldest record of the partition.",
    DNPIPE_END Gauge "sidestream_dnpipe_end_offset" ["dnpipe", "partition"]
        "Offset behind the newest record of the partition: its rate is that of the pushes.",
    DNPIPE_SIZE Gauge "sidestream_dnpipe_size_bytes" ["dnpipe"]
        "Bytes that the dnpipe has on the disk.",
    DNPIPE_QUOTA Gauge "sidestream_dnpipe_quota_bytes" ["dnpipe"]
        "Bytes that it may have; absent where only the disk is the limit.",
    DNPIPE_RESETS Counter "sidestream_dnpipe_resets_total" ["dnpipe"]
        "How often it was reset: its epoch.",
    GROUP_LAG Gauge "sidestream_dnpipe_group_lag_records" ["dnpipe", "group"]
        "Records that the group has not done.",
    GROUP_LAG_SECONDS Gauge "sidestream_dnpipe_group_lag_seconds" ["dnpipe", "group"]
        "How long ago the oldest of them was pushed; 0 where there is none.",
    GROUP_MEMBERS Gauge "sidestream_dnpipe_group_members" ["dnpipe", "group"]
        "Members that share the group's partitions now.",
    GROUP_DYING Gauge "sidestream_dnpipe_group_undelivered_records" ["dnpipe", "group"]
        "Records that were delivered often enough and have no dead letter yet, as when there is no room for it.",
    SPILL_STORED Gauge "sidestream_spill_stored_events" ["pipeline", "stage"]
        "Events that wait on the disk for the stage; it is handed them, or will be when it is there again.",
    SPILL_SIZE Gauge "sidestream_spill_stored_bytes" ["pipeline", "stage"]
        "Bytes that they have of the journal, with those that were handed out and are not settled.",
    SPILL_MEMORY Gauge "sidestream_spill_memory_events" ["pipeline", "stage"]
        "Events that wait in memory for the stage.",
    SPILL_AGE Gauge "sidestream_spill_oldest_seconds" ["pipeline", "stage"]
        "How long the oldest event on the disk has been there; 0 where there is none.",
    SPILLED Counter "sidestream_spilled_events_total" ["pipeline", "stage"]
        "Events that were written to the disk since the process began.",
    SPILL_LOST Counter "sidestream_spill_lost_events_total" ["pipeline", "stage"]
        "Events that were on the disk and cannot be read any more; the log says which.",
    SPILL_FULL Gauge "sidestream_spill_full" ["pipeline", "stage"]
        "1 while the stages before wait because there is no room to spill, or the disk fails; else 0.",
    SPILL_LEFT Gauge "sidestream_spill_left" ["pipeline", "stage"]
        "1 where no stage takes from it, as where its stage was gone when the process started; else 0.",
    JOURNAL_INFO Gauge "sidestream_journal_info" ["disk"]
        "Always 1; says which disk writes the journal: `uring` or `file`.",
    JOURNAL_DURABLE Gauge "sidestream_journal_durable" []
        "0 where the data directory is in memory, so that a power cut takes all of it; else 1.",
    VOLUME_SIZE Gauge "sidestream_journal_volume_bytes" []
        "Size of the volume that the journal is on.",
    VOLUME_FREE Gauge "sidestream_journal_volume_free_bytes" []
        "How much of it is free, also for others.",
    JOURNAL_USED Gauge "sidestream_journal_used_bytes" []
        "Bytes of the journal's files.",
    JOURNAL_LIVE Gauge "sidestream_journal_live_bytes" []
        "Bytes of batches that can be read; the rest is trimmed, not yet written, or heads.",
    JOURNAL_RESERVE Gauge "sidestream_journal_reserve_bytes" []
        "Bytes that pushes leave alone, so that acknowledgements and resets go on when the disk is full.",
    JOURNAL_RESERVE_LEFT Gauge "sidestream_journal_reserve_left_bytes" []
        "How many of those are left; fewer than the reserve: the disk is full, and pushes are refused.",
    JOURNAL_BATCHES Counter "sidestream_journal_batches_total" []
        "Batches acknowledged, of all dnpipes and of what is known of them.",
    JOURNAL_BYTES Counter "sidestream_journal_acknowledged_bytes_total" []
        "Bytes of them.",
    JOURNAL_WRITTEN Counter "sidestream_journal_written_bytes_total" []
        "Bytes written to the disk, with heads and padding.",
    JOURNAL_BARRIERS Counter "sidestream_journal_barriers_total" []
        "Times the journal waited for the device; acknowledged batches share them.",
    JOURNAL_FAILED Counter "sidestream_journal_failed_writes_total" []
        "Writes that the disk did not take.",
    CACHE_HITS Counter "sidestream_journal_cache_hits_total" []
        "Looks into the page cache of the journal that found what was looked for.",
    CACHE_MISSES Counter "sidestream_journal_cache_misses_total" []
        "Looks into it that did not.",
    CACHE_BYTES Gauge "sidestream_journal_cache_bytes" []
        "Bytes that the page cache has.",
    CPU Counter "process_cpu_seconds_total" []
        "Processor time used by the process, of user and system together.",
    RESIDENT Gauge "process_resident_memory_bytes" []
        "Memory of the process in RAM.",
    VIRTUAL Gauge "process_virtual_memory_bytes" []
        "Address space of the process.",
    OPEN_FDS Gauge "process_open_fds" []
        "Files and sockets the process has open.",
    MAX_FDS Gauge "process_max_fds" []
        "Files and sockets the process may have open.",
    THREADS Gauge "process_threads" []
        "Threads of the process.",
    START Gauge "process_start_time_seconds" []
        "When the process was started, since 1970-01-01T00:00:00Z.",
}

const PAGE_HEAD: &str = "\
# Metrics

<!-- Generated from sidecar/src/observe/metrics.rs; `make generate` writes it. -->

`sidestream run` serves these on `http://127.0.0.1:9464/metrics`, or where `--metrics ADDR` says. Labels are bounded by
the plans: `pipeline` is `namespace/name`, `kind` the stage's kind such as `process/window`, `from` and `to` are stages.
No value of an event becomes a label. A process that serves dnpipes has those of `sidestream_dnpipe_` and
`sidestream_journal_`; `dnpipe` is `namespace/name`. Counters of a stage go on over a reload that keeps its name.

| `from` of a ring | what the ring carries |
|---|---|
| `minute` | events from stage `minute` |
| `minute (errors)` | dead letters of `minute` |
| `minute (errors, from tick)` | dead letters of `minute`'s `when`, which is asked where stage `tick` ends |

| `reason` of a drop | why |
|---|---|
| `overflow` | the queue in front of the stage was full, and its `overflow` says `DropOldest` or `DropNewest` |
| `error` | the stage could not handle the event, and has no `deadLetter` |
| `late` | its window was closed already |
| `keys` | the stage keeps a state for each key, and this would be one too many |
| `rate` | `throttle` with `mode: Drop` |
| `removed` | a reload took the stage away before it took the event |
| `hung` | a reload replaced a sink that did not come back from a call, and the event was with it |
| `closed` | the stage behind the queue has ended |

| metric | type | labels | meaning |
|---|---|---|---|
";

fn descriptions() -> Result<Vec<Desc>, prometheus::Error> {
    let owned = |labels: &[&str]| labels.iter().map(|label| (*label).to_owned()).collect();
    METRICS
        .iter()
        .map(|metric| {
            Desc::new(metric.name.into(), metric.help.into(), owned(metric.labels), Default::default())
        })
        .collect()
}

/// Our own counters as a collector: they are read when somebody asks, and cost nothing before.
struct Figures {
    observed: Observed,
    descriptions: Vec<Desc>,
}

impl Collector for Figures {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut page = Page::default();
        page.add(&BUILD_INFO, &[env!("CARGO_PKG_VERSION")], 1.0);
        page.add(&READY, &[], f64::from(u8::from(self.observed.not_ready().is_empty())));
        page.add(&UPTIME, &[], self.observed.seconds());
        for (name, pipeline) in self.observed.pipelines() {
            page.add_pipeline(&name, &pipeline);
        }
        if let Some(peering) = self.observed.peering() {
            page.add_peering(peering);
        }
        page.add_spills(&self.observed.spills());
        if let Some(dnpipes) = self.observed.dnpipes() {
            page.add_dnpipes(&dnpipes.look());
        }
        if let Some(process) = Process::read() {
            page.add_process(&process);
        }
        page.families()
    }
}

#[derive(Default)]
struct Page(BTreeMap<&'static str, (Option<&'static Metric>, Vec<proto::Metric>)>);

impl Page {
    fn add_peering(&mut self, peering: &Peering) {
        for edge in peering.edges() {
            let labels = [edge.name.pipeline.as_str(), &edge.name.edge, edge.side.word()];
            self.add(&EDGE_PEERS, &labels, edge.peers as f64);
            self.add(&EDGE_CONNECTED, &labels, edge.connected as f64);
            if let Some(rtt) = edge.rtt {
                self.add(&EDGE_RTT, &labels, rtt.as_secs_f64());
            }
            self.add(&EDGE_CREDIT, &labels, edge.credit_bytes as f64);
            self.add(&EDGE_UNSETTLED, &labels, edge.unsettled_batches as f64);
            self.add(&EDGE_UNRELEASED, &labels, edge.unreleased_batches as f64);
            self.add(&EDGE_BATCHES, &labels, edge.batches as f64);
            self.add(&EDGE_RESENT, &labels, edge.resent as f64);
            self.add(&EDGE_REPEATS, &labels, edge.repeats as f64);
            self.add(&EDGE_CONNECTIONS, &labels, edge.connections as f64);
            self.add(&EDGE_REFUSALS, &labels, edge.refusals as f64);
        }
        let refused: u64 = peering.turned_away().iter().map(|(_, count)| count).sum();
        self.add(&CALLERS_REFUSED, &[], refused as f64);
        self.add(&CERTIFICATE_LEFT, &[], peering.identity().seconds_left() as f64);
    }

    fn add_pipeline(&mut self, name: &str, pipeline: &Arc<Pipeline>) {
        for stage in pipeline.stages() {
            self.add_stage(name, &stage);
        }
        for ring in pipeline.rings() {
            let labels = [name, &ring.from, &ring.to];
            self.add(&RING_DEPTH, &labels, ring.gauge.depth() as f64);
            self.add(&RING_LIMIT, &labels, ring.gauge.limit() as f64);
            self.add(&RING_BLOCKED, &labels, ring.gauge.blocked_nanos() as f64 / 1e9);
        }
    }

    fn add_stage(&mut self, pipeline: &str, stage: &StageView) {
        let kind = format!("{}/{}", stage.role, stage.kind);
        let labels = [pipeline, &stage.name, &kind];
        let stats = &stage.stats;
        self.add(&STAGE_IN, &labels, stats.events_in.get() as f64);
        self.add(&STAGE_OUT, &labels, stats.events_out.get() as f64);
        for (reason, events) in stats.dropped() {
            self.add(&STAGE_DROPPED, &[pipeline, &stage.name, &kind, reason], events as f64);
        }
        self.add(&STAGE_ERRORS, &labels, stats.errors.get() as f64);
        self.add(&STAGE_RETRIES, &labels, stats.retries.get() as f64);
        self.add(&STAGE_BUSY, &labels, stats.busy_nanos.get() as f64 / 1e9);
        self.add_histogram(&STAGE_LATENCY, &labels, &stats.latency);

        let Some(ledger) = stage.ledger else { return };
        let labels = [pipeline, &stage.name];
        self.add(&SOURCE_LAG, &labels, ledger.accepted.saturating_sub(ledger.committed) as f64);
        self.add(&LEDGER_ACCEPTED, &labels, ledger.accepted as f64);
        self.add(&LEDGER_IN_FLIGHT, &labels, ledger.in_flight as f64);
        let ended = [
            ("completed", ledger.completed),
            ("dead_lettered", ledger.dead_lettered),
            ("expired", ledger.expired),
            ("dropped", ledger.dropped),
        ];
        for (outcome, events) in ended {
            self.add(&LEDGER_ENDED, &[pipeline, &stage.name, outcome], events as f64);
        }
    }

    fn add_process(&mut self, process: &Process) {
        self.add(&CPU, &[], process.cpu_seconds);
        self.add(&RESIDENT, &[], process.resident_bytes as f64);
        self.add(&VIRTUAL, &[], process.virtual_bytes as f64);
        self.add(&OPEN_FDS, &[], process.open_fds as f64);
        self.add(&MAX_FDS, &[], process.max_fds as f64);
        self.add(&THREADS, &[], process.threads as f64);
        self.add(&START, &[], process.start_seconds);
    }

    fn add(&mut self, metric: &'static Metric, labels: &[&str], value: f64) {
        let mut sample = proto::Metric::from_label(pairs(metric, labels));
        match metric.form {
            Form::Counter => {
                let mut counter = proto::Counter::default();
                counter.set_value(value);
                sample.set_counter(counter);
            }
            Form::Gauge | Form::Histogram => {
                let mut gauge = proto::Gauge::default();
                gauge.set_value(value);
                sample.set_gauge(gauge);
            }
        }
        self.push(metric, sample);
    }

    fn add_histogram(&mut self, metric: &'static Metric, labels: &[&str], histogram: &Histogram) {
        let mut total = 0;
        let mut buckets = Vec::new();
        // The unbounded last bucket is the total, which the encoder writes by itself.
        for (bound, count) in histogram.buckets() {
            total += count;
            if bound.is_finite() {
                let mut bucket = proto::Bucket::default();
                bucket.set_upper_bound(bound);
                bucket.set_cumulative_count(total);
                buckets.push(bucket);
            }
        }
        let mut own = proto::Histogram::default();
        own.set_bucket(buckets);
        own.set_sample_count(total);
        own.set_sample_sum(histogram.sum_seconds());
        let mut sample = proto::Metric::from_label(pairs(metric, labels));
        sample.set_histogram(own);
        self.push(metric, sample);
    }

    fn push(&mut self, metric: &'static Metric, sample: proto::Metric) {
        let (own, samples) = self.0.entry(metric.name).or_default();
        *own = Some(metric);
        samples.push(sample);
    }

    fn families(self) -> Vec<MetricFamily> {
        let family = |(metric, samples): (Option<&'static Metric>, Vec<proto::Metric>)| {
            let metric = metric?;
            let mut family = MetricFamily::default();
            family.set_name(metric.name.to_owned());
            family.set_help(metric.help.to_owned());
            family.set_field_type(metric.form.metric_type());
            family.set_metric(samples);
            Some(family)
        };
        self.0.into_values().filter_map(family).collect()
    }
}

fn pairs(metric: &Metric, values: &[&str]) -> Vec<LabelPair> {
    debug_assert_eq!(metric.labels.len(), values.len(), "{}", metric.name);
    let pair = |(name, value): (&&str, &&str)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    };
    metric.labels.iter().zip(values).map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_says_its_unit_and_whether_it_is_a_total() {
        for metric in METRICS {
            assert_eq!(
                metric.name.ends_with("_total"),
                matches!(metric.form, Form::Counter),
                "{}",
                metric.name
            );
            let says_unit = [
                "_events",
                "_seconds",
                "_bytes",
                "_fds",
                "_threads",
                "_info",
                "_ready",
                "_errors",
                "_retries",
                "_peers",
                "_batches",
                "_connections",
                "_calls",
                "_callers",
                "_offset",
                "_resets",
                "_records",
                "_members",
                "_barriers",
                "_writes",
                "_durable",
                "_full",
                "_left",
                "_hits",
                "_misses",
            ];
            assert!(says_unit.iter().any(|unit| metric.name.contains(unit)), "{}", metric.name);
            assert!(metric.help.ends_with('.'), "{}", metric.name);
        }
    }

    #[test]
    fn the_reference_page_is_the_one_in_the_repository() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/metrics.md");
        if std::env::var_os("SIDESTREAM_GENERATE").is_some() {
            std::fs::write(path, metrics_page()).unwrap();
        }
        let written = std::fs::read_to_string(path).unwrap_or_default();
        assert!(written == metrics_page(), "{path} is stale: `make generate` writes it");
    }

    #[test]
    fn the_buckets_of_a_histogram_are_cumulative_and_end_with_all() {
        let histogram = Histogram::default();
        histogram.record(1_500, 2);
        histogram.record(u64::MAX / 4, 1);
        let mut page = Page::default();
        page.add_histogram(&STAGE_LATENCY, &["default/p", "s", "process/map"], &histogram);
        let text = TextEncoder::new().encode_to_string(&page.families()).unwrap();
        assert!(text.contains("le=\"0.000001\"} 0\n"), "{text}");
        assert!(text.contains("le=\"0.000002\"} 2\n"), "{text}");
        assert!(text.contains("le=\"+Inf\"} 3\n"), "{text}");
        assert!(
            text.contains("_count{pipeline=\"default/p\",stage=\"s\",kind=\"process/map\"} 3\n"),
            "{text}"
        );
    }
}
