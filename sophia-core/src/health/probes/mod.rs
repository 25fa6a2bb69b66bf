//! The probes that come with the engine.
//!
//! | asks | open |
//! |---|---|
//! | a URL, and reads what it says about itself | [`HttpProbe`] |
//! | whether a port accepts connections | [`TcpProbe`] |

mod address;
mod http;
mod tcp;

pub(super) use http::HttpClients;
pub use http::HttpProbe;
pub use tcp::TcpProbe;
