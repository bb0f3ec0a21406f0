//! URLs, as far as this tool reads them.

/// The URL with what stands between the user's name and the `@` hidden, for showing.
pub(crate) fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    match authority.rsplit_once('@') {
        None => url.to_owned(),
        Some((user, host)) => {
            let user = user.split_once(':').map_or(user, |(user, _)| user);
            format!("{scheme}://{user}:***@{host}{path}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_hidden() {
        for (url, shown) in [
            ("redis://127.0.0.1:6379/", "redis://127.0.0.1:6379/"),
            ("redis://:s3cret@host:6379/0", "redis://:***@host:6379/0"),
            ("amqp://me:s@cret@host/%2f", "amqp://me:***@host/%2f"),
            ("kafka://one:9092,two:9092", "kafka://one:9092,two:9092"),
            ("host:1234", "host:1234"),
        ] {
            assert_eq!(without_password(url), shown);
        }
    }
}
