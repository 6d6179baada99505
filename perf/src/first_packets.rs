//! What a first packet costs, by how much is installed.
//!
//! A [`scenario`] says what is installed and which packets come; [`cost`] takes their time with
//! warm and with cold caches; [`install`] takes that of a whole [`cluster`], and [`join`] that of
//! one more address, with a [`datapath`] in this process; [`room`] looks at memory.

pub mod cluster;
pub mod cost;
pub mod datapath;
pub mod install;
pub mod join;
pub mod record;
pub mod room;
pub mod scenario;
