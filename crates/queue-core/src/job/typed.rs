//! A job as the application's own type.

use serde::{Serialize, de::DeserializeOwned};
use validator::Validate;

/// A payload type with the kind it travels under and the queue it goes to.
///
/// ```
/// use queue_core::Job;
/// use serde::{Deserialize, Serialize};
/// use validator::Validate;
///
/// #[derive(Serialize, Deserialize, Validate)]
/// struct SendEmail {
///     #[validate(email)]
///     to: String,
/// }
///
/// impl Job for SendEmail {
///     const KIND: &'static str = "email.send";
///     const QUEUE: &'static str = "mail";
///     type Output = ();
/// }
/// ```
pub trait Job: Serialize + DeserializeOwned + Validate + Send + 'static {
    /// Names the handler. Keep it stable: jobs that wait carry it.
    const KIND: &'static str;
    /// Where it goes unless the submission says otherwise.
    const QUEUE: &'static str;
    /// What its handler returns, kept as the job's result.
    type Output: Serialize + DeserializeOwned + Send + 'static;
}
