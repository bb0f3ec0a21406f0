//! Sections of the configuration, declared once: the struct, its defaults, its documentation, and the reference.

use queue_core::Result;

use super::origin::Origins;

/// One key, for the reference and for those who set it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Key {
    /// With its section: `worker.lease`; names that a user gives stand in it as `NAME`, `SCOPE` and so on.
    pub path: String,
    /// How its value is written.
    pub shape: &'static str,
    /// What it is if nobody says.
    pub default: String,
    /// What it means.
    pub doc: String,
}

/// A part of the configuration that can list its keys.
pub(crate) trait Section {
    /// What the section is about.
    const ABOUT: &'static [&'static str];

    /// Its keys and those of the sections inside it, with this path before each.
    fn keys(path: &str) -> Vec<Key>;

    /// What its keys are set to, and those of the sections inside it: as they would be written, without credentials.
    fn values(&self, path: &str) -> Vec<(String, String)>;

    /// Checks what types cannot.
    ///
    /// # Errors
    /// `CONFIG`, naming the key.
    fn check(&self, path: &str, origins: &Origins) -> Result<()>;
}

/// Declares a section. Each field is one [`Value`](super::value::Value); those after `sections` are sections themselves, those
/// after `named` hold a section for each name that a user gives, which the reference calls by the word after `as`.
macro_rules! section {
    (
        $(#[doc = $about:literal])*
        $name:ident {
            $(
                $(#[doc = $doc:literal])*
                $(#[validate($($rule:tt)*)])*
                $field:ident: $type:ty = $default:expr,
            )*
        }
        $(sections {
            $($(#[doc = $inner_doc:literal])* $inner:ident: $inner_type:ty,)*
        })?
        $(named {
            $($(#[doc = $named_doc:literal])* $named:ident: $named_key:ty => $named_type:ty as $word:literal,)*
        })?
    ) => {
        $(#[doc = $about])*
        #[derive(Debug, Clone, PartialEq, serde::Deserialize, validator::Validate)]
        #[serde(deny_unknown_fields, default)]
        #[non_exhaustive]
        pub struct $name {
            $(
                $(#[doc = $doc])*
                $(#[validate($($rule)*)])*
                #[serde(deserialize_with = "crate::config::value::deserialize")]
                pub $field: $type,
            )*
            $($(
                $(#[doc = $inner_doc])*
                pub $inner: $inner_type,
            )*)?
            $($(
                $(#[doc = $named_doc])*
                pub $named: std::collections::BTreeMap<$named_key, $named_type>,
            )*)?
        }

        impl Default for $name {
            fn default() -> Self {
                Self {
                    $($field: $default,)*
                    $($($inner: <$inner_type>::default(),)*)?
                    $($($named: std::collections::BTreeMap::new(),)*)?
                }
            }
        }

        impl $crate::config::section::Section for $name {
            const ABOUT: &'static [&'static str] = &[$($about),*];

            #[allow(unused_mut, unused_variables, reason = "not every section has keys or sections")]
            fn keys(path: &str) -> Vec<$crate::config::section::Key> {
                #[allow(unused_imports, reason = "not every section has keys")]
                use $crate::config::{origin::join, value::Value};
                let default = Self::default();
                let mut keys = vec![$(
                    $crate::config::section::Key {
                        path: join(path, stringify!($field)),
                        shape: <$type as Value>::SHAPE,
                        default: default.$field.show(),
                        doc: [$($doc),*].concat().trim().to_owned(),
                    },
                )*];
                $($(keys.extend(<$inner_type>::keys(&join(path, stringify!($inner))));)*)?
                $($(keys.extend(<$named_type>::keys(&join(&join(path, stringify!($named)), $word)));)*)?
                keys
            }

            #[allow(unused_mut, reason = "not every section has sections")]
            fn values(&self, path: &str) -> Vec<(String, String)> {
                #[allow(unused_imports, reason = "not every section has keys")]
                use $crate::config::{origin::join, value::Value};
                let mut values = vec![$((join(path, stringify!($field)), self.$field.show()),)*];
                $($(values.extend(self.$inner.values(&join(path, stringify!($inner))));)*)?
                $($(for (name, section) in &self.$named {
                    let path = join(&join(path, stringify!($named)), name.as_ref());
                    values.extend(section.values(&path));
                })*)?
                values
            }

            fn check(&self, path: &str, origins: &$crate::config::origin::Origins) -> queue_core::Result<()> {
                if let Err(errors) = validator::Validate::validate(self) {
                    return Err($crate::config::broken(path, &errors, origins));
                }
                #[allow(unused_imports, reason = "not every section has sections")]
                use $crate::config::origin::join;
                $($(self.$inner.check(&join(path, stringify!($inner)), origins)?;)*)?
                $($(for (name, section) in &self.$named {
                    section.check(&join(&join(path, stringify!($named)), name.as_ref()), origins)?;
                })*)?
                Ok(())
            }
        }
    };
}
pub(crate) use section;
