//! A job as the application's own type.

use serde::{Serialize, de::DeserializeOwned};
use validator::{Validate, ValidationErrors, ValidationErrorsKind};

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

/// Which rules a job breaks, by field and rule: never the values, which may be secret.
pub(crate) fn broken_rules(errors: &ValidationErrors) -> String {
    format!("the job breaks its own rules: {}", rules(errors))
}

/// The broken rules alone.
pub(crate) fn rules(errors: &ValidationErrors) -> String {
    let mut rules = Vec::new();
    collect(errors, "", &mut rules);
    rules.sort_unstable();
    rules.join(", ")
}

fn collect(errors: &ValidationErrors, place: &str, rules: &mut Vec<String>) {
    for (field, kind) in errors.errors() {
        let field = if place.is_empty() { field.to_string() } else { format!("{place}.{field}") };
        match kind {
            ValidationErrorsKind::Field(broken) => {
                rules.extend(broken.iter().map(|error| format!("{field} ({})", error.code)));
            }
            ValidationErrorsKind::Struct(inner) => collect(inner, &field, rules),
            ValidationErrorsKind::List(items) => {
                for (index, inner) in items {
                    collect(inner, &format!("{field}[{index}]"), rules);
                }
            }
        }
    }
}

/// Why JSON does not fit a type: where, never what stands there.
pub(crate) fn misfit(error: &serde_json::Error) -> String {
    let what = match error.classify() {
        serde_json::error::Category::Syntax => "it is not JSON",
        serde_json::error::Category::Eof => "it ends too early",
        serde_json::error::Category::Data | serde_json::error::Category::Io => "it does not fit the type",
    };
    format!("{what} (line {}, column {})", error.line(), error.column())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Serialize, Deserialize, Validate)]
    struct Account {
        #[validate(email)]
        to: String,
        #[validate(nested)]
        card: Card,
    }

    #[derive(Serialize, Deserialize, Validate)]
    struct Card {
        #[validate(length(min = 16))]
        number: String,
    }

    #[test]
    fn messages_name_fields_and_rules_but_no_values() {
        let account = Account { to: "hunter2".into(), card: Card { number: "4111".into() } };
        let rules = broken_rules(&account.validate().unwrap_err());
        assert_eq!(rules, "the job breaks its own rules: card.number (length), to (email)");
        let error = serde_json::from_str::<Account>(r#"{"to":"a@b.c","card":"hunter2"}"#).err().unwrap();
        assert_eq!(misfit(&error), "it does not fit the type (line 1, column 30)");
    }
}
