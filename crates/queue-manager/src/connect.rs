//! From a configuration to connected providers: all of them, or none.

use std::sync::Arc;

use futures_util::future::join_all;
use queue_core::{
    Env, Error, ErrorCode, JobScheduler, QueueProvider, QueueSpec, Result,
    limit::LimitRule,
    provider::{ProviderUrl, Registry},
};

use crate::{
    config::{Config, ProviderName, at_key},
    routes::{Member, Routes, Rule},
    stores::{Stores, check_names_in_stores},
};

/// A provider that the program brought, and what it calls it.
pub(crate) type Brought = (ProviderName, Arc<dyn QueueProvider>);

/// What is given to each provider once it is connected.
pub(crate) struct Setup {
    pub(crate) specs: Vec<QueueSpec>,
    pub(crate) limits: Vec<LimitRule>,
}

/// Connects to every provider of the configuration that is not brought, and to none if one cannot be connected to. Those that
/// were brought are closed too where that fails.
pub(crate) async fn connect(
    config: &Config,
    brought: Vec<Brought>,
    registry: &Registry,
    env: &Env,
    setup: Setup,
) -> Result<Routes> {
    let wanted: Vec<_> = wanted(config, &brought);
    let mut members: Vec<Member> = Vec::new();
    for (name, provider) in brought {
        members.push(Member { name, scheduler: JobScheduler::with_env(provider, env.clone()), url: None });
    }
    let mut failed = None;
    match Stores::open(registry, &wanted, env).await {
        Ok(stores) => {
            let connected = wanted.into_iter().map(|(name, url)| connect_one(name, url, &stores, registry, env));
            for member in join_all(connected).await {
                match member {
                    Ok(member) => members.push(member),
                    Err(error) => failed = failed.or(Some(error)),
                }
            }
            // Those that nobody has a share of: closed here.
            stores.close().await;
        }
        Err(error) => failed = Some(error),
    }
    // The default one first, then by name.
    members.sort_by_key(|member| (member.name.as_str() != ProviderName::DEFAULT, member.name.clone()));
    let routes = match failed {
        Some(error) => Err((members, error)),
        None => Ok(routed(config, members, env)),
    };
    let (members, error) = match routes {
        Ok(routes) => match set_up_all(&routes, setup).await {
            Ok(()) => return Ok(routes),
            Err(error) => (routes.into_members(), error),
        },
        Err(failed) => failed,
    };
    // What went wrong first matters more than how the closing went.
    let _ = join_all(members.iter().map(|member| member.scheduler.close())).await;
    Err(error)
}

/// Which providers are to be connected to, and where they are. The one called `default` is left out where nothing leads to it:
/// it would be a store that nobody asked for.
fn wanted(config: &Config, brought: &[Brought]) -> Vec<(ProviderName, ProviderUrl)> {
    let default = ProviderName::default();
    let leads = config.routing.default.as_ref() == Some(&default)
        || config.routes.values().any(|route| route.provider == default);
    let first = leads.then(|| (default, config.provider.url.clone()));
    let named = config.providers.iter().filter_map(|(name, provider)| Some((name.clone(), provider.url.clone()?)));
    let is_new = |(name, _): &(ProviderName, ProviderUrl)| brought.iter().all(|(brought, _)| brought != name);
    first.into_iter().chain(named).filter(is_new).collect()
}

fn routed(config: &Config, members: Vec<Member>, env: &Env) -> Routes {
    let place = |name: &ProviderName| members.iter().position(|member| member.name == *name);
    let rules = Rule::all(config, place);
    let default = config.routing.default.as_ref().and_then(place);
    Routes::new(members, rules, default, env.clone())
}

async fn connect_one(
    name: ProviderName,
    url: ProviderUrl,
    stores: &Stores,
    registry: &Registry,
    env: &Env,
) -> Result<Member> {
    let connected = async {
        let share = registry.store_of(&url)?.map(|store| stores.share(&store)).transpose()?;
        registry.connect_with(&url, share, env).await
    };
    let provider = connected.await.map_err(|error| at_key(&name, error))?;
    Ok(Member { name, scheduler: JobScheduler::with_env(provider, env.clone()), url: Some(url) })
}

async fn set_up_all(routes: &Routes, setup: Setup) -> Result<()> {
    check_names_in_stores(routes)?;
    set_up(routes, setup).await
}

async fn set_up(routes: &Routes, setup: Setup) -> Result<()> {
    for member in routes.members() {
        for rule in &setup.limits {
            member.scheduler.limit(rule.clone())?;
        }
    }
    for spec in setup.specs {
        for member in routes.places(&spec.name)? {
            member.scheduler.declare(spec.clone()).await?;
        }
    }
    Ok(())
}

/// Two providers of one name, brought by the program.
pub(crate) fn check_names(brought: &[Brought]) -> Result<()> {
    let twice =
        brought.iter().enumerate().find(|(index, (name, _))| brought[..*index].iter().any(|(other, _)| other == name));
    match twice {
        None => Ok(()),
        Some((_, (name, _))) => {
            let message = format!("`providers.{name}`: the program brings two providers of this name");
            Err(Error::new(ErrorCode::Config, message).at("connect"))
        }
    }
}
