//! What sources cost by themselves: `cargo bench -p sidestream-connector`.
//!
//! Events are dropped as they come; memory goes back to the pool, as it does in a pipeline.

use std::{fs, sync::Arc, thread};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sidestream_connector::{Environment, Origin, Secrets, Sink, Source, Stop, build, intake};
use sidestream_event::{Batch, Mark, Pool, Timestamp};
use sidestream_host::{Clock, Moment};
use sidestream_plan::{self as plan, stage};
use sidestream_ring::channel::channel_by;

fn env() -> Environment {
    Environment {
        pipeline: "bench/sources".into(),
        clock: Clock::machine(),
        secrets: Secrets::default(),
        dnpipes: None,
        exactly_once: None,
        compile: Arc::new(|_| Err("no expression is needed".into())),
    }
}

fn generator(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("generator");
    group.throughput(Throughput::Elements(512));
    let stage = stage::Generator { keys: Some(1000), ..Default::default() };
    let Ok(Source::Polled(mut source)) = build::source(&plan::Source::Generator(stage), &env()) else {
        return;
    };
    let mut batch = Batch::default();
    group.bench_function("fill a batch of 512", |bencher| {
        bencher.iter(|| {
            batch.finish();
            source.fill(&mut batch, 512, Moment::default(), Timestamp::default())
        });
    });
    group.finish();
}

fn file(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("file source");
    group.sample_size(10);
    let folder = tempfile::tempdir().unwrap();
    for width in [100, 1000] {
        let path = folder.path().join(format!("{width}.log"));
        let line = "x".repeat(width - 1) + "\n";
        fs::write(&path, line.repeat((128 << 20) / width)).unwrap();
        group.throughput(Throughput::Bytes(fs::metadata(&path).unwrap().len()));
        let stage = stage::FileSource {
            paths: vec![path.to_str().unwrap().into()],
            read_from: None,
            checkpoint: None,
            follow: Some(false),
            max_line: None,
        };
        group.bench_function(format!("128 MiB of lines of {width} bytes"), |bencher| {
            bencher.iter(|| read_all(stage.clone()));
        });
    }
    group.finish();
}

fn read_all(stage: stage::FileSource) -> usize {
    let Ok(Source::Blocking(mut source)) = build::source(&plan::Source::File(stage), &env()) else {
        return 0;
    };
    let (sender, mut batches) = channel_by(64, 1 << 14, Batch::len);
    let (_keep, stop) = Stop::new();
    let (clock, pool) = (Clock::machine(), Arc::new(Pool::new(64)));
    let mut intake = intake(sender, Origin::new("file", clock.clone()), pool.clone(), clock, stop);
    let reader = thread::spawn(move || source.run(&mut intake).unwrap());
    let mut count = 0;
    loop {
        match batches.try_recv() {
            Some(batch) => {
                count += batch.len();
                pool.give(batch);
            }
            None if batches.is_closed() && batches.is_empty() => break,
            None => thread::yield_now(),
        }
    }
    reader.join().unwrap();
    count
}

fn file_sink(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("file sink");
    group.throughput(Throughput::Elements(512));
    let stage = stage::FileSink { path: "/dev/null".into(), rotate_at: None, keep: None, sync: None };
    let Ok(Sink::Blocking(mut sink)) = build::sink(&plan::Sink::File(stage), &env()) else { return };
    let Ok(Source::Polled(mut source)) = build::source(&plan::Source::Generator(Default::default()), &env())
    else {
        return;
    };
    let mut batch = Batch::new(Mark::none());
    source.fill(&mut batch, 512, Moment::default(), Timestamp::default());
    group.bench_function("write a batch of 512 as JSON", |bencher| bencher.iter(|| sink.deliver(&batch)));
    group.finish();
}

criterion_group!(benches, generator, file, file_sink);
criterion_main!(benches);
