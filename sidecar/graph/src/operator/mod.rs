//! The built-in operators, a file each.
