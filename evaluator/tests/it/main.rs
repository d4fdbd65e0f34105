//! The crate against the outside: golden values of trusted peers, SQL scripts, whole windows.

mod golden;
mod rows;
mod slt;
mod window;
