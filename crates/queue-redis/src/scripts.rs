//! The scripts that change everything, each with what all of them begin with.

use std::sync::LazyLock;

use redis::Script;

/// `flags` make the first line of the text, as Redis reads them there; `plain` is what comes before the prelude: it does all that is usual
/// without it, and so without its cost.
macro_rules! scripts {
    ($($name:ident = $(flags $flags:literal,)? $(plain $plain:literal,)? $file:literal;)*) => {
        $(pub(crate) static $name: LazyLock<Script> = LazyLock::new(|| {
            Script::new(concat!(
                $("#!lua flags=", $flags, "\n",)?
                $(include_str!(concat!("scripts/", $plain)), "\n",)?
                include_str!("scripts/prelude.lua"), "\n",
                include_str!(concat!("scripts/", $file)),
            ))
        });)*
    };
}

scripts! {
    PUBLISH = plain "publish_plain.lua", "publish.lua";
    // A full server finishes jobs all the same.
    CLAIM = flags "allow-oom", plain "claim_plain.lua", "claim.lua";
    SETTLE = flags "allow-oom,allow-cross-slot-keys", plain "settle_plain.lua", "settle.lua";
    BEAT = flags "allow-oom", "beat.lua";
    CANCEL = flags "allow-oom", "cancel.lua";
    UNPARK = flags "allow-oom", "unpark.lua";
    TICK = flags "allow-oom", "tick.lua";
    LOOK = "look.lua";
    LIVE = "live.lua";
    OLDEST = "oldest.lua";
    REDRIVE = "redrive.lua";
    BURY = flags "allow-oom", "bury.lua";
    PURGE = flags "allow-oom", "purge.lua";
    CONTROL = flags "allow-oom", "control.lua";
    SWITCH = flags "allow-oom", "switch.lua";
    DROP = flags "allow-oom", "drop.lua";
    INDEX = flags "allow-oom", "index.lua";
    MEND = flags "allow-oom", "mend.lua";
}

/// The one that makes a queue.
pub(crate) static DECLARE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/declare.lua")));

/// The one that makes another shard of it.
pub(crate) static COPY: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/copy.lua")));

/// The one that needs no queue.
pub(crate) static LEAD: LazyLock<Script> =
    LazyLock::new(|| Script::new(concat!("#!lua flags=allow-oom\n", include_str!("scripts/lead.lua"))));

/// As it is run: by the server's clock. Tests of this crate may stand that clock still, by a key of the script's own.
pub(crate) fn on_clock(script: &str) -> std::borrow::Cow<'_, str> {
    if !cfg!(test) {
        return script.into();
    }
    const CLOCK: &str = "local clock = call('TIME')";
    const SET: &str = "local clock = call('TIME')\nlocal set = call('GET', 'test:clock')\n\
        if set then clock = { math.floor(set / 1000000), set % 1000000 } end";
    script.replace(CLOCK, SET).into()
}
