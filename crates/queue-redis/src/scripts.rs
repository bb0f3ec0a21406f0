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

/// As it is run: by the server's clock. Tests of this crate may stand that clock still, by a key of the script's own.
pub(crate) fn on_clock(script: &str) -> std::borrow::Cow<'_, str> {
    if !cfg!(test) {
        return script.into();
    }
    const CLOCK: &str = "local clock = call('TIME')";
    const SET: &str = "local clock = call('TIME')\nlocal set = call('GET', 'test:clock')\n\
        if set then clock = { math.floor(set / 1000000), set % 1000000 } end";
    script.replacen(CLOCK, SET, 1).into()
}
