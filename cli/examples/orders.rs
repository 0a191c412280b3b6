//! A graph in code: orders are pushed in, a processor of this program adds a discount, large ones are printed.
//!
//! `cargo run -p sidestream --example orders`

use std::{error::Error, time::Duration};

use sidestream::{
    Batch, Event, Flow, Output, Pipeline, Processor, Sidecar, SidecarConfig, Value,
    stage::{Console, Filter},
};

/// Ten percent off for every third order.
#[derive(Default)]
struct Discount {
    seen: u64,
}

impl Processor for Discount {
    fn process(&mut self, batch: &mut Batch, _: &mut Output) -> Flow {
        for event in batch.events_mut() {
            self.seen += 1;
            let Value::Map(order) = &mut event.body else { continue };
            let total = order.get("total").and_then(Value::as_f64).unwrap_or_default();
            order.insert("discount", if self.seen.is_multiple_of(3) { total * 0.1 } else { 0.0 });
        }
        Flow::Continue
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let sidecar = Sidecar::start(SidecarConfig::default())?;
    let running = Pipeline::new("orders")
        .push("orders")
        .process("large", Filter { keep: "event.total >= 50".into() })
        .processor("discount", Discount::default())
        .sink("show", Console::default())
        .start(&sidecar)?;

    let door = running.door("orders")?;
    sidecar.world().sockets().block_on(async {
        for total in [20, 80, 120, 60, 10, 200] {
            // Resolves when the console has it, or when the filter said no.
            door.push(Event::new([("total", total)].into_iter().collect::<Value>())).await?;
        }
        Ok::<_, sidestream::PushError>(())
    })?;

    let drained = running.drain(Duration::from_secs(5));
    println!("accepted {}, completed {}", drained.ledger.accepted, drained.ledger.completed);
    Ok(())
}
