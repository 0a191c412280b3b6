//! The behaviours, a file for each kind of promise.

pub mod conditions;
pub mod crashes;
pub mod groups;
pub mod musts;
pub mod order;
pub mod places;
pub mod resets;

use std::time::Duration;

use crate::{Client, From, Pulled, Push, Pushed};

/// Long enough for whatever is to come.
const SOON: Duration = Duration::from_secs(20);
/// Not at all.
const NOW: Duration = Duration::ZERO;
/// The dnpipe that most behaviours are about.
const ORDERS: &str = "orders";

async fn push(client: &impl Client, value: impl ToString) -> Pushed {
    client.push(Push::one(ORDERS, value)).await.expect("a push to a dnpipe with room")
}

/// All there is.
async fn pull_all(client: &impl Client) -> Pulled {
    client.pull(ORDERS, 0, From::First(0), u64::MAX, NOW).await.expect("a pull from the oldest record on")
}
