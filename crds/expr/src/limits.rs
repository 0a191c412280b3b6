//! What one expression may cost, gathered here with the reasons.

/// Bytes of source. A condition that is longer is data, and belongs in a file or a stage of its own.
pub(crate) const SOURCE_BYTES_MAX: usize = 4096;

/// Bytes of the source that may begin an operator, an index, a call or a bracket. Each may add a level to the tree, and
/// the cel crate's parser recurses over levels: [`PARSER_STACK_BYTES`] is measured against this (30 KiB a level, unoptimised).
pub(crate) const OPERATORS_MAX: usize = 1000;

/// Stack of the thread that parses: reserved, and touched only as deep as the source goes.
pub(crate) const PARSER_STACK_BYTES: usize = 64 << 20;

/// Levels of the tree. Evaluation recurses over them on a worker's stack of 2 MiB: 13 KiB a level unoptimised.
pub(crate) const DEPTH_MAX: usize = 48;

/// Levels of a tree that is not lowered: the interpreter takes up to 75 KiB a level unoptimised (5 KiB optimised).
pub(crate) const INTERPRETED_DEPTH_MAX: usize = 24;

/// Loops (`all`, `exists`, `map`, ...) inside one another.
pub(crate) const LOOPS_NESTED_MAX: usize = 4;

/// Units of work of one evaluation: a turn of a loop is one, and so is every [`UNIT_BYTES`] that is read or copied in a
/// loop. What loops cannot repeat is bounded by the length of the source and the size of the event. Reaching the limit
/// takes some 10 ms.
pub(crate) const WORK_MAX: u32 = 200_000;

/// Bytes read or copied for one unit of work.
pub(crate) const UNIT_BYTES: usize = 64;

/// Units a turn of a loop takes in the interpreter, which is slower and does not count what it reads.
pub(crate) const INTERPRETED_TURN: u32 = 20;

/// The work of reading so many bytes.
pub(crate) fn work(bytes: usize) -> u32 {
    u32::try_from(bytes / UNIT_BYTES).unwrap_or(u32::MAX)
}

const _: () = assert!(OPERATORS_MAX < SOURCE_BYTES_MAX && DEPTH_MAX < OPERATORS_MAX);
const _: () = assert!(INTERPRETED_DEPTH_MAX <= DEPTH_MAX && LOOPS_NESTED_MAX < INTERPRETED_DEPTH_MAX);
