//! The room as its users see it, and under what disks do.

mod crash;
mod damage;
mod folder;
mod rig;
mod writing;

use super::*;
