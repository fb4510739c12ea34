//! Posted bodies on their way to a stand-in of the dispatcher.

#[cfg(test)]
mod posts;
#[cfg(test)]
mod uploads;
