//! Integration tests of the library: one binary, a module a subject.
