//! The probes that come with the engine.
//!
//! | asks | open |
//! |---|---|
//! | a URL, and reads what it says about itself | [`HttpProbe`] |
//! | whether a port accepts connections | [`TcpProbe`] |

mod http;
mod tcp;

pub use http::HttpProbe;
pub(super) use http::client;
pub use tcp::TcpProbe;
