//! Feed minutes from a stand-in of VirusTotal to a stand-in of the dispatcher, over HTTP.

#[cfg(test)]
mod aws;
#[cfg(test)]
mod bad_answers;
#[cfg(test)]
mod clocks;
#[cfg(test)]
mod dispatcher_faults;
#[cfg(test)]
mod feed;
#[cfg(test)]
mod model;
#[cfg(test)]
mod virustotal_faults;
#[cfg(test)]
mod workers;
#[cfg(test)]
mod world;
