//! Sections of the configuration, declared once: the struct, its defaults, its documentation, and the reference.

/// One key, for the reference.
#[derive(Debug)]
pub(crate) struct Key {
    /// With its section: `worker.lease`.
    pub(crate) path: String,
    pub(crate) shape: &'static str,
    pub(crate) default: String,
    pub(crate) doc: String,
}

/// A part of the configuration that can list its keys.
pub(crate) trait Section {
    /// What the section is about.
    const ABOUT: &'static [&'static str];

    /// Its keys and those of the sections inside it, with this path before each.
    fn keys(path: &str) -> Vec<Key>;
}

/// Declares a section. Each field is one [`Value`](super::value::Value); those after `sections` are sections themselves,
/// those after `maps` sections by name, which check themselves and are listed on their own.
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
        $(maps {
            $($(#[doc = $map_doc:literal])* $map:ident: $map_key:ty => $map_type:ty,)*
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
                #[validate(nested)]
                pub $inner: $inner_type,
            )*)?
            $($(
                $(#[doc = $map_doc])*
                pub $map: std::collections::BTreeMap<$map_key, $map_type>,
            )*)?
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)* $($($inner: <$inner_type>::default(),)*)? $($($map: Default::default(),)*)? }
            }
        }

        impl $crate::config::section::Section for $name {
            const ABOUT: &'static [&'static str] = &[$($about),*];

            fn keys(path: &str) -> Vec<$crate::config::section::Key> {
                use $crate::config::value::Value;
                let default = Self::default();
                #[allow(unused_mut, reason = "not every section has sections")]
                let mut keys = vec![$(
                    $crate::config::section::Key {
                        path: format!("{path}.{}", stringify!($field)),
                        shape: <$type as Value>::SHAPE,
                        default: default.$field.show(),
                        doc: [$($doc),*].concat().trim().to_owned(),
                    },
                )*];
                $($(keys.extend(<$inner_type>::keys(&format!("{path}.{}", stringify!($inner))));)*)?
                keys
            }
        }
    };
}
pub(crate) use section;
