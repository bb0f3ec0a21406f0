//! A layer with named defects.
