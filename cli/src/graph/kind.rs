//! Which structs are a source, a process or a sink, so that `.sink("out", Console::default())` is all there is to write.

use sidestream_plan::{Process, Sink, Source, stage};

/// What [`crate::Pipeline::source`] takes: the struct of a source kind, or a [`Source`].
pub trait SourceKind {
    /// As one of the kinds.
    fn into_source(self) -> Source;
}

/// What [`crate::Pipeline::process`] takes: the struct of a process kind, or a [`Process`].
pub trait ProcessKind {
    /// As one of the kinds.
    fn into_process(self) -> Process;
}

/// What [`crate::Pipeline::sink`] takes: the struct of a sink kind, or a [`Sink`].
pub trait SinkKind {
    /// As one of the kinds.
    fn into_sink(self) -> Sink;
}

macro_rules! kinds {
    ($role:ident as $kind:ident by $into:ident { $($struct:ident => $case:ident),+ $(,)? }) => {
        impl $kind for $role {
            fn $into(self) -> $role {
                self
            }
        }

        $(impl $kind for stage::$struct {
            fn $into(self) -> $role {
                $role::$case(self)
            }
        })+
    };
}

kinds!(Source as SourceKind by into_source {
    Generator => Generator, Stdin => Stdin, FileSource => File, HostMetrics => HostMetrics, Prometheus => Prometheus,
    Http => Http, DnpipeSource => Dnpipe,
});

kinds!(Process as ProcessKind by into_process {
    Filter => Filter, Map => Map, Set => Set, Unset => Unset, Rename => Rename, Split => Split, Merge => Merge,
    Dedupe => Dedupe, Sample => Sample, Throttle => Throttle, Batch => Batch, Window => Window, Threshold => Threshold,
    Parse => Parse, Encode => Encode,
});

kinds!(Sink as SinkKind by into_sink {
    Console => Console, FileSink => File, Webhook => Webhook, Alertmanager => Alertmanager, DnpipeSink => Dnpipe,
    Blackhole => Blackhole,
});
