//! The stages of a burst, in the order in which they run: free functions over the columns that they read and write.
//! None of them sends, waits, allocates or reads a clock.

pub mod echo;
pub mod icmp_error;
pub mod lookup;
pub mod neighbour;
pub mod parse;
pub mod reply;
pub mod tcp;

#[cfg(test)]
mod testing;

pub use echo::echo;
pub use icmp_error::icmp_error;
pub use lookup::lookup;
pub use neighbour::neighbour;
pub use parse::parse;
pub use reply::reply;
pub use tcp::tcp;
