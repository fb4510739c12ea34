//! The built `vt`, run as its users run it.

#[cfg(test)]
mod aws;
#[cfg(test)]
mod azul_models;
#[cfg(test)]
mod commands;
#[cfg(test)]
mod disk;
#[cfg(test)]
mod doors;
#[cfg(test)]
mod downloads;
#[cfg(test)]
mod dry;
#[cfg(test)]
mod hunts;
#[cfg(test)]
mod kills;
#[cfg(test)]
mod lambdas;
#[cfg(test)]
mod memory;
#[cfg(test)]
mod permissions;
#[cfg(test)]
mod processes;
#[cfg(test)]
mod pushes;
#[cfg(test)]
mod queries;
#[cfg(test)]
mod running;
#[cfg(test)]
mod secrets;
#[cfg(test)]
mod served;
#[cfg(test)]
mod serves;
#[cfg(test)]
mod users;
