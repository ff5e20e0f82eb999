//! The repositories of the pretend Bitbucket, as far as access to them goes.
//!
//! Owns: repositories and who may do what with them.
//! Must not know: their contents; there are none.

use super::{Unknown, World};
use crate::mint::uuid_of;

/// A repository.
#[derive(Clone, Debug)]
pub struct Repository {
    /// `{…}` with the braces.
    pub uuid: String,
    /// The workspace's uuid.
    pub workspace: String,
    /// The short name.
    pub slug: String,
}

/// What a user may do with a repository.
#[derive(Clone, Debug)]
pub struct RepositoryPermission {
    /// The user's id.
    pub user: String,
    /// The repository's uuid.
    pub repository: String,
    /// `admin`, `write` or `read`.
    pub permission: String,
}

impl World {
    /// Founds a repository that nobody may use yet.
    ///
    /// # Errors
    /// [`Unknown::Workspace`].
    pub fn add_repository(&mut self, workspace: &str, slug: &str) -> Result<(), Unknown> {
        let workspace = self.workspace(workspace)?.uuid.clone();
        if !self.repositories.iter().any(|known| known.workspace == workspace && known.slug == slug) {
            let uuid = uuid_of(&format!("repository {workspace} {slug}"));
            self.repositories.push(Repository { uuid, workspace, slug: slug.to_owned() });
        }
        Ok(())
    }

    /// Every repository.
    pub fn repositories(&self) -> &[Repository] {
        &self.repositories
    }

    /// Lets a user do something with a repository, named as `acme/api`; `None` takes it away.
    ///
    /// # Errors
    /// [`Unknown::User`], [`Unknown::Repository`].
    pub fn set_repository_permission(
        &mut self,
        user: &str,
        full_name: &str,
        permission: Option<&str>,
    ) -> Result<(), Unknown> {
        let user = self.user(user)?.id.clone();
        let known = full_name.split_once('/').and_then(|(workspace, slug)| {
            let workspace = &self.workspace(workspace).ok()?.uuid;
            self.repositories.iter().find(|known| known.workspace == *workspace && known.slug == slug)
        });
        let repository = known.ok_or_else(|| Unknown::Repository(full_name.to_owned()))?.uuid.clone();
        self.repository_permissions.retain(|given| given.user != user || given.repository != repository);
        if let Some(permission) = permission {
            let permission = permission.to_owned();
            self.repository_permissions.push(RepositoryPermission { user, repository, permission });
        }
        Ok(())
    }

    /// Another repository takes the name of one, as when a workspace's slug has changed hands. Nobody may use it yet.
    ///
    /// # Errors
    /// [`Unknown::Repository`].
    pub fn replace_repository(&mut self, full_name: &str) -> Result<(), Unknown> {
        let named = full_name.split_once('/').and_then(|(workspace, slug)| {
            let workspace = self.workspace(workspace).ok()?.uuid.clone();
            self.repositories.iter_mut().find(|known| known.workspace == workspace && known.slug == slug)
        });
        let repository = named.ok_or_else(|| Unknown::Repository(full_name.to_owned()))?;
        let old = std::mem::take(&mut repository.uuid);
        repository.uuid = uuid_of(&format!("another {old}"));
        self.repository_permissions.retain(|given| given.repository != old);
        Ok(())
    }

    /// What a user may do in a workspace (by uuid), repository by repository.
    pub(crate) fn repository_access(&self, user: &str, workspace: &str) -> Vec<(&Repository, &str)> {
        let in_workspace = self.repositories.iter().filter(|repository| repository.workspace == workspace);
        in_workspace
            .filter_map(|repository| {
                let mut given = self.repository_permissions.iter();
                let given = given.find(|given| given.user == user && given.repository == repository.uuid)?;
                Some((repository, given.permission.as_str()))
            })
            .collect()
    }

    pub(super) fn drop_repository_access(&mut self, user: &str, workspace: &str) {
        let repositories = &self.repositories;
        self.repository_permissions.retain(|given| {
            given.user != user
                || !repositories.iter().any(|r| r.uuid == given.repository && r.workspace == workspace)
        });
    }

    pub(super) fn drop_repositories(&mut self, workspace: &str) {
        self.repositories.retain(|repository| repository.workspace != workspace);
        let left = &self.repositories;
        self.repository_permissions.retain(|given| left.iter().any(|r| r.uuid == given.repository));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn access_is_given_and_taken_and_leaves_with_the_member() -> Result<(), Unknown> {
        let mut world = World::example();
        let acme = world.workspace("acme")?.uuid.clone();
        let access = |world: &World| -> Vec<String> {
            let list = world.repository_access("ben", &acme);
            list.iter().map(|(repository, may)| format!("{} {may}", repository.slug)).collect()
        };
        assert_eq!(access(&world), ["api write", "docs read"]);
        world.set_repository_permission("ben", "acme/docs", None)?;
        world.set_repository_permission("ben", "acme/api", Some("admin"))?;
        assert_eq!(access(&world), ["api admin"]);
        world.remove_member("ben", "acme")?;
        assert!(access(&world).is_empty());
        assert!(matches!(
            world.set_repository_permission("ben", "acme/none", None),
            Err(Unknown::Repository(_))
        ));
        Ok(())
    }
}
