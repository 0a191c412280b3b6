//! The `dnpipe` sink: a batch is delivered when all its records are as durable as the dnpipe says.
//!
//! A try pushes what the tries before have not got through, with the same numbers: what was stored and never answered is known
//! as a repeat. Each partition has a piece on its way at a time.

use sidestream_client::{Client, ClientError, DnpipeName, Refusal};
use sidestream_event::Batch;
use sidestream_host::Random;
use sidestream_plan::stage::DnpipeSink;
use tokio::task::JoinSet;

use super::{
    client, delivered, named,
    numbered::{Lane, Piece, Pieces},
};
use crate::{AsyncSink, BoxFuture, BuildError, Environment, Evaluate, Undelivered};

/// The sink.
pub(crate) struct Pushes {
    client: Client,
    dnpipe: DnpipeName,
    key: Option<Evaluate>,
    /// By partition, once it is known how many there are.
    lanes: Vec<Lane>,
    /// Where events without a key go: another partition for each batch.
    keyless: u32,
    /// What is left of the batch that is being delivered.
    in_hand: Option<Pieces>,
    random: Random,
}

/// What to do about a piece that was not taken.
enum Cure {
    /// The same later.
    Again,
    /// With other numbers.
    NewNumbers,
    /// The dnpipe is no longer what it was: look, and pack anew.
    LookAgain,
    /// Nothing.
    Refuse,
}

impl Pushes {
    /// The sink that `stage` describes.
    pub(crate) fn new(stage: &DnpipeSink, env: &Environment) -> Result<Self, BuildError> {
        let key = stage.key.as_ref().map(|key| (env.compile)(key)).transpose();
        let dnpipe = named(&stage.name, stage.namespace.as_deref(), env)?;
        Ok(Self {
            client: client(&dnpipe, stage.pool.as_deref(), env)?,
            dnpipe,
            key: key.map_err(|reason| BuildError { field: "key", reason })?,
            lanes: Vec::new(),
            keyless: 0,
            in_hand: None,
            random: Random::from_entropy(),
        })
    }

    async fn look(&mut self) -> Result<(), ClientError> {
        if self.lanes.is_empty() {
            let found = self.client.describe(&self.dnpipe.to_string()).await?;
            self.lanes = found.partitions.iter().map(|_| Lane::new(&mut self.random)).collect();
            self.keyless = self.random.below(found.partitions.len().max(1) as u64) as u32;
        }
        Ok(())
    }

    /// Pushes the first piece of each partition. Why not all were taken, where that is so.
    async fn push(&mut self, pieces: &mut Pieces) -> Result<(), ClientError> {
        let mut pushing = JoinSet::new();
        let mut taken: Vec<Option<Piece>> = Vec::new();
        let (mut first, mut later) = (Vec::new(), Vec::new());
        for piece in pieces.left.drain(..) {
            let has_one = first.iter().any(|own: &Piece| own.partition == piece.partition);
            if has_one { &mut later } else { &mut first }.push(piece);
        }
        for (index, mut piece) in first.into_iter().enumerate() {
            let batch = piece.numbered(&mut self.lanes[piece.partition as usize]);
            let (client, dnpipe, partition) = (self.client.clone(), self.dnpipe.clone(), piece.partition);
            pushing.spawn(async move {
                let outcome = match batch {
                    Ok(batch) => client.push_batch(&dnpipe, partition, batch).await.map(drop),
                    Err(error) => Err(error.into()),
                };
                (index, outcome)
            });
            taken.push(Some(piece));
        }
        let mut failed = None;
        let mut not_taken = Vec::new();
        while let Some(pushed) = pushing.join_next().await {
            let Ok((index, outcome)) = pushed else { continue };
            let (Some(mut piece), Err(error)) = (taken[index].take(), outcome) else { continue };
            match cure(&error) {
                Cure::Refuse => {
                    // It took no numbers.
                    self.lanes[piece.partition as usize] = Lane::new(&mut self.random);
                    pieces.refuse(piece, &error.to_string());
                    continue;
                }
                Cure::NewNumbers => {
                    self.lanes[piece.partition as usize] = Lane::new(&mut self.random);
                    piece.unnumber();
                }
                Cure::LookAgain => self.lanes.clear(),
                Cure::Again => {}
            }
            not_taken.push(piece);
            failed = Some(error);
            if self.lanes.is_empty() {
                break;
            }
        }
        // A push that did not come to its end is in no list, and neither known to be taken.
        not_taken.extend(taken.into_iter().flatten());
        not_taken.append(&mut later);
        pieces.left = not_taken;
        failed.map_or(Ok(()), Err)
    }

    async fn deliver_all(&mut self, batch: &Batch) -> Result<Vec<(usize, String)>, ClientError> {
        self.look().await?;
        let mut pieces = match self.in_hand.take() {
            Some(pieces) => pieces,
            None => {
                let partitions = self.lanes.len() as u32;
                self.keyless = (self.keyless + 1) % partitions.max(1);
                Pieces::pack(batch.events(), self.key.as_ref(), partitions, self.keyless)
            }
        };
        while !pieces.left.is_empty() {
            if let Err(error) = self.push(&mut pieces).await {
                self.in_hand = (!self.lanes.is_empty()).then_some(pieces);
                return Err(error);
            }
        }
        Ok(pieces.refused)
    }
}

impl AsyncSink for Pushes {
    fn deliver<'a>(&'a mut self, batch: &'a Batch) -> BoxFuture<'a, Result<(), Undelivered>> {
        Box::pin(async move {
            let outcome = self.deliver_all(batch).await;
            delivered(&self.dnpipe, outcome)
        })
    }

    fn give_up(&mut self) {
        let left = self.in_hand.take().map(|pieces| pieces.left).unwrap_or_default();
        // Whether these were stored is not known: their numbers must not be those of others.
        for piece in left {
            self.lanes[piece.partition as usize] = Lane::new(&mut self.random);
        }
    }
}

fn cure(error: &ClientError) -> Cure {
    match error {
        ClientError::Refused(refusal) => match refusal {
            Refusal::OutOfSequence { .. } | Refusal::Fenced => Cure::NewNumbers,
            Refusal::UnknownPartition { .. } => Cure::LookAgain,
            Refusal::TooLarge { .. } | Refusal::BadBatch { .. } => Cure::Refuse,
            _ => Cure::Again,
        },
        ClientError::Record(_) => Cure::Refuse,
        _ => Cure::Again,
    }
}
