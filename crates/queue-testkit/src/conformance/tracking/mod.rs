//! The suite of [`queue_core::store::TrackingStore`].
