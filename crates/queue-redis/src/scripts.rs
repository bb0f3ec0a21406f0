//! The scripts that change everything, each with what all of them begin with.

use std::sync::LazyLock;

use redis::Script;

macro_rules! scripts {
    ($($name:ident = $file:literal;)*) => {
        $(pub(crate) static $name: LazyLock<Script> = LazyLock::new(|| {
            Script::new(concat!(include_str!("scripts/prelude.lua"), "\n", include_str!(concat!("scripts/", $file))))
        });)*
    };
}

scripts! {
    PUBLISH = "publish.lua";
    CLAIM = "claim.lua";
    SETTLE = "settle.lua";
    BEAT = "beat.lua";
    CANCEL = "cancel.lua";
    UNPARK = "unpark.lua";
    TICK = "tick.lua";
    LOOK = "look.lua";
    LIVE = "live.lua";
    OLDEST = "oldest.lua";
    REDRIVE = "redrive.lua";
    BURY = "bury.lua";
    PURGE = "purge.lua";
    CONTROL = "control.lua";
    DROP = "drop.lua";
}

/// The one that needs no queue.
pub(crate) static LEAD: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/lead.lua")));
