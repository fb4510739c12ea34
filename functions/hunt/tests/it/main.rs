//! Livehunt between a stand-in of VirusTotal and one of the dispatcher, over HTTP.

#[cfg(test)]
mod answers;
#[cfg(test)]
mod hits;
#[cfg(test)]
mod world;
