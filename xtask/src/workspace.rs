//! What the workspace holds, as Cargo tells it.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use cargo_metadata::{CargoOpt, Metadata, MetadataCommand, Package, TargetKind};

/// The workspace this tool belongs to.
#[derive(Debug)]
pub(crate) struct Workspace {
    metadata: Metadata,
}

impl Workspace {
    /// Reads it. Cargo downloads what the lock file names and the cache lacks.
    pub(crate) fn load() -> Result<Self> {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        let mut command = MetadataCommand::new();
        command.manifest_path(manifest).features(CargoOpt::AllFeatures);
        Ok(Self { metadata: command.exec().context("`cargo metadata` failed")? })
    }

    /// Its folder.
    pub(crate) fn root(&self) -> PathBuf {
        self.metadata.workspace_root.clone().into_std_path_buf()
    }

    /// Where builds go.
    pub(crate) fn target(&self) -> PathBuf {
        self.metadata.target_directory.clone().into_std_path_buf()
    }

    /// Everything Cargo resolved.
    pub(crate) fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Its own packages, by name.
    pub(crate) fn members(&self) -> Vec<&Package> {
        let mut members = self.metadata.workspace_packages();
        members.sort_by(|a, b| a.name.cmp(&b.name));
        members
    }

    /// Whether there is a package of this name.
    pub(crate) fn has(&self, package: &str) -> bool {
        self.members().iter().any(|member| member.name.as_str() == package)
    }

    /// Package and target names of a kind, by package.
    pub(crate) fn targets(&self, kind: &TargetKind) -> Vec<(String, String)> {
        let of = |member: &Package| {
            let targets = member.targets.iter().filter(|target| target.kind.contains(kind));
            targets.map(|target| (member.name.to_string(), target.name.clone())).collect::<Vec<_>>()
        };
        self.members().into_iter().flat_map(of).collect()
    }
}
