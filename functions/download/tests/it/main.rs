//! Downloads between a stand-in of VirusTotal and one of the dispatcher, over HTTP.

#[cfg(test)]
mod captures;
#[cfg(test)]
mod fetching;
#[cfg(test)]
mod quotas;
#[cfg(test)]
mod requests;
#[cfg(test)]
mod world;
