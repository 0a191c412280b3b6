//! The data plane: a plan becomes running stages.
