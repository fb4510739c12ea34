//! The job of `query`: binaries that Azul got elsewhere are looked up in VirusTotal, and what is known there
//! goes back to Azul.

pub mod answer;
pub mod wanted;
