//! Look-ups between a stand-in of VirusTotal and one of the dispatcher, over HTTP.

#[cfg(test)]
mod lookups;
#[cfg(test)]
mod polls;
#[cfg(test)]
mod quota;
#[cfg(test)]
mod webhooks;
#[cfg(test)]
mod world;
