//! The scripts of the limiter, each with what all of them begin with.

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
    ACQUIRE = "acquire.lua";
    RENEW = "renew.lua";
    RELEASE = "release.lua";
    ROOM = "room.lua";
}
