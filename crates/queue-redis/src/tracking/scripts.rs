//! The scripts of tracked queues, each with what all of them begin with.

use std::sync::LazyLock;

use redis::Script;

use crate::scripts::on_clock;

macro_rules! scripts {
    ($($name:ident = $file:literal;)*) => {
        $(pub(crate) static $name: LazyLock<Script> = LazyLock::new(|| {
            let text = concat!(include_str!("scripts/prelude.lua"), "\n", include_str!(concat!("scripts/", $file)));
            Script::new(&on_clock(text))
        });)*
    };
}

scripts! {
    STAGE = "stage.lua";
    CONFIRM = "confirm.lua";
    UNSTAGE = "unstage.lua";
    REFUSE = "refuse.lua";
    CLAIM = "claim.lua";
    BEAT = "beat.lua";
    SETTLE = "settle.lua";
    FOLLOW = "follow.lua";
    DUE = "due.lua";
    SILENT = "silent.lua";
    UNPARK = "unpark.lua";
    REDRIVE = "redrive.lua";
    CANCEL = "cancel.lua";
    LOOK = "look.lua";
    FORGET = "forget.lua";
    EVICT = "evict.lua";
    STATS = "stats.lua";
    CONTROL = "control.lua";
    DROP = "drop.lua";
    MEND = "mend.lua";
}

/// The one that needs no queue.
pub(crate) static NUMBER: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/number.lua")));
