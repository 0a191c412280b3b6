//! The command line, and graphs built in code.
