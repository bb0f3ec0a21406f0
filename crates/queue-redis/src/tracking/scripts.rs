//! The scripts of tracked queues, each with what all of them begin with.

use std::sync::LazyLock;

use redis::Script;

use crate::scripts::on_clock;

/// `plain` is what comes before the prelude: it does all that is usual without it, and so without its cost.
macro_rules! scripts {
    ($($name:ident = $(plain $plain:literal,)? $file:literal;)*) => {
        $(pub(crate) static $name: LazyLock<Script> = LazyLock::new(|| {
            let text = concat!(
                $(include_str!(concat!("scripts/", $plain)), "\n",)?
                include_str!("scripts/prelude.lua"), "\n",
                include_str!(concat!("scripts/", $file)),
            );
            Script::new(&on_clock(text))
        });)*
    };
}

scripts! {
    STAGE = "stage.lua";
    CONFIRM = "confirm.lua";
    UNSTAGE = "unstage.lua";
    REFUSE = "refuse.lua";
    CLAIM = plain "claim_plain.lua", "claim.lua";
    BEAT = "beat.lua";
    SETTLE = plain "settle_plain.lua", "settle.lua";
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
