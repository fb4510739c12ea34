//! The local family.
