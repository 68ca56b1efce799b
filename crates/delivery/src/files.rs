//! The file writer: keeps a workload's identity in files, for programs that only read files.
//!
//! It takes the place of spiffe-helper and reads its configuration. What it does otherwise:
//!
//! * a file is replaced and never overwritten, so that no reader sees half of it and a crash leaves the old one;
//! * the mode is exactly the one that is asked for, and is there before the content is;
//! * what is on disk already is not written again, and nobody is told of it;
//! * a failed write is repeated without waiting for the next renewal;
//! * a broken or silent agent changes nothing but what health and log say.
//!
//! * [`settings`] what is written where, and who is told
//! * [`source`]   the Workload API, asked again and again
//! * [`render`]   answers to contents of files
//! * [`folder`]   contents to disk
//! * [`program`]  the program that reads the files: started, signalled
//! * [`writer`]   the loop that joins them
//! * [`once`]     the same without a loop
//! * [`health`]   what is known of each file, as a page

pub mod arguments;
pub mod folder;
pub mod health;
pub mod once;
pub mod program;
pub mod render;
pub mod settings;
mod slot;
pub mod source;
pub mod writer;
